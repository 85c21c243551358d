// @ts-check
/**
 * The card form: Stripe.js's element, and what confirming it came to.
 *
 * Owns everything said to Stripe.js. Card numbers never reach this page; no secret is kept beyond the call.
 */
import { cardError } from "./text.js";

/** @typedef {{id?: string, status: string}} Intent */
/** @typedef {{kind: "confirmed", status: string}|{kind: "refused", message: string}} Outcome */

/** @type {Promise<any>|null} */
let library = null;

/** Stripe.js itself, or the sandbox's stand-in; once. @param {string} url @param {string} key @returns {Promise<any>} */
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

/** Stripe's element lives in a frame of its own: the page's look has to be told to it. */
function look() {
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
  const card = stripe.elements().create("card", { style: look(), hidePostalCode: true, disableLink: true });
  card.mount(mount);
  card.on("change", (/** @type {any} */ event) => changed(event.complete, event.error?.message ?? ""));
  card.on("focus", () => mount.classList.add("focused"));
  card.on("blur", () => mount.classList.remove("focused"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => card.update({ style: look() }));
  return card;
}

/**
 * Confirm the payment, the bank's check included. `card` null runs an interrupted check again.
 * @param {any} stripe @param {string} secret @param {any} card @returns {Promise<Outcome>}
 */
export async function confirm(stripe, secret, card) {
  const { paymentIntent, error } = await (
    card ? stripe.confirmCardPayment(secret, { payment_method: { card } }) : stripe.confirmCardPayment(secret)
  ).catch(unreachable);
  const intent = paymentIntent ?? error?.payment_intent ?? (await lookAgain(stripe, secret, error));
  if (intent && isUnderWay(intent)) return { kind: "confirmed", status: intent.status };
  return { kind: "refused", message: cardError(error ?? {}) };
}

/**
 * Whether a card that was charged without the customer waits for his bank's check. A hint for the screen: the
 * server is told of the same by Stripe, a little later. @param {any} stripe @param {string} secret
 */
export async function waitsForBank(stripe, secret) {
  const { paymentIntent } = await stripe.retrievePaymentIntent(secret).catch(unreachable);
  return paymentIntent?.status === "requires_action";
}

/** @param {Intent} intent */
const isUnderWay = (intent) => intent.status === "succeeded" || intent.status === "processing";

const unreachable = () => ({ error: { type: "api_connection_error" } });

/** A lost answer is not a refusal: the payment may have gone through. @param {any} stripe @param {string} secret @param {any} error */
async function lookAgain(stripe, secret, error) {
  if (error?.type !== "api_connection_error") return null;
  const { paymentIntent } = await stripe.retrievePaymentIntent(secret).catch(unreachable);
  return paymentIntent ?? null;
}
