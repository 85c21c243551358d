// @ts-check
/**
 * What this tab knows now: the customer's plans, what is being paid for, who watches it.
 *
 * Holds it, and answers the questions that need nothing else. The server's answers replace what is here.
 */
import { kept } from "./storage.js";

/** @typedef {import("../lib/api.js").Config} Config */
/** @typedef {import("../lib/api.js").Plan} Plan */
/** @typedef {import("../sdk/paidup.js").Activation} Activation */
/** @typedef {import("./router.js").View} View */
/**
 * What is being paid for. `kind`: plan, change, renewal or top-up; `at`: when the bank confirmed, in ms since 1970;
 * `intent`: what Stripe.js said last.
 * @typedef {{invoice: string, plan: string, kind?: string, ticket?: string, secret?: string|null, interval?: string,
 *   quantity?: number, at?: number|null, intent?: string}} Order
 */

/** Of a poster, in credits, as posters.py charges it. */
export const PRICE = 10;

export const state = {
  /** @type {Config|null} */ config: null,
  /** @type {Plan[]} */ plans: [],
  /** @type {View} */ view: "studio",
  /** @type {View} where the purchase began, and one goes back to */ origin: "studio",
  /** @type {Order|null} */ order: null,
  /** @type {Activation|null} */ activation: null,
  /** @type {string|null} the invoice that the activation watches */ watched: null,
  /** @type {any} */ card: null,
  busy: false, // with a payment
  printing: false,
  news: "", // what the studio should say of a payment that was settled behind it
};

/** Whether some tab of this browser has seen the bank confirm. @param {Order} order */
export const isConfirmed = (order) => !!(order.at ?? kept.confirmedAt(order.invoice));

/** @param {string} invoice */
export const watching = (invoice) =>
  state.watched === invoice && !!state.activation && state.activation.connection !== "closed";

/** @param {string|null} id */
export const planOf = (id) => state.plans.find((plan) => plan.id === id);
/** @param {string|null} id */
export const planName = (id) => planOf(id)?.name ?? id ?? "new";
