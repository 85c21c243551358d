// @ts-check
/**
 * The demo's calls to its own server.
 *
 * Owns the shape of requests and of refusals. Refuses to retry: the page knows what the customer is doing.
 */

/** @typedef {import("./paidup.js").Status} Status */
/** @typedef {{invoice: string, ticket: string, status: Status}} Activating */
/** @typedef {{lookup_key: string, amount_minor: number, currency: string, interval: "month"|"year"}} Price */
/** @typedef {{id: string, name: string, description: string, credits: number, prices: Price[]}} Plan */
/** @typedef {{balance: number, grants: {plan: string, remaining: number}[], activating: Activating|null}} Credits */
/** @typedef {{balance: number, credits: number, key: string}} Spent */
/** @typedef {{invoice: string, client_secret: string|null, ticket: string, status: Status}} Subscription */
/** @typedef {{publishable_key: string, stripe_js: string, sandbox: string|null, customer: string}} Config */

/** A refusal (RFC 9457): `status` is HTTP's, 0 when nobody answered; `body` holds the problem's own members. */
export class Problem extends Error {
  /** @param {number} status @param {Record<string, any>} body */
  constructor(status, body) {
    super(body.detail || body.title || "The server could not do this just now. Please try again.");
    this.name = "Problem";
    this.status = status;
    this.body = body;
  }
}

/** @param {string} method @param {string} url @param {unknown} [body] @returns {Promise<any>} */
export async function call(method, url, body) {
  const headers = body === undefined ? undefined : { "Content-Type": "application/json" };
  const init = { method, headers, body: body === undefined ? undefined : JSON.stringify(body) };
  const response = await fetch(url, { ...init, signal: AbortSignal.timeout(20_000) }).catch(() => {
    throw new Problem(0, { detail: "The server cannot be reached. Check your connection and try again." });
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Problem(response.status, answer);
  return answer;
}

/** @returns {Promise<Config>} */
export const config = () => call("GET", "/demo/config.json");
/** @returns {Promise<Plan[]>} */
export const plans = async () => (await call("GET", "/api/plans")).plans;
/** @returns {Promise<Credits>} */
export const credits = () => call("GET", "/api/credits");
/** @param {number} credits @param {string} key @returns {Promise<Spent>} */
export const spend = (credits, key) => call("POST", "/api/credits/spend", { credits, key });
/** @param {string} plan @param {string} [interval] @returns {Promise<Subscription>} */
export const subscribe = (plan, interval) =>
  call("POST", "/api/subscriptions", { plan, interval: interval === "month" ? undefined : interval });
export const newCustomer = () => call("POST", "/demo/customer");
