/**
 * Paidup's browser client: watches one invoice or Checkout Session until its payment is settled, or the customer's balance.
 *
 * Handles the connection, reconnection, other transports where no WebSocket gets through (server-sent events, long polls,
 * GET), and the stage that a screen should show.
 * It makes no decisions about money: every status comes from the server.
 *
 *     const activation = activate({ invoice, ticket });
 *     activation.addEventListener("stage", (event) => show(event.detail));
 *     const status = await activation.finished;
 *
 *     const watch = watchBalance();
 *     watch.addEventListener("balance", (event) => show(event.detail.balance));
 */
export type InvoiceStatus = "open" | "requires_action" | "processing" | "active" | "failed" | "void" | "reversed";
export type Stage = "waiting" | "verifying" | "awaiting_payment" | "action_required" | "processing" | "delayed" | "provisioning" | "active" | "failed" | "void" | "unclaimed";
export type Connection = "connecting" | "open" | "waiting" | "polling" | "closed";
export type Transport = "websocket" | "sse" | "long_poll" | "poll";
export type PaymentError = {
    code: string;
    decline_code?: string | null;
    message: string;
};
export type ProcessingPayment = {
    method: string;
    name: string;
    since: string;
    expected_at: string;
    credits_on_trust: number;
    message: string;
    kind?: "debit" | "voucher";
    pay_by?: string | null;
    voucher_url?: string | null;
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
    via: "verification" | "webhook" | "reconciliation" | "operator" | null;
    at: string;
    error: PaymentError | null;
    checkout: string | null;
    processing?: ProcessingPayment | null;
    replaced_by: string | null;
    traceparent?: string;
    units_granted?: {
        [unit: string]: number;
    };
};
export type CheckoutStatus = Omit<Status, "invoice" | "balance" | "checkout" | "replaced_by" | "traceparent"> & {
    checkout: string;
    return_to: string | null;
};
export type Balance = {
    type: "balance";
    version: number;
    balance: number;
    held: number;
    at: string;
    units?: {
        [unit: string]: {
            balance: number;
            held: number;
        };
    };
};
export type FinalStatus = Status & {
    status: "active" | "void" | "reversed";
};
export type ErrorCode = "aborted" | "unauthorized" | "forbidden" | "unknown_invoice" | "unknown_checkout" | "unknown_account" | "gone";
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
    storage?: Pick<Storage, "getItem" | "setItem" | "removeItem">;
};
export type ConnectionOptions = {
    /**
     * for the first connection; later connections fetch their own
     */
    ticket?: string;
    /**
     * where Paidup's server is; default: this page's origin
     */
    baseUrl?: string;
    /**
     * instead of POST /api/invoices/{invoice}/ticket, or
     * /api/account/ticket; an error thrown with an HTTP `status` is treated as that response
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
export type Options = ConnectionOptions & {
    invoice: string;
};
export type CheckoutOptions = ConnectionOptions & {
    checkout: string;
};
export type Handlers = {
    path: string;
    /**
     * the error code for a 404
     */
    unknown: ErrorCode;
    /**
     * a message from the server, except `bye`
     */
    onMessage: (message: any) => void;
    /**
     * the newest message
     */
    latest: () => {
        version: number;
    } | null;
    onConnection: (connection: Connection) => void;
    onTransport: (transport: Transport) => void;
    /**
     * final error
     */
    onRefused: (error: ActivationError) => void;
    /**
     * the signal was aborted
     */
    onAborted: () => void;
    /**
     * the page became visible while a WebSocket is open
     */
    onWake?: () => void;
    /**
     * whether GET has the message
     */
    poll?: boolean;
    /**
     * from now on only polling is used
     */
    onWaitLimit?: () => void;
};
export type TypedEventTarget<Events> = Omit<EventTarget, "addEventListener" | "removeEventListener"> & {
    addEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void, options?: AddEventListenerOptions | boolean): void;
    removeEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void, options?: EventListenerOptions | boolean): void;
};
export type ActivationEvents = {
    status: Status;
    stage: Stage;
    connection: Connection;
    transport: Transport;
    error: ActivationError;
};
export type CheckoutEvents = Omit<ActivationEvents, "status"> & {
    status: CheckoutStatus;
};
export type CheckoutActivation = Pick<Activation, "stage" | "connection" | "transport" | "verify" | "confirmed" | "close" | "dispatchEvent"> & TypedEventTarget<CheckoutEvents> & {
    status: CheckoutStatus | null;
    finished: Promise<CheckoutStatus & {
        status: FinalStatus["status"];
    }>;
    [Symbol.asyncIterator](): AsyncGenerator<CheckoutStatus, undefined, unknown>;
};
export type BalanceEvents = {
    balance: Balance;
    connection: Connection;
    transport: Transport;
    error: ActivationError;
};
export type Ending = {
    opened: boolean;
    code: number;
    after: number | null;
    lived: number;
    blocked?: boolean;
    answered?: boolean;
};
/**
 * Milliseconds before reconnection number `attempt` (from 0): full jitter under a ceiling of 0.5 s that doubles to 20 s.
 * @param {number} attempt @param {() => number} [random] from 0 up to 1
 */
export declare function backoff(attempt: number, random?: () => number): number;
/** Why watching has ended: its `code` says it. */
export declare class ActivationError extends Error {
    code: ErrorCode;
    status: number | undefined;
    /** @param {ErrorCode} code @param {string} message @param {number} [status] the HTTP status, if one said so */
    constructor(code: ErrorCode, message: string, status?: number);
}
export declare function activate(options: Options): Activation;
export declare function activate(options: CheckoutOptions): CheckoutActivation;
/** Watch the balance of the customer identified by the page's cookie, headers or ticket. @param {ConnectionOptions} [options] */
export declare function watchBalance(options?: ConnectionOptions): BalanceWatch;
declare const Activation_base: new () => TypedEventTarget<ActivationEvents>;
/**
 * Follows one invoice or Checkout Session. Events, each a CustomEvent with a `detail`: `status` (Status), `stage` (Stage),
 * `connection` (Connection), `transport` (Transport), `error` (ActivationError: final, nothing follows).
 * Also an async iterator of statuses: a reader slower than the server skips to the newest.
 */
export declare class Activation extends /** @type {new () => TypedEventTarget<ActivationEvents>} */ /** @type {new () => TypedEventTarget<ActivationEvents>} */ Activation_base {
    #private;
    /** The newest status. @type {Status|null} */
    status: Status | null;
    /** What the screen should show. @type {Stage} */
    stage: Stage;
    /** The terminal status; rejects with an ActivationError. @type {Promise<FinalStatus>} */
    finished: Promise<FinalStatus>;
    /** @param {Options|CheckoutOptions} options */
    constructor(options: Options | CheckoutOptions);
    get connection(): Connection;
    /** How the last message came. @returns {Transport|null} */
    get transport(): Transport | null;
    /** Ask the server to verify the payment again now, e.g. when the customer presses a button. */
    verify(): void;
    /**
     * Call after Stripe.js has confirmed the payment: what the server still reports of an earlier attempt is older.
     * Also verifies. `intent` is the PaymentIntent's status; `succeeded` cannot fail any more.
     * @param {string} intent
     * @param {number} [at] when, in ms since 1970, if that was before now, e.g. before the page was reloaded
     */
    confirmed(intent: string, at?: number): void;
    /** Stop watching. `finished` rejects with the code "aborted" unless it is settled. */
    close(): void;
    [Symbol.asyncIterator](): AsyncGenerator<Status, undefined, unknown>;
}
declare const BalanceWatch_base: new () => TypedEventTarget<BalanceEvents>;
/**
 * Follows an account's balance until it is closed. Events, each a CustomEvent with a `detail`: `balance`
 * (Balance: at first as it is, then each change), `connection` (Connection), `transport` (Transport), `error` (ActivationError: final).
 */
export declare class BalanceWatch extends /** @type {new () => TypedEventTarget<BalanceEvents>} */ /** @type {new () => TypedEventTarget<BalanceEvents>} */ BalanceWatch_base {
    #private;
    /** The newest balance. @type {Balance|null} */
    latest: Balance | null;
    /** @param {ConnectionOptions} options */
    constructor(options: ConnectionOptions);
    get connection(): Connection;
    /** How the last message came. @returns {Transport|null} */
    get transport(): Transport | null;
    /** Stop watching; nothing follows. */
    close(): void;
}
export {};
