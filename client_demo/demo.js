// @ts-check
/**
 * The demo application: a customer, a poster, and the plan that pays for it.
 *
 * Owns the order of screens and what is kept over a reload. What is true about money comes from the server alone.
 */
import { lookSoon, refreshIfShown, setUpAccount } from "./account.js";
import * as account_words from "./account_words.js";
import * as api from "./api.js";
import { followBalance, showBalance } from "./balance.js";
import { clock } from "./clock.js";
import { calm, el, set } from "./dom.js";
import { kept } from "./kept.js";
import { drawPlans, drawTestCards } from "./lists.js";
import { activate } from "./paidup.js";
import { cardField, confirm, stripe, waitsForBank } from "./payment.js";
import * as race from "./race.js";
import { enter, here, onWandering } from "./router.js";
import { drawScreen } from "./screens.js";
import { deliver, hangAll, lay } from "./studio.js";
import * as words from "./words.js";

/** @typedef {import("./paidup.js").Activation} Activation */
/** @typedef {import("./paidup.js").Status} Status */
/** @typedef {import("./router.js").View} View */
/**
 * What is being paid for. `kind`: plan, change, renewal or top-up; `at`: when the bank confirmed, in ms since 1970;
 * `intent`: what Stripe.js said last; `adopted`: the server told of it, nobody bought it here.
 * @typedef {{invoice: string, plan: string, kind?: string, ticket?: string, secret?: string|null, interval?: string,
 *   quantity?: number, at?: number|null, intent?: string, adopted?: boolean}} Order
 */

const PRICE = 10;
/** What is known now; the server's answers replace it. */
const state = {
  /** @type {api.Config|null} */ config: null,
  /** @type {api.Plan[]} */ plans: [],
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

// ---- Screens

/** @param {View} view */
function go(view) {
  const changed = state.view !== view;
  state.view = view;
  enter(view);
  if (changed) state.news = "";
  document.title = view === "account" ? "Your account – Halftone" : "Halftone";
  el("work").dataset.view = view;
  el("to-account").ariaCurrent = view === "account" ? "page" : null;
  for (const section of document.querySelectorAll(".view"))
    /** @type {HTMLElement} */ (section).hidden = section.id !== `view-${view}`;
  showGallery();
  for (const error of document.querySelectorAll(".error")) error.textContent = "";
  showBanner();
  if (!changed) return;
  scrollTo({ top: 0 });
  el(`${view}-title`).focus({ preventScroll: true });
  if (view === "account") refreshIfShown();
}

/** Links, Back and Forward: a purchase's own views come back only while there is one. @param {View} view */
function wander(view) {
  if (view === state.view) return;
  if (view === "plans") return void ACTIONS.plans();
  if (view === "card" && state.order?.secret) return void showCard(state.order);
  if (view === "activating" && state.order) return showActivating();
  go(view === "account" ? view : "studio");
}

/** The gallery is for looking at, not for paying beside. */
function showGallery() {
  const looking = state.view === "studio" || state.view === "done";
  el("gallery-section").hidden = !looking || kept.gallery.length === 0;
}

/** While a payment is pending and its screen is not shown, say so, quietly; the account page says it by itself. */
function showBanner() {
  const { activation, order, view, news } = state;
  const pending = order && watching(order.invoice) && view !== "account";
  el("banner").hidden = !(pending || news) || !(view === "studio" || view === "account");
  el("banner-open").hidden = !pending;
  if (news) set("banner-text", news);
  if (!pending) return;
  state.news = "";
  const plan = planOf(order.plan);
  const known = activation?.status ?? { status: "open", error: null };
  const text = isConfirmed(order)
    ? `Your ${planName(order.plan)} plan is being activated.`
    : `${account_words.notice(known, order.kind ?? "plan", plan).title}.`;
  set("banner-text", text);
  set("banner-open", isConfirmed(order) ? "Show" : "Continue");
}

/** Whether some tab of this browser has seen the bank confirm. @param {Order} order */
const isConfirmed = (order) => !!(order.at ?? kept.confirmedAt(order.invoice));

/** @param {string|null} id */
const planOf = (id) => state.plans.find((plan) => plan.id === id);
/** @param {string|null} id */
const planName = (id) => planOf(id)?.name ?? id ?? "new";

// ---- Posters

/** @param {string} errorId where to say what went wrong */
async function makePoster(errorId) {
  if (state.printing) return;
  printing(true);
  const key = (kept.poster ??= crypto.randomUUID());
  try {
    const { balance } = await api.spend(PRICE, key);
    kept.poster = null;
    showBalance(balance);
    await deliver(key);
    showGallery();
  } catch (problem) {
    await refused(problem, key, errorId);
  } finally {
    printing(false);
  }
}

/** @param {unknown} problem @param {string} key @param {string} errorId */
async function refused(problem, key, errorId) {
  if (!(problem instanceof api.Problem) || problem.status !== 402) {
    el(errorId).textContent = problem instanceof Error ? problem.message : String(problem);
    return;
  }
  showBalance(problem.body.balance);
  lay(key);
  const { activating } = problem.body;
  const known = await api.account().catch(() => null);
  if (activating) {
    adopt(activating, known?.subscription ?? null);
    if (state.order) showActivating();
    return;
  }
  const wanting = `A poster takes ${words.credits(PRICE)} and you have ${words.number(problem.body.balance)}.`;
  const then = "the poster waiting on the press is printed at once.";
  if (account_words.isRunning(known?.subscription ?? null)) {
    go("account");
    el("account-lead").textContent = `${wanting} Add credits or change to a bigger plan, and ${then}`;
    return;
  }
  el("refusal").textContent = `${wanting} Choose a plan, and ${then}`;
  await showPlans();
}

/** A click while busy does nothing; the button stays, and so does the focus on it. @param {boolean} yes */
function printing(yes) {
  state.printing = yes;
  for (const id of ["make", "another"]) el(id).setAttribute("aria-disabled", String(yes));
}

/** @param {boolean} yes */
function busy(yes) {
  state.busy = yes;
  el("pay").setAttribute("aria-disabled", String(yes));
}

// ---- Plans

async function showPlans() {
  go("plans");
  if (state.config) void stripe(state.config.stripe_js, state.config.publishable_key).catch(() => {}); // warm
  try {
    if (!state.plans.length) state.plans = await api.plans();
    listPlans();
  } catch (problem) {
    el("plans-error").textContent = /** @type {Error} */ (problem).message;
  }
}

const listPlans = () => drawPlans(state.plans, (plan, interval) => choose(plan, interval, "plans-error"));

/** @param {string} plan @param {string|undefined} interval @param {string} errorId */
const choose = (plan, interval, errorId) =>
  buy(() => api.subscribe(plan, interval), { kind: "plan", plan, interval }, errorId);

/**
 * Ask for what shall be paid, and lead through it.
 * @param {() => Promise<api.Purchase>} request @param {Partial<Order> & {plan: string}} about @param {string} errorId
 */
async function buy(request, about, errorId) {
  if (state.busy) return;
  busy(true);
  el(errorId).textContent = "";
  let check = false;
  try {
    check = await begin(await request(), about);
  } catch (problem) {
    await cannotBuy(/** @type {Error} */ (problem), errorId);
  } finally {
    busy(false);
  }
  if (check) await bankCheck();
}

/**
 * The card form, or the wait; where a card that we have paid at once, the joy of it.
 * @param {api.Purchase} purchase @param {Partial<Order> & {plan: string}} about
 * @returns {Promise<boolean>} whether the bank wants to check a card that we have
 */
async function begin({ invoice, client_secret, ticket, status }, about) {
  if (["studio", "plans", "account"].includes(state.view)) state.origin = state.view;
  const order = { ...about, invoice, plan: status.plan ?? about.plan, ticket, secret: client_secret };
  const checked = await bankIsAsked(order, status);
  if (client_secret && !checked && status.status !== "active" && status.status !== "processing") {
    if (state.watched !== invoice) state.activation?.close();
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

/** A card that we have is charged without a form; then its bank may ask. @param {Order} order @param {Status} status */
async function bankIsAsked({ kind, secret }, { status }) {
  if (!state.config || !secret || !(kind === "change" || kind === "renewal")) return false;
  if (status === "requires_action") return true;
  if (status !== "open") return false;
  const library = await stripe(state.config.stripe_js, state.config.publishable_key);
  return waitsForBank(library, secret);
}

/** A conflict may be a payment that is on its way already, from another tab: then show that. @param {Error} problem @param {string} errorId */
async function cannotBuy(problem, errorId) {
  if (!(problem instanceof api.Problem) || problem.status !== 409) {
    el(errorId).textContent = problem.message;
    return;
  }
  const known = await api.account().catch(() => null);
  if (known?.activating && problem.kind !== "already-on-plan") {
    adopt(known.activating, known.subscription);
    if (state.order) return showActivating();
  }
  el(errorId).textContent = CONFLICTS[problem.kind] ?? problem.message;
  refreshIfShown();
}

/** @type {Record<string, string>} */
const CONFLICTS = {
  "already-subscribed": "You already have a plan. Your account page shows it, and can change it.",
  "already-on-plan": "This is your plan already.",
  "not-subscribed": "The plan has ended meanwhile. Choose one anew.",
};

// ---- Card

/** @param {Order} order */
async function showCard(order) {
  const { config } = state;
  if (!config) return;
  const { name, price, cost } = account_words.order(order, planOf(order.plan));
  el("order-name").textContent = name || planName(order.plan);
  el("order-price").textContent = price;
  el("pay").textContent = `Pay ${cost}`.trim();
  const toAccount = state.origin === "account";
  el("card-back").dataset.action = toAccount ? "account" : "plans";
  el("card-back").textContent = toAccount ? "Back to your account" : "Choose another plan";
  go("card");
  try {
    const library = await stripe(config.stripe_js, config.publishable_key);
    state.card ??= cardField(
      library,
      el("card"),
      (_complete, error) => (el("card-error").textContent = error),
    );
    state.card.focus();
  } catch (problem) {
    el("card-error").textContent = /** @type {Error} */ (problem).message;
  }
}

async function pay() {
  const { config, order, card } = state;
  if (state.busy || !config || !order?.secret) return;
  if (!card) return showCard(order);
  busy(true);
  el("pay").dataset.label = el("pay").textContent;
  el("pay").textContent = "Asking your bank…";
  el("card-error").textContent = "";
  try {
    const library = await stripe(config.stripe_js, config.publishable_key);
    await race.paying();
    const outcome = await confirm(library, order.secret, card);
    if (outcome.kind === "confirmed") confirmed(order, outcome.status);
    else if (state.view === "card") el("card-error").textContent = outcome.message;
  } finally {
    el("pay").textContent = el("pay").dataset.label;
    busy(false);
  }
}

/** The bank said yes: from here on only the server is asked. @param {Order} order @param {string} intent its status */
function confirmed(order, intent) {
  performance.mark("paidup:confirmed");
  if (el("won").dataset.invoice === order.invoice) return; // the socket was quicker than Stripe.js
  kept.confirm(order.invoice);
  if (race.confirmed(order.invoice)) return; // this tab is being closed
  order.at = Date.now();
  order.intent = intent;
  if (!watching(order.invoice)) watch(order, null);
  state.activation?.confirmed(intent);
  if (state.order && state.view !== "done") showActivating();
}

// ---- Activation

/** @param {string} invoice */
const watching = (invoice) =>
  state.watched === invoice && !!state.activation && state.activation.connection !== "closed";

/** @param {Order} order @param {Status|null} status what is known already */
function watch(order, status) {
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

function showActivating() {
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
  race.follow(status.invoice);
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
  const printing = kept.poster && status.balance >= PRICE;
  set("done-text", screen.sentence + (printing ? " The poster you asked for is printed now." : ""));
  set("account-lead", "");
  if (state.view === "studio" || state.view === "account") {
    state.news = `${screen.heading}: ${screen.sentence}`;
  } else go("done");
  lookSoon();
  performance.mark("paidup:active");
  if (!calm.matches && status.credits_granted > 0) burst();
}

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
  if (kept.poster && status.balance >= PRICE) void makePoster(`${view}-error`); // what was interrupted goes on by itself
}

function burst() {
  el("burst").classList.remove("go");
  void el("burst").offsetWidth; // start again from the beginning
  el("burst").classList.add("go");
}

/** The bank's check once more: with the secret still at hand, or fetched again. */
async function bankCheck() {
  const { config, order } = state;
  if (state.busy || !config || !order) return;
  busy(true);
  try {
    order.secret ??= (await api.takeUp(order.invoice)).client_secret;
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

// ---- What buttons do

/** @type {Record<words.Action|"plans", () => unknown>} */
const ACTIONS = {
  studio: () => go("studio"),
  account: () => go("account"),
  plans: () => {
    el("refusal").textContent = "Every plan gives its credits at once, and again each month.";
    return showPlans();
  },
  check: () => state.activation?.verify(),
  bank: bankCheck,
  pay: () => payAgain(),
  retry: () => payAgain(),
  restart: () => ACTIONS.plans(),
};

/** The card form for the same payment: a second card cannot pay twice. */
function payAgain() {
  const { order } = state;
  if (!order) return;
  kept.forget(order.invoice);
  order.at = null;
  if (order.secret) return showCard(order);
  const errorId = state.view === "account" ? "plan-error" : "activating-error";
  return buy(() => api.takeUp(order.invoice), { ...order, kind: order.kind ?? "plan" }, errorId);
}

/** From what the account page says of a payment that waits. @param {account_words.Way} way */
function goOnPaying(way) {
  if (!state.order) return;
  state.origin = "account";
  if (way === "pay") return void payAgain();
  showActivating();
  if (way === "bank") void bankCheck();
}

async function startOver() {
  try {
    await api.newCustomer();
    sessionStorage.clear();
    localStorage.clear();
    location.assign("/");
  } catch (problem) {
    go("studio");
    el("studio-error").textContent = /** @type {Error} */ (problem).message;
  }
}

function wire() {
  onWandering(wander);
  document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault(); // the address names views
    el("work").focus();
  });
  el("make").onclick = () => makePoster("studio-error");
  el("another").onclick = () => makePoster("done-error");
  el("banner-open").onclick = showActivating;
  el("start-over").onclick = startOver;
  el("interval").onchange = listPlans;
  el("card-form").onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    void pay();
  };
  document.addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    const action = /** @type {HTMLElement|null} */ (target.closest("[data-action]"))?.dataset.action;
    if (action) void ACTIONS[/** @type {words.Action} */ (action)]();
  });
  addEventListener("storage", ({ key }) => {
    // The other tab has just paid for what this one is watching.
    if (state.order && key === `halftone:confirmed:${state.order.invoice}`) state.activation?.verify();
  });
}

async function start() {
  wire();
  hangAll();
  lay(kept.poster);
  const wanted = here();
  go(wanted === "account" ? wanted : "studio");
  try {
    const [config, plans, account] = await Promise.all([api.config(), api.plans(), api.account()]);
    state.config = config;
    state.plans = plans;
    showBalance(account.balance);
    followBalance(refreshIfShown);
    setUpAccount({ buy, follow, pay: goOnPaying, showBalance, price: PRICE }, plans);
    if (config.publishable_key.startsWith("pk_test_")) drawTestCards();
    el("mode").textContent = config.sandbox ? "It runs against an imitation of Stripe; no money moves." : "";
    void race.start(config);
    if (config.sandbox) void clock(lookSoon);
    if (account.activating) resume(account.activating, account.subscription);
  } catch (problem) {
    el(state.view === "account" ? "account-error" : "studio-error").textContent = /** @type {Error} */ (problem).message;
  }
}

/** A reload, or a second tab, while a payment is on its way. @param {api.Activating} activating @param {api.Subscription|null} subscription */
function resume(activating, subscription) {
  adopt(activating, subscription);
  const { status } = activating.status;
  const onItsWay =
    kept.confirmedAt(activating.invoice) || status === "processing" || status === "requires_action";
  if (state.order && onItsWay && state.order.kind === "plan") showActivating();
  else showBanner();
}

/** Follow a payment that the server told of. @param {api.Activating} activating @param {api.Subscription|null} subscription */
function adopt(activating, subscription) {
  const plan = planOf(activating.status.plan);
  follow(activating, account_words.purposeOf(activating, subscription, plan), true);
}

/** @param {api.Activating} activating @param {string} kind @param {boolean} [ask] the server to look again, where it is known */
function follow({ invoice, ticket, status }, kind, ask = false) {
  /** @type {Partial<Order>} */
  const known = state.order?.invoice === invoice ? state.order : { at: kept.confirmedAt(invoice), adopted: true };
  if (known.adopted) known.kind = kind; // it may become plainer what it is for
  if (!ask && watching(invoice)) return;
  watch({ ...known, invoice, ticket, plan: status.plan ?? "" }, status);
}

void start();
