export type Activation = import("./paidup.js").Activation;
export type ActivationError = import("./paidup.js").ActivationError;
export type CheckoutOptions = import("./paidup.js").CheckoutOptions;
export type CheckoutStatus = import("./paidup.js").CheckoutStatus;
export type Connection = import("./paidup.js").Connection;
export type Options = import("./paidup.js").Options;
export type Stage = import("./paidup.js").Stage;
export type Status = import("./paidup.js").Status;
export type Transport = import("./paidup.js").Transport;
export type Watched = {
    stage: Stage;
    status: Status | null;
    connection: Connection;
    transport: Transport | null;
    error: ActivationError | null;
    confirmed: (intent: string, at?: number) => void;
    verify: () => void;
};
export type CheckoutWatched = Omit<Watched, "status"> & {
    status: CheckoutStatus | null;
};
export declare function useActivation(options: Options | null | undefined): Watched;
export declare function useActivation(options: CheckoutOptions | null | undefined): CheckoutWatched;
