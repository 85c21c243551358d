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
/** On a server, where pages are rendered, there are no elements: the module can be imported there all the same. */
declare const Base: {
    new (): HTMLElement;
    prototype: HTMLElement;
};
/**
 * Events, each a CustomEvent with a `detail`, composed, not bubbling: `status` (Status), `stage` (Stage), `active`
 * (Status: the credits are there), `error` (ActivationError: nothing follows).
 */
export declare class PaidupActivation extends Base {
    #private;
    static observedAttributes: string[];
    /** For each request to the server, e.g. Authorization. @type {Options["headers"]} */
    headers: Options["headers"];
    /** A road of the page's own to fresh tickets. @type {Options["refreshTicket"]} */
    refreshTicket: Options["refreshTicket"];
    constructor();
    /** The newest status heard. @returns {Status|null} */
    get status(): Status | null;
    /** @returns {Stage} */
    get stage(): Stage;
    /** The line itself, once it is open: see paidup.js. @returns {Activation|null} */
    get activation(): Activation | null;
    /** Words of the page's own, laid over the English ones. @returns {Words} */
    get words(): Words;
    set words(words: Words);
    /** Ask again, now; after a refusal, from the beginning. */
    verify(): void;
    /** Stripe.js has just confirmed the payment. @param {string} intent its PaymentIntent's status */
    confirmed(intent: string): void;
    /** The heading of the moment takes the focus, so that a screen reader begins there. @param {FocusOptions} [options] */
    focus(options?: FocusOptions): void;
    connectedCallback(): void;
    disconnectedCallback(): void;
    /** @param {string} name @param {string|null} before @param {string|null} now */
    attributeChangedCallback(name: string, before: string | null, now: string | null): void;
}
export {};
