// @ts-check
/**
 * The demo application: prints posters for credits and connects every button with its action.
 *
 * Everything about money comes from the server.
 */
import { refreshSoon, refreshIfShown, setUpAccount } from "./account.js";
import * as accountText from "../lib/account_text.js";
import { announceSettled, followAndVerify, follow, followReplacement, onTimeline, resume, showActivating, whenActive } from "./activation.js";
import * as api from "../lib/api.js";
import { followBalance, showBalance } from "./balance.js";
import { clock } from "./test_clock.js";
import { el } from "../lib/dom.js";
import { storage } from "./storage.js";
import { drawTestCards } from "./plan_list.js";
import { bankCheck, buy, changeWay, continuePayment, listPlans, pay, retryPayment, showCard, showPlans } from "./checkout.js";
import * as timeline from "../timeline/timeline.js";
import { cameBack, here, onNavigate } from "./router.js";
import { printToGallery, drawGallery, showSheet } from "./gallery.js";
import { go, showGallery } from "./views.js";
import { setUpWays } from "./ways.js";
import { PRICE, state } from "./session_state.js";
import * as texts from "../lib/text.js";

/** @typedef {import("./router.js").View} View */

// ---- Posters

/** @param {string} errorId where to show an error */
async function makePoster(errorId) {
  if (state.printing) return;
  printing(true);
  const key = (storage.poster ??= crypto.randomUUID());
  try {
    const { balance, seed } = await api.printPoster(key);
    storage.poster = null;
    showBalance(balance);
    await printToGallery(seed);
    showGallery();
  } catch (problem) {
    await onPrintError(problem, key, errorId);
  } finally {
    printing(false);
  }
}

/** @param {unknown} problem @param {string} key @param {string} errorId */
async function onPrintError(problem, key, errorId) {
  if (!(problem instanceof api.Problem) || problem.status !== 402) {
    el(errorId).textContent = problem instanceof Error ? problem.message : String(problem);
    return;
  }
  showBalance(problem.body.balance);
  showSheet(key);
  const { activating } = problem.body;
  if (activating) {
    followAndVerify(activating);
    if (state.order) showActivating();
    return;
  }
  const known = await api.account().catch(() => null);
  const wanting = `A poster takes ${texts.credits(PRICE)} and you have ${texts.number(problem.body.balance)}.`;
  const then = "your waiting poster is printed right away.";
  if (accountText.isRunning(known?.subscription ?? null)) {
    go("account");
    el("account-lead").textContent = `${wanting} Add credits or change to a bigger plan, and ${then}`;
    return;
  }
  el("refusal").textContent = `${wanting} Choose a plan, and ${then}`;
  await showPlans();
}

/** While busy, clicks are ignored; the button stays enabled so that it keeps the focus. @param {boolean} yes */
function printing(yes) {
  state.printing = yes;
  for (const id of ["make", "another"]) el(id).setAttribute("aria-disabled", String(yes));
}

// ---- Links and buttons

/** Links, Back and Forward. The views of a purchase are only reachable while there is one. @param {View} view */
function navigate(view) {
  if (view === state.view) return;
  if (view === "plans") return void ACTIONS.plans();
  if (view === "card" && state.order?.secret) return void showCard(state.order);
  if (view === "activating" && state.order) return showActivating();
  go(view === "account" ? view : "home");
}

/** @type {Record<texts.Action|"plans", () => unknown>} */
const ACTIONS = {
  home: () => go("home"),
  account: () => go("account"),
  plans: () => {
    el("refusal").textContent = "You get a plan’s credits immediately, and again each month.";
    return showPlans();
  },
  check: () => state.activation?.verify(),
  bank: bankCheck,
  pay: () => retryPayment(),
  retry: () => retryPayment(),
  restart: () => ACTIONS.plans(),
};

async function startOver() {
  try {
    await api.newCustomer();
    sessionStorage.clear();
    localStorage.clear();
    location.assign("/");
  } catch (problem) {
    go("home");
    el("home-error").textContent = /** @type {Error} */ (problem).message;
  }
}

function addListeners() {
  onNavigate(navigate);
  document.querySelector(".skip")?.addEventListener("click", (event) => {
    event.preventDefault(); // the hash is used for views
    el("work").focus();
  });
  whenActive((view) => makePoster(`${view}-error`)); // continue the interrupted poster
  setUpWays(() => void changeWay());
  el("make").onclick = () => makePoster("home-error");
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
    if (action) void ACTIONS[/** @type {texts.Action} */ (action)]();
  });
  addEventListener("storage", ({ key }) => {
    // Another tab has just paid the invoice that this one watches.
    if (state.order && key === `halftone:confirmed:${state.order.invoice}`) state.activation?.verify();
  });
}

async function start() {
  addListeners();
  drawGallery();
  showSheet(storage.poster);
  const back = cameBack();
  const wanted = here();
  go(wanted === "account" ? wanted : "home");
  try {
    const [config, plans, account] = await Promise.all([api.config(), api.plans(), api.account()]);
    state.config = config;
    state.plans = plans;
    showBalance(account.balance);
    followBalance(() => {
      refreshIfShown();
      void followReplacement();
    });
    setUpAccount({ buy, follow, pay: continuePayment, showBalance, price: PRICE }, plans);
    if (config.publishable_key.startsWith("pk_test_")) drawTestCards(!!config.sandbox);
    el("mode").textContent = config.sandbox ? "It runs against an imitation of Stripe; no real payments are made." : "";
    void timeline.start(config, onTimeline);
    if (config.sandbox) void clock(refreshSoon);
    if (account.activating) resume(account.activating, back);
    else void announceSettled(account, back);
  } catch (problem) {
    el(state.view === "account" ? "account-error" : "home-error").textContent = /** @type {Error} */ (problem).message;
  }
}

void start();
