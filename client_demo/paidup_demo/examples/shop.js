// @ts-check
/**
 * Stands in for your own shop in the examples: its login, its Stripe key, and the order of a plan.
 *
 * In the demo a cookie identifies the customer; each of these pages sets it.
 */

/** @typedef {{invoice: string, client_secret: string, ticket: string}} Purchase */

/** @param {string} method @param {string} path @param {unknown} [body] @returns {Promise<any>} */
async function call(method, path, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(path, { method, headers, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.detail ?? answer.title);
  return answer;
}

/** Load Stripe.js, or the sandbox's replacement. @returns {Promise<any>} */
export async function stripe() {
  const { stripe_js, publishable_key } = await call("GET", "/demo/config.json");
  await new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = stripe_js;
    script.onload = resolve;
    script.onerror = reject;
    document.head.append(script);
  });
  return /** @type {any} */ (window).Stripe(publishable_key);
}

/** Order a plan; repeated calls return the same pending order. @param {string} plan @returns {Promise<Purchase>} */
export const order = (plan) => call("POST", "/api/subscriptions", { plan });

/** Open a Checkout Session; repeated calls return the one that is open. @param {Record<string, string>} wanted @returns {Promise<any>} */
export const openCheckout = (wanted) => call("POST", "/api/checkout", wanted);

/** The customer's credits. @returns {Promise<number>} */
export const balance = async () => (await call("GET", "/api/credits")).balance;

/** What a month of a plan costs, as Stripe's elements want it. @param {string} plan @returns {Promise<{amount: number, currency: string}>} */
export async function priceOf(plan) {
  const { plans } = await call("GET", "/api/plans");
  const [{ amount_minor, currency }] = plans.find((/** @type {{id: string}} */ each) => each.id === plan).prices;
  return { amount: amount_minor, currency };
}
