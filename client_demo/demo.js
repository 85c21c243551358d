// @ts-check
/**
 * The demo application: a customer, a poster, and the plan that pays for it.
 *
 * Owns the order of screens and what is kept over a reload. What is true about money comes from the server alone.
 */
import * as api from "./api.js";
import { conditions } from "./conditions.js";
import { calm, el, set } from "./dom.js";
import { kept } from "./kept.js";
import { drawPlans, drawTestCards } from "./lists.js";
import { activate } from "./paidup.js";
import { cardField, confirm, stripe } from "./payment.js";
import { drawScreen } from "./screens.js";
import { deliver, hangAll, lay } from "./studio.js";
import * as words from "./words.js";

/** @typedef {import("./paidup.js").Activation} Activation */
/** @typedef {import("./paidup.js").Status} Status */
/** @typedef {"studio"|"plans"|"card"|"activating"|"done"} View */
/**
 * The subscription being paid for. `at`: when the bank confirmed, in ms since 1970; `intent`: what Stripe.js said last.
 * @typedef {{invoice: string, plan: string, ticket?: string, secret?: string|null, interval?: string,
 *   at?: number|null, intent?: string}} Order
 */

const PRICE = 10;
/** What is known now; the server's answers replace it. */
const state = {
  /** @type {api.Config|null} */ config: null,
  /** @type {api.Plan[]} */ plans: [],
  balance: 0,
  /** @type {View} */ view: "studio",
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
  if (changed) state.news = "";
  for (const section of document.querySelectorAll(".view"))
    /** @type {HTMLElement} */ (section).hidden = section.id !== `view-${view}`;
  showGallery();
  for (const error of document.querySelectorAll(".error")) error.textContent = "";
  showBanner();
  if (!changed) return;
  scrollTo({ top: 0 });
  el(`${view}-title`).focus({ preventScroll: true });
}

/** The gallery is for looking at, not for paying beside. */
function showGallery() {
  const looking = state.view === "studio" || state.view === "done";
  el("gallery-section").hidden = !looking || kept.gallery.length === 0;
}

/** @param {number} balance */
function showBalance(balance) {
  const from = state.balance;
  state.balance = balance;
  el("balance").dataset.value = String(balance);
  el("balance-unit").textContent = balance === 1 ? "credit" : "credits";
  if (calm.matches || balance <= from) {
    el("balance").textContent = words.number(balance);
    return;
  }
  const began = performance.now();
  const count = (/** @type {number} */ now) => {
    if (state.balance !== balance) return; // a newer figure has taken over
    const part = Math.min(1, Math.max(0, now - began) / 700);
    el("balance").textContent = words.number(Math.round(from + (balance - from) * (1 - (1 - part) ** 3)));
    if (part < 1) requestAnimationFrame(count);
  };
  requestAnimationFrame(count);
}

/** While a payment is pending and its screen is not shown, say so, quietly. */
function showBanner() {
  const { order, view, news } = state;
  const pending = order && watching(order.invoice);
  el("banner").hidden = !(pending || news) || view !== "studio";
  el("banner-open").hidden = !pending;
  if (news) set("banner-text", news);
  if (!pending) return;
  state.news = "";
  const text = isConfirmed(order)
    ? `Your ${planName(order.plan)} plan is being activated.`
    : `Your ${planName(order.plan)} plan is waiting for its payment.`;
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
    refused(problem, key, errorId);
  } finally {
    printing(false);
  }
}

/** @param {unknown} problem @param {string} key @param {string} errorId */
function refused(problem, key, errorId) {
  if (!(problem instanceof api.Problem) || problem.status !== 402) {
    el(errorId).textContent = problem instanceof Error ? problem.message : String(problem);
    return;
  }
  showBalance(problem.body.balance);
  lay(key);
  const { activating } = problem.body;
  if (activating) {
    adopt(activating);
    if (state.order) showActivating();
    return;
  }
  el("refusal").textContent =
    `A poster takes ${words.credits(PRICE)} and you have ${words.number(problem.body.balance)}. ` +
    "Choose a plan, and the poster waiting on the press is printed at once.";
  showPlans();
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
async function choose(plan, interval, errorId) {
  if (state.busy) return;
  busy(true);
  try {
    const { invoice, client_secret, ticket, status } = await api.subscribe(plan, interval);
    const order = { invoice, plan: status.plan ?? plan, ticket, secret: client_secret, interval };
    if (client_secret && status.status !== "active") {
      if (state.watched !== invoice) state.activation?.close();
      state.order = order;
      await showCard(order);
    } else {
      watch(order, status);
      if (state.order) showActivating();
    }
  } catch (problem) {
    await cannotBuy(/** @type {Error} */ (problem), errorId);
  } finally {
    busy(false);
  }
}

/** A conflict may be a payment that is on its way already, from another tab: then show that. @param {Error} problem @param {string} errorId */
async function cannotBuy(problem, errorId) {
  const conflict = problem instanceof api.Problem && problem.status === 409;
  const known = conflict ? await api.credits().catch(() => null) : null;
  if (known?.activating) {
    adopt(known.activating);
    if (state.order) showActivating();
    return;
  }
  el(errorId).textContent = conflict
    ? "You already have a plan. Its credits come again when it renews."
    : problem.message;
}

// ---- Card

/** @param {Order} order */
async function showCard(order) {
  const { config } = state;
  if (!config) return;
  const plan = planOf(order.plan);
  const price = plan?.prices.find((price) => price.interval === (order.interval ?? "month"));
  const cost = price ? words.money(price.amount_minor, price.currency) : "";
  el("order-name").textContent = plan
    ? `${plan.name}, ${words.credits(plan.credits)} a month`
    : planName(order.plan);
  el("order-price").textContent = price ? `${cost} a ${price.interval}` : "";
  el("pay").textContent = `Pay ${cost}`.trim();
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
  showBalance(status.balance);
  const known = {
    plan: planName(status.plan),
    credits: status.credits_granted,
    confirmed: true,
    online: true,
    error: null,
  };
  const screen = words.screen("active", known);
  const at = state.order?.at;
  const won = words.wonBy(status.via, at ? Date.now() - at : null);
  el("won").hidden = !won;
  set("won-by", won?.line ?? "");
  set("won-why", won?.why ?? "");
  set("done-title", `${screen.heading}.`);
  set("done-text", screen.sentence + (kept.poster ? " The poster you asked for is printed now." : ""));
  if (state.view === "studio") state.news = `${screen.heading}: ${screen.sentence}`;
  else go("done");
  performance.mark("paidup:active");
  if (!calm.matches) burst();
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
  if (kept.poster) void makePoster(`${view}-error`); // what was interrupted goes on by itself
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
    order.secret ??= (await api.subscribe(order.plan, order.interval)).client_secret;
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
  return order.secret ? showCard(order) : choose(order.plan, order.interval, "activating-error");
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
  go("studio");
  try {
    const [config, plans, credits] = await Promise.all([api.config(), api.plans(), api.credits()]);
    state.config = config;
    state.plans = plans;
    showBalance(credits.balance);
    if (config.publishable_key.startsWith("pk_test_")) drawTestCards();
    el("mode").textContent = config.sandbox ? "It runs against an imitation of Stripe; no money moves." : "";
    if (config.sandbox) void conditions(el("conditions"), config.sandbox);
    if (credits.activating) resume(credits.activating);
  } catch (problem) {
    el("studio-error").textContent = /** @type {Error} */ (problem).message;
  }
}

/** A reload, or a second tab, while a payment is on its way. @param {api.Activating} activating */
function resume(activating) {
  adopt(activating);
  const { status } = activating.status;
  const onItsWay =
    kept.confirmedAt(activating.invoice) || status === "processing" || status === "requires_action";
  if (state.order && onItsWay) showActivating();
  else showBanner();
}

/** Follow a payment that the server told of. @param {api.Activating} activating */
function adopt({ invoice, ticket, status }) {
  const known = state.order?.invoice === invoice ? state.order : { at: kept.confirmedAt(invoice) };
  watch({ ...known, invoice, ticket, plan: status.plan ?? "" }, status);
}

void start();
