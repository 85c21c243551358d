// @ts-check
/**
 * The state of this tab: the plans, the current order, and the activation that watches it.
 *
 * The server's answers overwrite it.
 */
import { storage } from "./storage.js";

/** @typedef {import("../lib/api.js").Config} Config */
/** @typedef {import("../lib/api.js").Plan} Plan */
/** @typedef {import("../sdk/paidup.js").Activation} Activation */
/** @typedef {import("./router.js").View} View */
/**
 * What is being paid for. `invoice`: Stripe's id of it, or of the Checkout Session that has none yet; `kind`: plan,
 * change, renewal or top-up; `at`: when the bank confirmed, in ms since 1970; `intent`: what Stripe.js said last.
 * @typedef {{invoice: string, plan: string, kind?: string, ticket?: string, secret?: string|null, interval?: string,
 *   quantity?: number, at?: number|null, intent?: string}} Order
 */

/** The price of a poster in credits; must equal PRICE in posters.py. */
export const PRICE = 10;

export const state = {
  /** @type {Config|null} */ config: null,
  /** @type {Plan[]} */ plans: [],
  /** @type {View} */ view: "home",
  /** @type {View} where the purchase started; Back returns to it */ origin: "home",
  /** @type {Order|null} */ order: null,
  /** @type {Activation|null} */ activation: null,
  /** @type {string|null} the invoice that the activation watches */ watchedInvoice: null,
  /** @type {any} the form's element: the card field or the Payment Element */ card: null,
  /** @type {any} the card field, once it was shown */ cardField: null,
  /** @type {{secret: string, elements: any, element: any}|null} */ paymentElement: null,
  /** @type {any} Stripe's embedded page, while it is shown */ page: null,
  /** @type {(() => Promise<void>)|null} begins the purchase that was begun last once more */ beginAgain: null,
  busy: false, // with a payment
  printing: false,
  announcement: "", // shown on the home view when a payment is settled in the background
};

/** Whether any tab of this browser has seen the bank's confirmation. @param {Order} order */
export const isConfirmed = (order) => !!(order.at ?? storage.confirmedAt(order.invoice));

/** Whether it is paid on a page of Stripe's. @param {{invoice: string}} order */
export const isOnStripesPage = ({ invoice }) => invoice.startsWith("cs_");

/** @param {string} invoice */
export const watching = (invoice) =>
  state.watchedInvoice === invoice && !!state.activation && state.activation.connection !== "closed";

/** @param {string|null} id */
export const planOf = (id) => state.plans.find((plan) => plan.id === id);
/** @param {string|null} id */
export const planName = (id) => planOf(id)?.name ?? id ?? "new";
