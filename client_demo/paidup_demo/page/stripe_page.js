// @ts-check
/**
 * Paying on a page of Stripe's: Checkout, which the browser leaves for (hosted) or shows in this page (embedded).
 *
 * The customer comes back from it by way of Paidup's own /activate, which goes on to this page.
 */
import { showActivating, watch } from "./activation.js";
import * as api from "../lib/api.js";
import { el } from "../lib/dom.js";
import { storage } from "./storage.js";
import { stripe } from "../lib/stripe_payment.js";
import * as timeline from "../timeline/timeline.js";
import { RETURN_TO } from "./router.js";
import { isOnStripesPage, state } from "./session_state.js";
import { closePage, go } from "./views.js";

/** @typedef {import("./session_state.js").Order} Order */

/** Whether a purchase begins on a page of Stripe's. Changes and renewals have an invoice, and are paid with a form. @param {Partial<Order>} about */
export function beginsOnStripesPage({ kind, invoice }) {
  const way = storage.way;
  if (invoice && !isOnStripesPage({ invoice })) return false;
  return (way === "hosted" || way === "embedded") && (kind === "plan" || kind === "top-up");
}

/**
 * Go to Stripe's page, or show it here. The same purchase has the same page for as long as it is open.
 * @param {Partial<Order> & {plan: string}} about @param {(order: Order) => void} describe writes what is paid for
 */
export async function openStripesPage({ kind, plan, interval, quantity }, describe) {
  const ui = storage.way;
  const wanted = kind === "top-up" ? { top_up: plan, quantity } : { plan, interval };
  const { checkout, client_secret, url, status } = await api.checkout({ ...wanted, ui, return_to: RETURN_TO });
  const order = { kind, plan, interval, quantity, invoice: checkout };
  storage.begun = order;
  if (status === "complete") {
    watch(order, null);
    return showActivating();
  }
  timeline.opened(checkout);
  if (url) return leave(url);
  if (!state.config) return;
  const library = await stripe(state.config.stripe_js, state.config.publishable_key);
  describe(order);
  el("stripe-page").hidden = false;
  for (const id of ["card-form", "test-cards"]) el(id).hidden = true;
  go("card");
  closePage(); // Stripe.js has one at a time
  state.page = await library.createEmbeddedCheckoutPage({ fetchClientSecret: async () => client_secret });
  if (state.view !== "card") return closePage(); // they went elsewhere meanwhile
  state.page.mount(el("stripe-page-frame"));
  watch(order, null); // connected before it is paid
}

/** @param {string} url @returns {Promise<never>} */
function leave(url) {
  addEventListener("pageshow", ({ persisted }) => persisted && location.reload()); // Back: this page again, as it was
  location.assign(url);
  return new Promise(() => {}); // the button stays as it is until the page is gone
}
