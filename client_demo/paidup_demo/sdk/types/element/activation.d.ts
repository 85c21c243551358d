export type State = import("./words.js").State;
export type Words = import("./words.js").Words;
export type Mark = import("./words.js").Mark;
export type Step = import("./words.js").Step;
export type AllWords = import("./words.js").AllWords;
export type Activation = import("../paidup.js").Activation;
export type ActivationError = import("../paidup.js").ActivationError;
export type Options = import("../paidup.js").Options;
export type Stage = import("../paidup.js").Stage;
export type Status = import("../paidup.js").Status;
/** @typedef {import("./words.js").State} State */
/** @typedef {import("./words.js").Words} Words */
/** @typedef {import("./words.js").Mark} Mark */
/** @typedef {import("./words.js").Step} Step */
/** @typedef {import("./words.js").AllWords} AllWords */
/** @typedef {import("../paidup.js").Activation} Activation */
/** @typedef {import("../paidup.js").ActivationError} ActivationError */
/** @typedef {import("../paidup.js").Options} Options */
/** @typedef {import("../paidup.js").Stage} Stage */
/** @typedef {import("../paidup.js").Status} Status */
/** There is no HTMLElement in server-side rendering; the module can still be imported there. */
declare const Base: {
    new (): HTMLElement;
    prototype: HTMLElement;
};
/**
 * Events, each a CustomEvent with a `detail`, composed, not bubbling: `status` (Status), `stage` (Stage), `active`
 * (Status: the credits are there), `error` (ActivationError: final).
 */
export declare class PaidupActivation extends Base {
    #private;
    static observedAttributes: string[];
    /** For each request to the server, e.g. Authorization. @type {Options["headers"]} */
    headers: Options["headers"];
    /** Fetches new tickets in the page's own way. @type {Options["refreshTicket"]} */
    refreshTicket: Options["refreshTicket"];
    constructor();
    /** The newest status. @returns {Status|null} */
    get status(): Status | null;
    /** @returns {Stage} */
    get stage(): Stage;
    /** The Activation of paidup.js, once it is started. @returns {Activation|null} */
    get activation(): Activation | null;
    /** The page's own texts, which replace the English ones. @returns {Words} */
    get words(): Words;
    set words(words: Words);
    /** Verify again now; after a final error, start over. */
    verify(): void;
    /**
     * Call after Stripe.js has confirmed the payment.
     * @param {string} intent its PaymentIntent's status @param {number} [at] when, in ms since 1970; default: now
     */
    confirmed(intent: string, at?: number): void;
    /** Focus the current heading, so that a screen reader starts there. @param {FocusOptions} [options] */
    focus(options?: FocusOptions): void;
    connectedCallback(): void;
    disconnectedCallback(): void;
    /** @param {string} name @param {string|null} before @param {string|null} now */
    attributeChangedCallback(name: string, before: string | null, now: string | null): void;
}
export {};
