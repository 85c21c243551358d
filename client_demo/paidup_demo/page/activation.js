// @ts-check
/**
 * Waits for the credits: watches one invoice and shows its status, up to the screen that says they are there.
 *
 * Nothing is paid here.
 */
import { refreshSoon } from "./account.js";
import * as accountText from "../lib/account_text.js";
import * as api from "../lib/api.js";
import { showBalance } from "./balance.js";
import { reducedMotion, el, mark, set } from "../lib/dom.js";
import { storage } from "./storage.js";
import { activate } from "../sdk/paidup.js";
import * as timeline from "../timeline/timeline.js";
import { drawScreen } from "./activation_view.js";
import { go, showBanner } from "./views.js";
import { isConfirmed, isOnStripesPage, planName, planOf, PRICE, state, watching } from "./session_state.js";
import * as texts from "../lib/text.js";

/** @typedef {import("../lib/api.js").Activating} Activating */
/** @typedef {import("../sdk/paidup.js").Status} Status */
/** @typedef {import("./session_state.js").Activation} Activation */
/** @typedef {import("./session_state.js").Order} Order */

/** The last activation on the screen. @type {{invoice: string, via: Status["via"], after: number|null}} */
let seen = { invoice: "", via: null, after: null };
/** @type {(view: string) => unknown} */
let onCredits = () => {};

/** @param {(view: string) => unknown} run when credits for a waiting poster have arrived; gets the current view */
export const whenActive = (run) => void (onCredits = run);

/** What a status is about. Those of Checkout Sessions name no invoice, and no balance. @param {Status} status */
const idOf = ({ invoice, checkout }) => invoice ?? /** @type {string} */ (checkout);

/** @param {Order} order @param {Status|null} status what is already known */
export function watch(order, status) {
  state.order = order;
  if (status?.status === "active") return settled(status);
  if (watching(order.invoice)) return state.activation?.verify();
  state.activation?.close();
  const { invoice, ticket } = order;
  const activation = (state.activation = isOnStripesPage(order)
    ? /** @type {Activation} */ (/** @type {unknown} */ (activate({ checkout: invoice })))
    : activate({ invoice, ticket }));
  state.watchedInvoice = order.invoice;
  delete order.ticket; // used up
  const paidAt = storage.confirmedAt(order.invoice);
  if (paidAt) activation.confirmed("processing", paidAt); // before a reload: what follows may still be a failure
  activation.addEventListener("stage", draw);
  activation.addEventListener("status", draw);
  activation.addEventListener("connection", () => {
    performance.mark(`paidup:connection:${activation.connection}`);
    draw();
  });
  activation.addEventListener("error", onWatchError);
  activation.finished.then(settled, () => {});
}

/** No more updates follow for this invoice. */
function onWatchError() {
  if (state.order) storage.forget(state.order.invoice);
  go("home");
  el("home-error").textContent = "Reload the page to see your payment.";
}

export function showActivating() {
  go("activating");
  draw();
}

/** @param {any} [_event] */
function draw(_event) {
  const { activation, order, view } = state;
  if (!activation || !order) return;
  if (activation.status?.status === "active") return showCredits(activation.status);
  showBanner();
  if (view !== "activating") return;
  const plan = activation.status?.plan ?? order.plan;
  const stage = stageOf(activation, order);
  const screen = texts.screen(stage, {
    plan: planName(plan),
    kind: order.kind,
    credits: planOf(plan)?.credits ?? 0,
    confirmed: isConfirmed(order) || (isOnStripesPage(order) && stage === "verifying"),
    elsewhere: isOnStripesPage(order),
    online: activation.connection === "open" || activation.connection === "connecting",
    error: activation.status?.error?.message ?? null,
    reference: order.invoice,
    processing: activation.status?.processing?.message,
    voucher: activation.status?.processing?.kind === "voucher",
  });
  drawScreen(stage, screen);
}

/** @param {Activation} activation @param {Order} order */
function stageOf({ status, stage }, order) {
  if (status?.status === "reversed") return "reversed";
  return order.intent === "processing" && (stage === "waiting" || stage === "verifying")
    ? "processing"
    : stage;
}

/** The credits are there. Drawn in the same task that received the status. @param {Status} status */
function showCredits(status) {
  const id = idOf(status);
  if (el("source").dataset.invoice === id) return;
  el("source").dataset.invoice = id;
  timeline.follow(id);
  if (status.balance !== undefined) showBalance(status.balance); // else the account's own connection tells it
  const known = {
    plan: planName(status.plan),
    kind: planOf(status.plan)?.top_up ? "top-up" : state.order?.kind,
    credits: status.credits_granted,
    confirmed: true,
    online: true,
    error: null,
  };
  const screen = texts.screen("active", known);
  el("source").hidden = !status.via || status.credits_granted === 0;
  set("done-title", `${screen.heading}.`);
  set("done-text", screen.sentence + (mayPrint(status) ? " Your poster is being printed now." : ""));
  set("account-lead", "");
  if (state.view === "home" || state.view === "account") {
    state.announcement = `${screen.heading}: ${screen.sentence}`;
  } else go("done");
  refreshSoon();
  const at = state.order?.at;
  const active = mark("paidup:active");
  seen = { invoice: id, via: status.via, after: at ? active - at : null };
  tell({ webhook: null, missed: false });
  if (!reducedMotion.matches && status.credits_granted > 0) burst();
}

/** What was just seen, as far as it is known. @param {{webhook: number|null, missed: boolean}} known */
function tell({ webhook, missed }) {
  const told = texts.story({ ...seen, webhook, missed });
  el("source").dataset.via = seen.via ?? "";
  set("source-name", told?.line ?? "");
  set("source-reason", told?.why ?? "");
}

/** The timeline was drawn: it knows what became of Stripe's webhook. @param {import("../timeline/layout.js").Timeline} shown @param {string} invoice */
export function onTimeline(shown, invoice) {
  if (invoice === seen.invoice && shown.settled !== null) tell(shown);
}

/** Whether a poster is waiting and can be paid for now. @param {Status} status */
const mayPrint = ({ balance, credits_granted }) => !!storage.poster && (balance ?? credits_granted) >= PRICE;

/** @param {Status} status terminal */
function settled(status) {
  state.activation?.close();
  storage.forget(idOf(status));
  if (storage.begun?.invoice === idOf(status)) storage.begun = null;
  if (status.status !== "active") {
    if (state.view === "card") showActivating();
    return draw();
  }
  showCredits(status);
  const { view } = state;
  state.order = null;
  showBanner();
  if (mayPrint(status)) onCredits(view);
}

/** The credits have changed: where the payment that is shown was given up for another one, show that. */
export async function followReplacement() {
  const { order, activation } = state;
  if (!order || isOnStripesPage(order) || activation?.status?.status !== "void") return;
  const { replaced_by: instead } = await api.invoice(order.invoice).catch(() => ({ replaced_by: null }));
  if (instead && state.order === order) watch({ ...order, invoice: instead, secret: null }, null);
}

function burst() {
  el("burst").classList.remove("go");
  void el("burst").offsetWidth; // restart the animation
  el("burst").classList.add("go");
}

/**
 * Continue after a reload, in a second tab, or on the way back from another page, while a payment is pending.
 * @param {Activating} activating @param {boolean} back
 */
export function resume(activating, back) {
  followAndVerify(activating);
  const { status } = activating.status;
  const onItsWay =
    storage.confirmedAt(activating.invoice) || status === "processing" || status === "requires_action";
  if (state.order && (back || (onItsWay && state.order.kind === "plan"))) showActivating();
  else showBanner();
}

/**
 * Announce a payment of this browser that was settled while no page was open, e.g. by this page's first request; or
 * follow one that is made on a page of Stripe's. @param {import("../lib/api.js").Account} account @param {boolean} back
 */
export async function announceSettled({ checkout: open }, back) {
  const begun = storage.begun ?? (open && { invoice: open.checkout, kind: planOf(open.plan)?.top_up ? "top-up" : "plan" });
  if (!begun) return;
  const known = isOnStripesPage(begun) ? api.checkoutStatus(begun.invoice) : api.invoice(begun.invoice);
  const status = /** @type {Status|null} */ (await known.catch(() => null));
  if (back && status) go("activating"); // it is what they came for
  if (status?.status === "active" || (status && isOnStripesPage(begun) && status.status !== "void"))
    watch({ ...begun, plan: status.plan ?? begun.plan ?? "" }, status);
  else if (back && status) go("home");
  if (state.order) back ? showActivating() : showBanner();
}

/** Follow a payment that the server reported, and ask it to verify again. @param {Activating} activating */
export const followAndVerify = (activating) => follow(activating, true);

/** @param {Activating} activating @param {boolean} [ask] also verify again if it is already followed */
export function follow(activating, ask = false) {
  const { invoice, ticket, status } = activating;
  if (!ask && watching(invoice)) return;
  const kind = accountText.purposeOf(activating, planOf(status.plan));
  const known = state.order?.invoice === invoice ? state.order : { at: storage.confirmedAt(invoice), kind };
  watch({ ...known, invoice, ticket, plan: status.plan ?? "" }, status);
}
