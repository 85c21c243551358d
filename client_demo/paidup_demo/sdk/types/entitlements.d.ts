/**
 * What a customer may use: asked for once, kept with its ETag, and dropped when something has changed.
 *
 * For a page, and for a backend in Node.js. Imports nothing.
 */
export type Entitlements = {
    /**
     * the plan that the customer has now
     */
    plan: string | null;
    /**
     * all of them, if several subscriptions run
     */
    plans: string[];
    /**
     * Stripe's
     */
    status: string | null;
    /**
     * seats
     */
    quantity: number;
    features: string[];
    limits: {
        [name: string]: number | "unlimited";
    };
    /**
     * of the default unit, and of the others by name
     */
    balance: UnitBalance & {
        units?: {
            [unit: string]: UnitBalance;
        };
    };
    renews_at: string | null;
    cancel_at: string | null;
    /**
     * grows with each change
     */
    version: number;
};
export type UnitBalance = {
    available: number;
    held: number;
    debt: number;
    low_balance: number | null;
};
export type EntitlementsOptions = {
    /**
     * where Paidup's server is; the page's origin by default
     */
    baseUrl?: string;
    /**
     * for each request
     */
    headers?: HeadersInit | (() => HeadersInit | Promise<HeadersInit>);
    /**
     * how long they are used without asking; a minute by default
     */
    maxAgeMs?: number;
    /**
     * how much longer the last ones are used while Paidup does not answer; 0 by default: it throws
     */
    staleMs?: number;
    /**
     * a `BalanceWatch`, whose changes drop what is kept
     */
    watch?: EventTarget;
    /**
     * for tests
     */
    fetch?: typeof fetch;
    /**
     * milliseconds, for tests
     */
    now?: () => number;
};
/**
 * @typedef {object} Entitlements
 * @property {string|null} plan the plan that the customer has now
 * @property {string[]} plans all of them, if several subscriptions run
 * @property {string|null} status Stripe's
 * @property {number} quantity seats
 * @property {string[]} features
 * @property {{[name: string]: number|"unlimited"}} limits
 * @property {UnitBalance & {units?: {[unit: string]: UnitBalance}}} balance of the default unit, and of the others by name
 * @property {string|null} renews_at
 * @property {string|null} cancel_at
 * @property {number} version grows with each change
 */
/** @typedef {{available: number, held: number, debt: number, low_balance: number|null}} UnitBalance */
/**
 * @typedef {object} EntitlementsOptions
 * @property {string} [baseUrl] where Paidup's server is; the page's origin by default
 * @property {HeadersInit | (() => HeadersInit | Promise<HeadersInit>)} [headers] for each request
 * @property {number} [maxAgeMs] how long they are used without asking; a minute by default
 * @property {number} [staleMs] how much longer the last ones are used while Paidup does not answer; 0 by default: it throws
 * @property {EventTarget} [watch] a `BalanceWatch`, whose changes drop what is kept
 * @property {typeof fetch} [fetch] for tests
 * @property {() => number} [now] milliseconds, for tests
 */
/** An answer that is no entitlements: `status` is HTTP's, or 0 where none came. */
export declare class EntitlementsError extends Error {
    status: number;
    /** @param {number} status */
    constructor(status: number);
}
/** The entitlements of one customer: of `headers`, or of the page's cookie. */
export declare class EntitlementsCache {
    #private;
    /** The last ones. @type {Entitlements|null} */
    latest: Entitlements | null;
    /** @param {EntitlementsOptions} [options] */
    constructor(options?: EntitlementsOptions);
    /** The current ones: those that are kept, or asked for now. Rejects with an `EntitlementsError`. @returns {Promise<Entitlements>} */
    get(): Promise<Entitlements>;
    /** Ask again the next time, where these are older than `version`. @param {number} [version] */
    drop(version?: number): void;
    /**
     * Drop what an outbound event of Paidup's says is over. Verify its signature first, and pass only events
     * of this customer.
     * @param {{data?: {version?: number}}} payload
     */
    onEvent(payload: {
        data?: {
            version?: number;
        };
    }): void;
}
/** Whether a customer has a feature. @param {Entitlements} entitlements @param {string} feature */
export declare const has: ({ features }: Entitlements, feature: string) => boolean;
/** Whether a number is within a limit; false where no plan names it. @param {Entitlements} entitlements @param {string} name @param {number} number */
export declare const allows: ({ limits }: Entitlements, name: string, number: number) => boolean;
