// @ts-check
/**
 * The account page: the balance, the plan and what can be done about it, and the ledger.
 *
 * Owns what is shown there and when it is read anew. Pays nothing: whatever has to be paid is handed to the page.
 */
import * as account_words from "../lib/account_text.js";
import * as api from "../lib/api.js";
import { ask } from "./confirm_dialog.js";
import { el, set } from "../lib/dom.js";
import { refreshLedger, showOlder } from "./ledger.js";
import { chooseInterval, drawOffers, drawTopUp } from "./plan_offers.js";

/** @typedef {import("./plan_offers.js").Offer} Offer */
/** @typedef {{kind: string, plan: string, interval?: string, quantity?: number}} About what is being bought */
/**
 * What the account page needs of the rest.
 * @typedef {object} Page
 * @property {(request: () => Promise<api.Purchase>, about: About, errorId: string) => Promise<void>} buy
 * @property {(activating: api.Activating) => void} follow a payment that is on its way
 * @property {(way: account_words.Way) => void} pay it
 * @property {(balance: number) => void} showBalance
 * @property {number} price of a poster
 */

/** After a payment, and when the clock has moved, events and sweeps take a moment: the page looks more often. */
const LOOKS_MS = [400, 1000, 1800, 2800, 4000, 6000, 9000, 13_000, 20_000, 30_000];

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
/** @type {account_words.Notice|null} */
let notice = null;

/** @param {Page} of @param {api.Plan[]} sold */
export function setUpAccount(of, sold) {
  [page, plans] = [of, sold];
  el("plan-do").onclick = () => (account?.subscription?.cancel_at ? resume() : cancel());
  el("plan-pay").onclick = () => notice && page.pay(notice.way);
  el("older").onclick = () => attempt("ledger-error", () => showOlder(plans));
  el("rhythm").onchange = offer;
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

/** What has come due shows within seconds; the balance tells by itself, the plan has to be asked about. */
export function lookSoon() {
  refreshIfShown();
  for (const ms of LOOKS_MS) setTimeout(refreshIfShown, ms);
}

/**
 * Read everything anew, from now on: what is being read already may be older than what was just done.
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
    const [known] = await Promise.all([api.account(), refreshLedger(plans)]);
    if (!account) chooseInterval(known.subscription?.interval ?? "month");
    account = known;
    page.showBalance(known.balance);
    draw(known);
    set("account-error", "");
  });
}

/** @param {string} id @returns {api.Plan|undefined} */
const planOf = (id) => plans.find((plan) => plan.id === id);

/** @param {api.Account} known */
function draw(known) {
  const { activating, balance, installments, subscription } = known;
  const paying = planOf(activating?.status.plan ?? "");
  if (activating) page.follow(activating);
  notice =
    activating && account_words.notice(activating.status, account_words.purposeOf(activating, paying), paying);
  const plan = planOf(subscription?.plan ?? "");
  const { name, price, text } = account_words.standing(subscription, plan);
  set("plan-name", name);
  set("plan-price", price);
  set("plan-text", text);
  set("balance-text", account_words.purse(balance, page.price));
  set("to-come", account_words.toCome(installments));
  el("notice").hidden = !notice;
  set("notice-title", notice ? `${notice.title}.` : "");
  set("notice-text", notice?.text ?? "");
  set("plan-pay", notice?.label ?? "");
  const running = account_words.isRunning(subscription);
  const goes = !running && document.activeElement === el("plan-do");
  el("plan-do").hidden = !running;
  if (goes) el("plan-title").focus(); // it is over: the focus is not lost with the button
  set("plan-do", running && subscription.cancel_at ? `Resume ${name}` : `Cancel ${name}`);
  set("offers-title", running ? "Change the plan" : "Choose a plan");
  offer();
  el("view-account").dataset.read = "";
}

// ---- What the customer does

function offer() {
  const subscription = account?.subscription ?? null;
  drawOffers(plans, subscription, (offer) => {
    if (account_words.isRunning(subscription)) void change(offer, subscription);
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
  const price = account_words.priceOf(own, subscription.interval) ?? offer.price;
  const from = { plan: own, price };
  const { title, yes, no } = account_words.changeQuestion(from, offer);
  const text = account_words.changeMeaning(from, offer, subscription);
  if (!(await ask({ title, text, choices: [{ value: "yes", label: yes }], never: no }))) return;
  const [plan, interval] = [offer.plan.id, offer.price.interval];
  await page.buy(() => api.change(plan, interval), { kind: "change", plan, interval }, "offers-error");
}

async function cancel() {
  const subscription = account?.subscription;
  if (!subscription) return;
  const name = planOf(subscription.plan ?? "")?.name ?? "the plan";
  const end = subscription.current_period_end;
  const answer = await ask({
    title: `Cancel ${name}?`,
    text: account_words.cancelMeaning(name, end),
    choices: [
      { value: "period_end", label: end ? `End it on ${account_words.date(end)}` : "End it with its period" },
      { value: "now", label: "End it now" },
    ],
    never: `Keep ${name}`,
  });
  if (answer) await settle(() => api.cancel(answer === "now" ? "now" : "period_end"));
}

const resume = () => settle(api.resume);

/** @param {() => Promise<unknown>} act changes the subscription, and there is nothing to pay */
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
