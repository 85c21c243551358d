// @ts-check
/**
 * The demo's calls to its own server. Never retries: the page decides that.
 */

/** @typedef {import("../sdk/paidup.js").Status} Status */
/** @typedef {{invoice: string, ticket: string, status: Status, reason: string|null}} Activating */
/**
 * A renewal that Stripe is collecting.
 * @typedef {{subscription: string, plan: string|null, invoice: string|null, since: string,
 *   expected_at: string|null, reason: string}} Renewing
 */
/** @typedef {{lookup_key: string, amount_minor: number, currency: string, interval: "month"|"year"|"once"}} Price */
/** @typedef {{id: string, name: string, description: string, credits: number, top_up: boolean, max_quantity: number, prices: Price[]}} Plan */
/** @typedef {{held: number, expiring: {at: string, credits: number}[], balance: number, grants: {plan: string, remaining: number}[], activating: Activating|null, renewing: Renewing|null}} Credits */
/**
 * A subscription as Stripe last showed it; dates are ISO 8601 in UTC.
 * @typedef {{id: string, status: string, plan: string|null, interval: "month"|"year"|null, quantity: number,
 *   pending_plan: string|null, current_period_end: string|null, cancel_at: string|null,
 *   collection_paused: boolean, ended_at: string|null}} Subscription
 */
/** @typedef {{credits: number, plan: string|null, due_at: string}} Installment a yearly plan's grant that is still due */
/**
 * @typedef {{balance: number, subscription: Subscription|null, subscriptions: Subscription[], installments: Installment[],
 *   activating: Activating|null, renewing: Renewing|null, checkout: {checkout: string, status: string, plan: string|null}|null}} Account
 */
/** @typedef {"grant"|"spend"|"reserve"|"release"|"freeze"|"reverse"|"restore"|"expire"|"adjust"} EntryKind */
/** @typedef {{id: number, kind: EntryKind, credits: number, balance: number, reason: string, at: string}} Entry */
/** @typedef {{balance: number, seed: string}} Poster what the demo's backend printed, and the balance after it */
/** @typedef {{invoice: string, client_secret: string|null, ticket: string, status: Status}} Purchase */
/** @typedef {{checkout: string, status: string, expires_at: string, url?: string, client_secret?: string}} CheckoutPage */
/** @typedef {import("../sdk/paidup.js").CheckoutStatus} CheckoutStatus */
/** @typedef {{currency: string, amount_due_minor: number, card: {brand: string, last4: string}|null}} Cost of a change, and what pays it */
/** @typedef {{publishable_key: string, stripe_js: string, sandbox: string|null, customer: string}} Config */

/** An error response (RFC 9457). `status` is the HTTP status, 0 if there was no response; `body` has the problem's members. */
export class Problem extends Error {
  /** @param {number} status @param {Record<string, any>} body */
  constructor(status, body) {
    super(body.detail || body.title || "The server could not do this just now. Please try again.");
    this.name = "Problem";
    this.status = status;
    this.body = body;
    /** Which problem it is, e.g. "already-on-plan". */
    this.kind = String(body.type ?? "").split("/").at(-1) ?? "";
  }
}

/** @param {string} method @param {string} url @param {unknown} [body] @returns {Promise<any>} */
export async function call(method, url, body) {
  const headers = body === undefined ? undefined : { "Content-Type": "application/json" };
  const init = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
  const unreachable = () => new Problem(0, { detail: "The server cannot be reached. Check your connection and try again." });
  const response = await fetch(url, { ...init, signal: AbortSignal.timeout(20_000) }).catch(() => {
    throw unreachable();
  });
  const answer = response.status === 204 ? {} : await response.json().catch(() => null);
  if (!response.ok) throw new Problem(response.status, answer ?? {});
  if (!answer) throw unreachable(); // truncated
  return answer;
}

/** @returns {Promise<Config>} */
export const config = () => call("GET", "/demo/config.json");
/** @returns {Promise<Plan[]>} */
export const plans = async () => (await call("GET", "/api/plans")).plans;
/** @returns {Promise<Credits>} */
export const credits = () => call("GET", "/api/credits");
/** The demo's backend spends the credits, once per poster. @param {string} poster @returns {Promise<Poster>} */
export const printPoster = (poster) => call("POST", "/demo/posters", { poster });
/** @param {string} plan @param {string} [interval] @returns {Promise<Purchase>} */
export const subscribe = (plan, interval) =>
  call("POST", "/api/subscriptions", { plan, interval: interval === "month" ? undefined : interval });
/** @param {string} plan @param {string} interval @returns {Promise<Purchase>} */
export const change = (plan, interval) => call("POST", "/api/subscriptions/change", { plan, interval });
/** What a change would cost now. @param {string} plan @param {string} interval @returns {Promise<Cost>} */
export const previewChange = (plan, interval) => call("POST", "/api/subscriptions/preview", { plan, interval });
/** @param {string} plan @param {number} quantity @returns {Promise<Purchase>} */
export const topUp = (plan, quantity) => call("POST", "/api/top-ups", { plan, quantity });
/** A page of Stripe's to pay on. @param {{plan?: string, top_up?: string, interval?: string, quantity?: number, ui: string, return_to: string}} wanted @returns {Promise<CheckoutPage>} */
export const checkout = (wanted) => call("POST", "/api/checkout", wanted);
/** How its payment stands. @param {string} checkout @returns {Promise<CheckoutStatus>} */
export const checkoutStatus = (checkout) => call("GET", `/api/checkout/${checkout}`);
/** How its payment stands. @param {string} invoice @returns {Promise<Status>} */
export const invoice = (invoice) => call("GET", `/api/invoices/${invoice}`);
/** An existing invoice with its client secret. @param {string} invoice @returns {Promise<Purchase>} */
export const resumeInvoice = (invoice) => call("POST", "/api/invoices", { invoice });
/** @param {"period_end"|"now"} when @returns {Promise<{subscription: Subscription}>} */
export const cancel = (when) => call("POST", "/api/subscriptions/cancel", { when });
/** @returns {Promise<{subscription: Subscription}>} */
export const resume = () => call("POST", "/api/subscriptions/resume", {});
/** @returns {Promise<Account>} */
export const account = () => call("GET", "/api/account");
/** Newest first. @param {number} [before] an entry's id @returns {Promise<{entries: Entry[], has_more: boolean}>} */
export const entries = (before) => call("GET", `/api/account/entries${before ? `?before=${before}` : ""}`);
/** The sandbox's time. @returns {Promise<{now: string}>} */
export const clock = () => call("GET", "/demo/clock");
/** @param {{days?: number, months?: number}} step @returns {Promise<{now: string}>} */
export const moveClock = (step) => call("POST", "/demo/clock", step);
export const newCustomer = () => call("POST", "/demo/customer");
