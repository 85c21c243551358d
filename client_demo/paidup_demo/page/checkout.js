// @ts-check
/**
 * Checkout: the plan, the form and the bank's check, until the bank has confirmed; also retries of a failed payment.
 *
 * After the confirmation, activation.js takes over.
 */
import { refreshIfShown } from "./account.js";
import * as accountText from "../lib/account_text.js";
import { followAndVerify, showActivating, watch } from "./activation.js";
import * as api from "../lib/api.js";
import { el, mark } from "../lib/dom.js";
import { storage } from "./storage.js";
import { drawPlans } from "./plan_list.js";
import { cardField, confirm, confirmElement, paymentElement, stripe, waitsForBank } from "../lib/stripe_payment.js";
import { beginsOnStripesPage, openStripesPage } from "./stripe_page.js";
import * as timeline from "../timeline/timeline.js";
import { go } from "./views.js";
import { RETURN_TO } from "./router.js";
import { isOnStripesPage, planName, planOf, state, watching } from "./session_state.js";

/** @typedef {import("../sdk/paidup.js").Status} Status */
/** @typedef {import("./session_state.js").Order} Order */

// ---- Plans

export async function showPlans() {
  go("plans");
  if (state.config) void stripe(state.config.stripe_js, state.config.publishable_key).catch(() => {}); // preload
  try {
    if (!state.plans.length) state.plans = await api.plans();
    listPlans();
  } catch (problem) {
    el("plans-error").textContent = /** @type {Error} */ (problem).message;
  }
}

export const listPlans = () => drawPlans(state.plans, (plan, interval) => choose(plan, interval, "plans-error"));

/** @param {string} plan @param {string|undefined} interval @param {string} errorId */
const choose = (plan, interval, errorId) =>
  buy(() => api.subscribe(plan, interval), { kind: "plan", plan, interval }, errorId);

/**
 * Request an invoice and take the customer through its payment.
 * @param {() => Promise<api.Purchase|null>} request null if the customer decides not to
 * @param {Partial<Order> & {plan: string}} about @param {string} errorId
 */
export async function buy(request, about, errorId) {
  if (state.busy) return;
  state.beginAgain = () => buy(request, about, errorId);
  busy(true);
  el(errorId).textContent = "";
  let check = false;
  try {
    if (["home", "plans", "account"].includes(state.view)) state.origin = state.view;
    if (beginsOnStripesPage(about)) return await openStripesPage(about, describe);
    const purchase = await request();
    if (purchase) check = await begin(purchase, about);
  } catch (problem) {
    await onBuyError(/** @type {Error} */ (problem), errorId);
  } finally {
    busy(false);
  }
  if (check) await bankCheck();
}

/**
 * Show the card form, or the activating screen; if a saved card has already paid, the success screen.
 * @param {api.Purchase} purchase @param {Partial<Order> & {plan: string}} about
 * @returns {Promise<boolean>} whether the bank asks for a check of a saved card
 */
async function begin({ invoice, client_secret, ticket, status }, about) {
  const order = { ...about, invoice, plan: status.plan ?? about.plan, ticket, secret: client_secret };
  storage.begun = { invoice, kind: about.kind };
  const checked = await bankCheckPending(order, status);
  if (client_secret && !checked && status.status !== "active" && status.status !== "processing") {
    if (state.watchedInvoice !== invoice) state.activation?.close();
    state.order = order;
    await showCard(order);
    if (about.kind === "change" && status.error) el("card-error").textContent = status.error.message;
    return false;
  }
  go("activating");
  watch(order, status);
  if (state.order) showActivating();
  return checked;
}

/** Whether the bank asks for a check of a saved card, which is charged without a form. @param {Order} order @param {Status} status */
async function bankCheckPending({ kind, secret }, { status }) {
  if (!state.config || !secret || !(kind === "change" || kind === "renewal")) return false;
  if (status === "requires_action") return true;
  if (status !== "open") return false;
  const library = await stripe(state.config.stripe_js, state.config.publishable_key);
  return waitsForBank(library, secret);
}

/** A conflict may mean a pending payment from another tab: then show that one. @param {Error} problem @param {string} errorId */
async function onBuyError(problem, errorId) {
  if (!(problem instanceof api.Problem) || problem.status !== 409) {
    el(errorId).textContent = problem.message;
    return;
  }
  const known = await api.account().catch(() => null);
  if (known?.activating && problem.kind !== "already-on-plan") {
    followAndVerify(known.activating);
    if (state.order) return showActivating();
  }
  el(errorId).textContent = CONFLICTS[problem.kind] ?? problem.message;
  refreshIfShown();
}

/** @type {Record<string, string>} */
const CONFLICTS = {
  "already-subscribed": "You already have a plan. You can change it on your account page.",
  "already-on-plan": "This is your plan already.",
  "not-subscribed": "The plan has ended. Choose one again.",
};

/** @param {boolean} yes */
function busy(yes) {
  state.busy = yes;
  el("pay").setAttribute("aria-disabled", String(yes));
}

// ---- Card

/** Write what is paid for, above the form or Stripe's page. @param {Order} order */
function describe(order) {
  const { name, price, cost } = accountText.order(order, planOf(order.plan));
  el("order-name").textContent = name || planName(order.plan);
  el("order-price").textContent = price;
  el("pay").textContent = `Pay ${cost}`.trim();
  const toAccount = state.origin === "account";
  for (const id of ["card-back", "page-back"]) {
    el(id).dataset.action = toAccount ? "account" : "plans";
    el(id).textContent = toAccount ? "Back to your account" : "Choose another plan";
  }
  el("card-title").textContent = isOnStripesPage(order) ? "Pay on Stripe’s page" : byElement() ? "Pay" : "Pay by card";
}

const byElement = () => storage.way === "element";

/** @param {Order} order */
export async function showCard(order) {
  const { config } = state;
  if (!config) return;
  describe(order);
  el("stripe-page").hidden = true;
  el("card-form").hidden = false;
  el("test-cards").hidden = !config.publishable_key.startsWith("pk_test_");
  go("card");
  try {
    const library = await stripe(config.stripe_js, config.publishable_key);
    mountForm(library, order.secret ?? "");
    state.card.focus();
  } catch (problem) {
    el("card-error").textContent = /** @type {Error} */ (problem).message;
  }
}

/** Show the card field, or the Payment Element for this payment. @param {any} library @param {string} secret */
function mountForm(library, secret) {
  for (const id of ["card", "card-label"]) el(id).hidden = byElement();
  el("payment-element").hidden = !byElement();
  if (!byElement()) {
    if (state.cardField) state.cardField.mount(el("card"));
    state.card = state.cardField ??= cardField(library, el("card"), (_, error) => (el("card-error").textContent = error));
    return;
  }
  state.cardField?.unmount();
  if (state.paymentElement?.secret !== secret) {
    state.paymentElement?.element.destroy();
    const made = paymentElement(library, secret, el("payment-element"), () => (el("card-error").textContent = ""));
    state.paymentElement = { secret, ...made };
  }
  state.card = state.paymentElement.element;
}

/** The switch "How they pay" was moved: show the payment that is being made in the other way. */
export async function changeWay() {
  const { order, view, beginAgain, origin } = state;
  if (view !== "card" || state.busy) return;
  if (order && order.kind !== "plan" && order.kind !== "top-up") return void showCard(order);
  await beginAgain?.();
  if (state.view !== "card") return;
  const errors = [...document.querySelectorAll(".view[hidden] .error")].map(({ id, textContent }) => ({ id, textContent }));
  if (!errors.some(({ textContent }) => textContent)) return;
  go(origin); // which shows the error
  for (const { id, textContent } of errors) el(id).textContent = textContent;
}

export async function pay() {
  const { config, order, card } = state;
  if (state.busy || !config || !order?.secret) return;
  if (!card) return showCard(order);
  busy(true);
  el("pay").dataset.label = el("pay").textContent;
  el("pay").textContent = "Asking your bank…";
  el("card-error").textContent = "";
  try {
    await timeline.paying();
    const library = await stripe(config.stripe_js, config.publishable_key);
    const { elements } = state.paymentElement ?? {};
    const outcome = byElement()
      ? await confirmElement(library, order.secret, elements, location.origin + RETURN_TO)
      : await confirm(library, order.secret, card);
    if (outcome.kind === "confirmed") confirmed(order, outcome.status);
    else if (state.view === "card") el("card-error").textContent = outcome.message;
  } finally {
    el("pay").textContent = el("pay").dataset.label;
    busy(false);
  }
}

/** The bank has confirmed: from now on only the server's status counts. @param {Order} order @param {string} intent its status */
function confirmed(order, intent) {
  const at = mark("paidup:confirmed");
  if (el("source").dataset.invoice === order.invoice) return; // the WebSocket was faster than Stripe.js
  storage.confirm(order.invoice, at);
  if (timeline.confirmed(order.invoice, at)) return; // this tab is being closed
  order.at = at;
  order.intent = intent;
  if (!watching(order.invoice)) watch(order, null);
  state.activation?.confirmed(intent);
  if (state.order && state.view !== "done") showActivating();
}

/** Run the bank's check again; fetches the client secret if it is no longer known. */
export async function bankCheck() {
  const { config, order } = state;
  if (state.busy || !config || !order) return;
  busy(true);
  try {
    order.secret ??= (await api.resumeInvoice(order.invoice)).client_secret;
    const library = await stripe(config.stripe_js, config.publishable_key);
    const outcome = await confirm(library, order.secret ?? "", null);
    if (outcome.kind === "confirmed") confirmed(order, outcome.status);
    else el("activating-error").textContent = outcome.message;
  } catch (problem) {
    el("activating-error").textContent = /** @type {Error} */ (problem).message;
  } finally {
    busy(false);
  }
}

/** Show the form, or Stripe's page, for the same payment; a second card cannot pay it twice. */
export function retryPayment() {
  const { order } = state;
  if (!order) return;
  storage.forget(order.invoice);
  order.at = null;
  if (order.secret) return showCard(order);
  const errorId = state.view === "account" ? "plan-error" : "activating-error";
  if (isOnStripesPage(order)) return buyAgain(order, errorId);
  return buy(() => api.resumeInvoice(order.invoice), { ...order, kind: order.kind ?? "plan" }, errorId);
}

/** What Stripe's page was for: on the same page, or as the switch says now. @param {Order} order @param {string} errorId */
function buyAgain({ kind, plan, interval, quantity = 1 }, errorId) {
  const request = () => (kind === "top-up" ? api.topUp(plan, quantity) : api.subscribe(plan, interval));
  return buy(request, { kind: kind ?? "plan", plan, interval, quantity }, errorId);
}

/** Continue a waiting payment from the account page's notice. @param {accountText.Way} way */
export function continuePayment(way) {
  if (!state.order) return;
  state.origin = "account";
  if (way === "pay") return void retryPayment();
  showActivating();
  if (way === "bank") void bankCheck();
}
