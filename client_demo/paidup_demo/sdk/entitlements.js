/**
 * What a customer may use: asked for once, kept with its ETag, and dropped when something has changed.
 *
 * For a page, and for a backend in Node.js. Imports nothing.
 */

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
export class EntitlementsError extends Error {
  /** @param {number} status */
  constructor(status) {
    super(status ? `GET /api/entitlements answered ${status}` : "Paidup did not answer");
    this.name = "EntitlementsError";
    this.status = status;
  }
}

/** The entitlements of one customer: of `headers`, or of the page's cookie. */
export class EntitlementsCache {
  /** The last ones. @type {Entitlements|null} */
  latest = null;
  #etag = "";
  #until = 0;
  #asked = 0;
  #newest = 0;
  /** @type {Promise<Entitlements>|null} */ #asking = null;
  /** @type {EntitlementsOptions} */ #options;

  /** @param {EntitlementsOptions} [options] */
  constructor(options = {}) {
    this.#options = options;
    options.watch?.addEventListener("balance", (event) =>
      this.drop(/** @type {CustomEvent<{version: number}>} */ (event).detail.version),
    );
  }

  /** The current ones: those that are kept, or asked for now. Rejects with an `EntitlementsError`. @returns {Promise<Entitlements>} */
  async get() {
    if (this.latest && this.#now() < this.#until) return this.latest;
    this.#asking ??= this.#ask().finally(() => (this.#asking = null)); // callers at the same time ask once
    return this.#asking;
  }

  /** Ask again the next time, where these are older than `version`. @param {number} [version] */
  drop(version = Infinity) {
    if (version > (this.latest?.version ?? -1)) this.#until = 0;
    if (Number.isFinite(version)) this.#newest = Math.max(this.#newest, version);
  }

  /**
   * Drop what an outbound event of Paidup's says is over. Verify its signature first, and pass only events
   * of this customer.
   * @param {{data?: {version?: number}}} payload
   */
  onEvent(payload) {
    this.drop(payload.data?.version);
  }

  /** @returns {Promise<Entitlements>} */
  async #ask() {
    const { baseUrl = globalThis.location?.origin ?? "", headers, maxAgeMs = 60_000 } = this.#options;
    /** @type {Response} */ let answer;
    /** @type {Entitlements|null} */ let found;
    try {
      const given = new Headers(typeof headers === "function" ? await headers() : headers);
      if (this.latest && this.#etag) given.set("If-None-Match", this.#etag); // CORS may hide it
      const ask = this.#options.fetch ?? fetch;
      answer = await ask(`${baseUrl.replace(/\/$/, "")}/api/entitlements`, { headers: given, cache: "no-store" });
      if (answer.status !== 304 && !answer.ok) throw new EntitlementsError(answer.status);
      found = answer.status === 304 ? this.latest : await answer.json();
    } catch (error) {
      return this.#last(error instanceof EntitlementsError ? error : new EntitlementsError(0));
    }
    if (!found) throw new EntitlementsError(answer.status);
    this.#etag = answer.headers.get("ETag") ?? "";
    this.latest = found;
    this.#asked = this.#now();
    this.#until = found.version < this.#newest ? 0 : this.#asked + maxAgeMs;
    return found;
  }

  /** The last ones, where an outage allows them. @param {EntitlementsError} error @returns {Entitlements} */
  #last(error) {
    const { maxAgeMs = 60_000, staleMs = 0 } = this.#options;
    const outage = error.status === 0 || error.status >= 500;
    if (this.latest && outage && this.#now() < this.#asked + maxAgeMs + staleMs && staleMs) return this.latest;
    throw error;
  }

  #now() {
    return (this.#options.now ?? Date.now)();
  }
}

/** Whether a customer has a feature. @param {Entitlements} entitlements @param {string} feature */
export const has = ({ features }, feature) => features.includes(feature);

/** Whether a number is within a limit; false where no plan names it. @param {Entitlements} entitlements @param {string} name @param {number} number */
export const allows = ({ limits }, name, number) => limits[name] === "unlimited" || number <= (limits[name] ?? -1);
