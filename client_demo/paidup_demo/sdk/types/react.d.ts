export type Activation = import("./paidup.js").Activation;
export type ActivationError = import("./paidup.js").ActivationError;
export type Connection = import("./paidup.js").Connection;
export type Options = import("./paidup.js").Options;
export type Stage = import("./paidup.js").Stage;
export type Status = import("./paidup.js").Status;
export type Watched = {
    stage: Stage;
    status: Status | null;
    connection: Connection;
    error: ActivationError | null;
    confirmed: (intent: string, at?: number) => void;
    verify: () => void;
};
/**
 * Watch one invoice while the component is mounted; nothing without options. Only a different `invoice` opens a new
 * connection; the other options are read when it is opened.
 * @param {Options|null|undefined} options @returns {Watched}
 */
export declare function useActivation(options: Options | null | undefined): Watched;
