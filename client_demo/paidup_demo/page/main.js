// @ts-check
/**
 * The demo application: a customer, a poster, and the plan that pays for it.
 *
 * Owns the poster's story and what each button does. What is true about money comes from the server alone.
 */
import { lookSoon, refreshIfShown, setUpAccount } from "./account.js";
import * as account_words from "../lib/account_text.js";
import { adopt, follow, resume, showActivating, whenActive } from "./activation.js";
import * as api from "../lib/api.js";
import { followBalance, showBalance } from "./balance.js";
import { clock } from "./test_clock.js";
import { el } from "../lib/dom.js";
import { kept } from "./storage.js";
import { drawTestCards } from "./plan_list.js";
import { bankCheck, buy, goOnPaying, listPlans, pay, payAgain, showCard, showPlans } from "./checkout.js";
import * as timeline from "../timeline/timeline.js";
import { here, onWandering } from "./router.js";
import { deliver, hangAll, lay } from "./gallery.js";
import { go, showGallery } from "./views.js";
import { PRICE, state } from "./session_state.js";
import * as words from "../lib/text.js";

/** @typedef {import("./router.js").View} View */

// ---- Posters

/** @param {string} errorId where to say what went wrong */
async function makePoster(errorId) {
  if (state.printing) return;
  printing(true);
  const key = (kept.poster ??= crypto.randomUUID());
  try {
    const { balance, seed } = await api.printPoster(key);
    kept.poster = null;
    showBalance(balance);
    await deliver(seed);
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
  if (activating) {
    adopt(activating);
    if (state.order) showActivating();
    return;
  }
  const known = await api.account().catch(() => null);
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

// ---- What links and buttons do

/** Links, Back and Forward: a purchase's own views come back only while there is one. @param {View} view */
function wander(view) {
  if (view === state.view) return;
  if (view === "plans") return void ACTIONS.plans();
  if (view === "card" && state.order?.secret) return void showCard(state.order);
  if (view === "activating" && state.order) return showActivating();
  go(view === "account" ? view : "studio");
}

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
  whenActive((view) => makePoster(`${view}-error`)); // what was interrupted goes on by itself
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
    void timeline.start(config);
    if (config.sandbox) void clock(lookSoon);
    if (account.activating) resume(account.activating);
  } catch (problem) {
    el(state.view === "account" ? "account-error" : "studio-error").textContent = /** @type {Error} */ (problem).message;
  }
}

void start();
