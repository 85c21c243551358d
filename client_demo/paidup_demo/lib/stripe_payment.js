// @ts-check
/**
 * The forms: Stripe.js's card field or its Payment Element, and the outcome of confirming it.
 *
 * Card numbers never reach this page, and client secrets are not stored.
 */
import { cardError } from "./text.js";

/** @typedef {{id?: string, status: string}} Intent */
/** @typedef {{kind: "confirmed", status: string}|{kind: "refused", message: string}} Outcome */

/** @type {Promise<any>|null} */
let library = null;

/** Load Stripe.js, or the sandbox's replacement, once. @param {string} url @param {string} key @returns {Promise<any>} */
export function stripe(url, key) {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = url;
    script.onload = () => resolve(/** @type {any} */ (window).Stripe(key));
    script.onerror = () => {
      library = null;
      script.remove();
      reject(new Error("The card form could not be loaded. Check your connection and try again."));
    };
    document.head.append(script);
  });
  return library;
}

/** The page's styles for Stripe's element, which is in a separate frame. */
function cardStyle() {
  const css = getComputedStyle(document.documentElement);
  const token = (/** @type {string} */ name) => css.getPropertyValue(name).trim();
  return {
    base: {
      color: token("--ink"),
      iconColor: token("--ink-soft"),
      fontFamily: token("--sans"),
      fontSize: "16px",
      "::placeholder": { color: token("--ink-soft") },
    },
    invalid: { color: token("--bad"), iconColor: token("--bad") },
  };
}

/** @param {any} stripe @param {HTMLElement} mount @param {(complete: boolean, error: string) => void} changed */
export function cardField(stripe, mount, changed) {
  const card = stripe.elements().create("card", { style: cardStyle(), hidePostalCode: true, disableLink: true });
  card.mount(mount);
  card.on("change", (/** @type {any} */ event) => changed(event.complete, event.error?.message ?? ""));
  card.on("focus", () => mount.classList.add("focused"));
  card.on("blur", () => mount.classList.remove("focused"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => card.update({ style: cardStyle() }));
  return card;
}

/**
 * Stripe's Payment Element for one payment. @param {any} stripe @param {string} secret @param {HTMLElement} mount
 * @param {() => void} changed
 */
export function paymentElement(stripe, secret, mount, changed) {
  const elements = stripe.elements({ clientSecret: secret });
  const element = elements.create("payment");
  element.mount(mount);
  element.on("change", changed);
  return { elements, element };
}

/**
 * As `confirm`, with the Payment Element. Some ways to pay leave this page, and come back to `return_url`.
 * @param {any} stripe @param {string} secret @param {any} elements @param {string} return_url @returns {Promise<Outcome>}
 */
export async function confirmElement(stripe, secret, elements, return_url) {
  const invalid = await elements.submit();
  if (invalid.error) return { kind: "refused", message: "" }; // the element shows it
  return outcomeOf(
    stripe,
    secret,
    await stripe.confirmPayment({ elements, confirmParams: { return_url }, redirect: "if_required" }).catch(unreachable),
  );
}

/**
 * Confirm the payment, including the bank's check. With `card` null, an interrupted check is run again.
 * @param {any} stripe @param {string} secret @param {any} card @returns {Promise<Outcome>}
 */
export async function confirm(stripe, secret, card) {
  const given = card && { payment_method: { card } };
  const confirming = given ? stripe.confirmCardPayment(secret, given) : stripe.confirmCardPayment(secret);
  return outcomeOf(stripe, secret, await confirming.catch(unreachable));
}

/** @param {any} stripe @param {string} secret @param {any} result @returns {Promise<Outcome>} */
async function outcomeOf(stripe, secret, { paymentIntent, error }) {
  const intent = paymentIntent ?? error?.payment_intent ?? (await retrieveIntent(stripe, secret, error));
  if (intent && isUnderWay(intent)) return { kind: "confirmed", status: intent.status };
  return { kind: "refused", message: cardError(error ?? {}) };
}

/**
 * Whether the charge of a saved card waits for the bank's check. Only a hint for the screen: the server learns the
 * same from Stripe a little later. @param {any} stripe @param {string} secret
 */
export async function waitsForBank(stripe, secret) {
  const { paymentIntent } = await stripe.retrievePaymentIntent(secret).catch(unreachable);
  return paymentIntent?.status === "requires_action";
}

/** @param {Intent} intent */
const isUnderWay = (intent) => intent.status === "succeeded" || intent.status === "processing";

const unreachable = () => ({ error: { type: "api_connection_error" } });

/** After a lost response the payment may have succeeded: retrieve it. @param {any} stripe @param {string} secret @param {any} error */
async function retrieveIntent(stripe, secret, error) {
  if (error?.type !== "api_connection_error") return null;
  const { paymentIntent } = await stripe.retrievePaymentIntent(secret).catch(unreachable);
  return paymentIntent ?? null;
}
