/**
 * Paidup's browser client: watches one invoice until its payment is settled, or the customer's balance.
 *
 * Owns the socket, its reconnections, the fallback to GET, and the stage a screen should show.
 * Refuses to decide anything about money: it names an invoice and repeats what the server says.
 *
 *     const activation = activate({ invoice, ticket });
 *     activation.addEventListener("stage", (event) => show(event.detail));
 *     const status = await activation.finished;
 *
 *     const watch = watchBalance();
 *     watch.addEventListener("balance", (event) => show(event.detail.balance));
 */
export type InvoiceStatus = "open" | "requires_action" | "processing" | "active" | "failed" | "void" | "reversed";
export type Stage = "waiting" | "verifying" | "action_required" | "processing" | "delayed" | "active" | "failed" | "void";
export type Connection = "connecting" | "open" | "waiting" | "polling" | "closed";
export type PaymentError = {
    code: string;
    decline_code?: string | null;
    message: string;
};
export type Status = {
    type: "status";
    invoice: string;
    version: number;
    status: InvoiceStatus;
    stage: Stage;
    plan: string | null;
    credits_granted: number;
    balance: number;
    via: "verification" | "webhook" | "reconciliation" | null;
    at: string;
    error: PaymentError | null;
};
export type Balance = {
    type: "balance";
    version: number;
    balance: number;
    at: string;
};
export type Seams = {
    WebSocket: new (url: string, protocols: string[]) => WebSocket;
    fetch: (url: string, init: RequestInit) => Promise<Response>;
    setTimeout: (run: () => void, ms: number) => number;
    clearTimeout: (id: number) => void;
    now: () => number;
    random: () => number;
    window: EventTarget;
    document: EventTarget & {
        visibilityState: string;
    };
};
export type LineOptions = {
    /**
     * for the first connection; each later one fetches its own
     */
    ticket?: string;
    /**
     * where Paidup's server is; default: this page's origin
     */
    baseUrl?: string;
    /**
     * instead of POST /api/invoices/{invoice}/ticket, or
     * /api/account/ticket; throw something with an HTTP `status` to say why not
     */
    refreshTicket?: () => Promise<string>;
    /**
     * e.g. Authorization
     */
    headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
    /**
     * the same as calling close()
     */
    signal?: AbortSignal;
    seams?: Partial<Seams>;
};
export type Options = LineOptions & {
    invoice: string;
};
export type Talk = {
    path: string;
    /**
     * the code of an error where the server knows no such thing
     */
    unknown: string;
    /**
     * a frame that is not the line's own business
     */
    hear: (message: any) => void;
    connected: (connection: Connection) => void;
    /**
     * nothing follows
     */
    refused: (error: ActivationError) => void;
    /**
     * by the signal
     */
    aborted: () => void;
    /**
     * the page is looked at again, and there is a socket
     */
    woken?: () => void;
    poll?: () => Promise<void>;
    /**
     * from now on it only polls
     */
    waitedTooLong?: () => void;
};
export type Teller<Events> = Omit<EventTarget, "addEventListener" | "removeEventListener"> & {
    addEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void, options?: AddEventListenerOptions | boolean): void;
    removeEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void, options?: EventListenerOptions | boolean): void;
};
export type ActivationEvents = {
    status: Status;
    stage: Stage;
    connection: Connection;
    error: ActivationError;
};
export type BalanceEvents = {
    balance: Balance;
    connection: Connection;
    error: ActivationError;
};
export type Ending = {
    opened: boolean;
    code: number;
    after: number | null;
    lived: number;
};
/**
 * Milliseconds before reconnection number `attempt` (from 0): full jitter under a ceiling of 0.5 s that doubles to 20 s.
 * @param {number} attempt @param {() => number} [random] from 0 up to 1
 */
export declare function backoff(attempt: number, random?: () => number): number;
/** Why watching has ended. `code`: aborted, unauthorized, forbidden, unknown_invoice, unknown_account, gone. */
export declare class ActivationError extends Error {
    code: string;
    status: number | undefined;
    /** @param {string} code @param {string} message @param {number} [status] the HTTP status, if one said so */
    constructor(code: string, message: string, status?: number);
}
/** Watch one invoice. @param {Options} options */
export declare function activate(options: Options): Activation;
/** Watch the balance of whomever the page's cookie, headers or ticket name. @param {LineOptions} [options] */
export declare function watchBalance(options?: LineOptions): BalanceWatch;
declare const Activation_base: new () => Teller<ActivationEvents>;
/**
 * One invoice being watched. Events, each a CustomEvent with a `detail`: `status` (Status), `stage` (Stage),
 * `connection` (Connection), `error` (ActivationError: final, nothing follows).
 * Also an async iterator of statuses: a reader slower than the server skips to the newest.
 */
export declare class Activation extends /** @type {new () => Teller<ActivationEvents>} */ /** @type {new () => Teller<ActivationEvents>} */ Activation_base {
    #private;
    /** The newest status heard. @type {Status|null} */
    status: Status | null;
    /** What the screen should show. @type {Stage} */
    stage: Stage;
    /** The terminal status; rejects with an ActivationError. @type {Promise<Status>} */
    finished: Promise<Status>;
    /** @param {Options} options */
    constructor(options: Options);
    get connection(): Connection;
    /** Ask the server to look at the payment again, now: after a second confirmation, or when the customer asks. */
    verify(): void;
    /**
     * Stripe.js has just confirmed the payment: a failure, or a check by the bank, that the server still tells of was
     * before. Asks like `verify`. `intent` is the PaymentIntent's status: one that has succeeded cannot fail any more.
     * @param {string} intent
     */
    confirmed(intent: string): void;
    /** Stop watching. `finished` rejects with the code "aborted", unless it is settled. */
    close(): void;
    [Symbol.asyncIterator](): AsyncGenerator<Status, undefined, unknown>;
}
declare const BalanceWatch_base: new () => Teller<BalanceEvents>;
/**
 * An account's balance being watched, until it is closed. Events, each a CustomEvent with a `detail`: `balance`
 * (Balance: at first as it is, then each change), `connection` (Connection), `error` (ActivationError: final).
 */
export declare class BalanceWatch extends /** @type {new () => Teller<BalanceEvents>} */ /** @type {new () => Teller<BalanceEvents>} */ BalanceWatch_base {
    #private;
    /** The newest heard. @type {Balance|null} */
    latest: Balance | null;
    /** @param {LineOptions} options */
    constructor(options: LineOptions);
    get connection(): Connection;
    /** Stop watching; nothing follows. */
    close(): void;
}
export {};
