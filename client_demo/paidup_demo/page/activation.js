// @ts-check
/**
 * The wait for the credits: one invoice is watched, and the page shows what is heard of it.
 *
 * Owns the activating screen and the joy at its end. Nothing is paid here.
 */
import { lookSoon } from "./account.js";
import * as account_words from "../lib/account_text.js";
import { showBalance } from "./balance.js";
import { calm, el, set } from "../lib/dom.js";
import { kept } from "./storage.js";
import { activate } from "../sdk/paidup.js";
import * as timeline from "../timeline/timeline.js";
import { drawScreen } from "./activation_view.js";
import { go, showBanner } from "./views.js";
import { isConfirmed, planName, planOf, PRICE, state, watching } from "./session_state.js";
import * as words from "../lib/text.js";

/** @typedef {import("../lib/api.js").Activating} Activating */
/** @typedef {import("../sdk/paidup.js").Status} Status */
/** @typedef {import("./session_state.js").Activation} Activation */
/** @typedef {import("./session_state.js").Order} Order */

/** @type {(view: string) => unknown} */
let goOn = () => {};

/** @param {(view: string) => unknown} run once credits have come for a poster that waits; told the view that is shown */
export const whenActive = (run) => void (goOn = run);

/** @param {Order} order @param {Status|null} status what is known already */
export function watch(order, status) {
  state.order = order;
  if (status?.status === "active") return settled(status);
  if (watching(order.invoice)) return state.activation?.verify();
  state.activation?.close();
  const activation = (state.activation = activate({ invoice: order.invoice, ticket: order.ticket }));
  state.watched = order.invoice;
  delete order.ticket; // used up
  activation.addEventListener("stage", draw);
  activation.addEventListener("status", draw);
  activation.addEventListener("connection", () => {
    performance.mark(`paidup:connection:${activation.connection}`);
    draw();
  });
  activation.addEventListener("error", (event) => gone(/** @type {CustomEvent} */ (event).detail));
  activation.finished.then(settled, () => {});
}

/** @param {Error} error the server will say no more about this invoice */
function gone(error) {
  if (state.order) kept.forget(state.order.invoice);
  go("studio");
  el("studio-error").textContent =
    `This payment can no longer be followed here (${error.message.toLowerCase()}) Reload the page to see where it stands.`;
}

export function showActivating() {
  go("activating");
  draw();
}

/** @param {any} [_event] */
function draw(_event) {
  const { activation, order, view } = state;
  if (!activation || !order) return;
  if (activation.status?.status === "active") return arrived(activation.status);
  showBanner();
  if (view !== "activating") return;
  const plan = activation.status?.plan ?? order.plan;
  const stage = stageOf(activation, order);
  const screen = words.screen(stage, {
    plan: planName(plan),
    kind: order.kind,
    credits: planOf(plan)?.credits ?? 0,
    confirmed: isConfirmed(order),
    online: activation.connection === "open" || activation.connection === "connecting",
    error: activation.status?.error?.message ?? null,
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

/** Credits are there. Drawn in the very task that heard of it. @param {Status} status */
function arrived(status) {
  if (el("won").dataset.invoice === status.invoice) return;
  el("won").dataset.invoice = status.invoice;
  timeline.follow(status.invoice);
  showBalance(status.balance);
  const known = {
    plan: planName(status.plan),
    kind: planOf(status.plan)?.top_up ? "top-up" : state.order?.kind,
    credits: status.credits_granted,
    confirmed: true,
    online: true,
    error: null,
  };
  const screen = words.screen("active", known);
  const at = state.order?.at;
  const won = words.wonBy(status.via, at ? Date.now() - at : null);
  el("won").hidden = !won || status.credits_granted === 0;
  set("won-by", won?.line ?? "");
  set("won-why", won?.why ?? "");
  set("done-title", `${screen.heading}.`);
  set("done-text", screen.sentence + (mayPrint(status) ? " The poster you asked for is printed now." : ""));
  set("account-lead", "");
  if (state.view === "studio" || state.view === "account") {
    state.news = `${screen.heading}: ${screen.sentence}`;
  } else go("done");
  lookSoon();
  performance.mark("paidup:active");
  if (!calm.matches && status.credits_granted > 0) burst();
}

/** Whether a poster waits that can be paid for now. @param {Status} status */
const mayPrint = ({ balance }) => !!kept.poster && balance >= PRICE;

/** @param {Status} status terminal */
function settled(status) {
  state.activation?.close();
  kept.forget(status.invoice);
  if (status.status !== "active") {
    if (state.view === "card") showActivating();
    return draw();
  }
  arrived(status);
  const { view } = state;
  state.order = null;
  showBanner();
  if (mayPrint(status)) goOn(view);
}

function burst() {
  el("burst").classList.remove("go");
  void el("burst").offsetWidth; // start again from the beginning
  el("burst").classList.add("go");
}

/** A reload, or a second tab, while a payment is on its way. @param {Activating} activating */
export function resume(activating) {
  adopt(activating);
  const { status } = activating.status;
  const onItsWay =
    kept.confirmedAt(activating.invoice) || status === "processing" || status === "requires_action";
  if (state.order && onItsWay && state.order.kind === "plan") showActivating();
  else showBanner();
}

/** Follow a payment that the server told of, and ask it to look again. @param {Activating} activating */
export const adopt = (activating) => follow(activating, true);

/** @param {Activating} activating @param {boolean} [ask] the server to look again, where it is known */
export function follow(activating, ask = false) {
  const { invoice, ticket, status } = activating;
  if (!ask && watching(invoice)) return;
  const kind = account_words.purposeOf(activating, planOf(status.plan));
  const known = state.order?.invoice === invoice ? state.order : { at: kept.confirmedAt(invoice), kind };
  watch({ ...known, invoice, ticket, plan: status.plan ?? "" }, status);
}
