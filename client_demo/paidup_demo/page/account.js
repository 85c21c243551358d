// @ts-check
/**
 * The account page: the balance, the plan with its actions, and the credit history.
 *
 * Decides what is shown and when it is loaded again. Payments are passed to checkout.js.
 */
import * as accountText from "../lib/account_text.js";
import * as api from "../lib/api.js";
import { confirmChoice } from "./confirm_dialog.js";
import { el, set } from "../lib/dom.js";
import { refreshLedger, showOlder } from "./ledger.js";
import { chooseInterval, drawOffers, drawTopUp } from "./plan_offers.js";

/** @typedef {import("./plan_offers.js").Offer} Offer */
/** @typedef {{kind: string, plan: string, interval?: string, quantity?: number}} About what is being paid for */
/**
 * What the account page needs from the other modules.
 * @typedef {object} Page
 * @property {(request: () => Promise<api.Purchase|null>, about: About, errorId: string) => Promise<void>} buy
 * @property {(activating: api.Activating) => void} follow a pending payment
 * @property {(way: accountText.Way) => void} pay it
 * @property {(balance: number) => void} showBalance
 * @property {number} price of a poster
 */

/** Extra refreshes after a payment or a clock change, while events and reconciler runs are still under way. */
const REFRESH_AT_MS = [400, 1000, 1800, 2800, 4000, 6000, 9000, 13_000, 20_000, 30_000];

/** @type {Page} */
let page;
/** @type {api.Plan[]} */
let plans = [];
/** @type {api.Account|null} */
let account = null;
/** @type {Promise<void>|null} */
let reading = null;
/** @type {Promise<void>|null} */
let next = null;
/** @type {accountText.Notice|null} */
let notice = null;

/** @param {Page} of @param {api.Plan[]} sold */
export function setUpAccount(of, sold) {
  [page, plans] = [of, sold];
  el("plan-do").onclick = () => (account?.subscription?.cancel_at ? resume() : cancel());
  el("plan-pay").onclick = () => notice && page.pay(notice.way);
  el("older").onclick = () => attempt("ledger-error", () => showOlder(plans));
  el("offer-interval").onchange = offer;
  drawTopUp(plans, (plan, quantity) =>
    page.buy(() => api.topUp(plan.id, quantity), { kind: "top-up", plan: plan.id, quantity }, "top-up-error"),
  );
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") refreshIfShown();
  });
  refreshIfShown();
}

export function refreshIfShown() {
  if (page && !el("view-account").hidden) void refresh();
}

/** Refresh now and several times soon. The balance is pushed by the server; the plan has to be polled. */
export function refreshSoon() {
  refreshIfShown();
  for (const ms of REFRESH_AT_MS) setTimeout(refreshIfShown, ms);
}

/**
 * Load everything again. If a load is running, a new one starts after it: its data may predate the last action.
 *
 * @returns {Promise<void>}
 */
export function refresh() {
  if (reading) {
    next ??= reading.then(() => {
      next = null;
      return refresh();
    });
    return next;
  }
  reading = read().finally(() => {
    reading = null;
  });
  return reading;
}

async function read() {
  await attempt("account-error", async () => {
    const [known, credits] = await Promise.all([api.account(), api.credits(), refreshLedger(plans)]);
    if (!account) chooseInterval(known.subscription?.interval ?? "month");
    account = known;
    page.showBalance(known.balance);
    draw(known);
    set("balance-parts", accountText.balanceParts(credits));
    set("account-error", "");
  });
}

/** @param {string} id @returns {api.Plan|undefined} */
const planOf = (id) => plans.find((plan) => plan.id === id);

/** @param {api.Account} known */
function draw(known) {
  const { activating, balance, installments, renewing, subscription } = known;
  const paying = planOf(activating?.status.plan ?? "");
  if (activating) page.follow(activating);
  notice =
    activating && accountText.notice(activating.status, accountText.purposeOf(activating, paying), paying);
  const plan = planOf(subscription?.plan ?? "");
  const { name, price, text } = accountText.planSummary(subscription, plan, renewing);
  set("plan-name", name);
  set("plan-price", price);
  set("plan-text", text);
  set("balance-text", accountText.balanceText(balance, page.price));
  set("upcoming", accountText.upcomingCredits(installments));
  el("notice").hidden = !notice;
  set("notice-title", notice ? `${notice.title}.` : "");
  set("notice-text", notice?.text ?? "");
  set("plan-pay", notice?.label ?? "");
  const running = accountText.isRunning(subscription);
  const hidesFocus = !running && document.activeElement === el("plan-do");
  el("plan-do").hidden = !running;
  if (hidesFocus) el("plan-title").focus(); // the button is hidden now: keep the focus in the section
  set("plan-do", running && subscription.cancel_at ? `Resume ${name}` : `Cancel ${name}`);
  set("offers-title", running ? "Change the plan" : "Choose a plan");
  offer();
  el("view-account").dataset.read = "";
}

// ---- Actions

function offer() {
  const subscription = account?.subscription ?? null;
  drawOffers(plans, subscription, (offer) => {
    if (accountText.isRunning(subscription)) void change(offer, subscription);
    else void subscribe(offer);
  });
}

/** @param {Offer} offer */
const subscribe = ({ plan, price }) =>
  page.buy(
    () => api.subscribe(plan.id, price.interval),
    { kind: "plan", plan: plan.id, interval: price.interval },
    "offers-error",
  );

/** @param {Offer} offer @param {api.Subscription} subscription */
async function change(offer, subscription) {
  const own = planOf(subscription.plan ?? "") ?? offer.plan;
  const price = accountText.priceOf(own, subscription.interval) ?? offer.price;
  const from = { plan: own, price };
  const { title, yes, no } = accountText.changeQuestion(from, offer);
  const [plan, interval] = [offer.plan.id, offer.price.interval];
  const ask = async () => {
    const text = accountText.changeMeaning(from, offer, subscription, await api.previewChange(plan, interval));
    const choices = [{ value: "yes", label: yes }];
    return (await confirmChoice({ title, text, choices, cancelLabel: no })) ? api.change(plan, interval) : null;
  };
  await page.buy(ask, { kind: "change", plan, interval }, "offers-error");
}

async function cancel() {
  const subscription = account?.subscription;
  if (!subscription) return;
  const name = planOf(subscription.plan ?? "")?.name ?? "the plan";
  const end = subscription.current_period_end;
  const answer = await confirmChoice({
    title: `Cancel ${name}?`,
    text: accountText.cancelMeaning(name, end),
    choices: [
      { value: "period_end", label: end ? `End it on ${accountText.date(end)}` : "End it at the end of its period" },
      { value: "now", label: "End it now" },
    ],
    cancelLabel: `Keep ${name}`,
  });
  if (answer) await settle(() => api.cancel(answer === "now" ? "now" : "period_end"));
}

const resume = () => settle(api.resume);

/** @param {() => Promise<unknown>} act changes the subscription without a payment */
async function settle(act) {
  if (el("plan-do").ariaDisabled === "true") return;
  el("plan-do").ariaDisabled = "true";
  await attempt("plan-error", async () => {
    set("plan-error", "");
    await act();
    await refresh();
  });
  el("plan-do").ariaDisabled = "false";
}

/** @param {string} errorId @param {() => Promise<void>} act */
async function attempt(errorId, act) {
  try {
    await act();
  } catch (problem) {
    set(errorId, /** @type {Error} */ (problem).message);
  }
}
