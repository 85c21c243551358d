// @ts-check
/**
 * The race view: this very purchase as it happens, lane by lane, and the same purchase in other ways.
 *
 * Owns what is fetched, when, and what the browser itself adds: its performance marks, told by the server's clock.
 * It only looks on: nothing here takes part in an activation.
 */
import { call } from "../lib/api.js";
import { conditions, strike, struckEnough, weather } from "./fault_controls.js";
import { el, whileMoving } from "../lib/dom.js";
import { draw } from "./draw.js";
import { span, story, unbroken, windows } from "./layout.js";
import { others } from "./alternatives.js";

/** @typedef {import("./layout.js").Mark} Mark */
/** @typedef {import("./layout.js").Purchase} Purchase */
/** @typedef {Omit<Purchase, "marks">} Picture as the server tells it */
/** @typedef {import("./layout.js").Story} Story */

const KEPT = "halftone:race";
const LOOK_UNTIL_MS = 15 * 60_000;
const AWAY_MS = 1000; // nobody looks, or nobody answers
const FIRST_LOOK_MS = 200; // after the bank said yes: drawing what happens may not hold it up
const STRAGGLERS = 4; // looks after all has come: a second copy may follow

/** `clock`: what to add to this page's clock for the server's, known to ± `within` ms. */
const state = {
  /** @type {string|null} */ invoice: null,
  /** @type {Picture|null} */ picture: null,
  /** @type {Mark[]} by the server's clock, from pages before this one */ kept: [],
  /** @type {{what: string, local: number}[]} */ fresh: [],
  /** @type {{offset: number, within: number}|null} */ clock: null,
  /** @type {number|undefined} */ timer: undefined,
  turn: 0, // of looking: the last one goes on
  looks: 0,
  rows: "",
};

/** This page's clock, in ms since 1970: one that never jumps. */
const local = () => performance.timeOrigin + performance.now();
const serverNow = () => local() + (state.clock?.offset ?? 0);

// ---- What the page calls

/** @param {{sandbox: string|null, stripe_js: string, publishable_key: string}} config */
export async function start(config) {
  build();
  const { invoice, can } = await ask("/demo/race").catch(() => ({ invoice: null, can: [] }));
  const moment = async (/** @type {string} */ what) => {
    if (what === "socket" && !state.invoice) throw new Error("Buy something first: there is no socket to cut.");
    await call("POST", "/demo/race/moments", { what, invoice: state.invoice ?? undefined });
    await look();
  };
  const panel = el("conditions");
  if (config.sandbox && panel) void conditions(panel, config.sandbox, can, moment);
  if (config.sandbox && can.length) others(el("race-others"), config);
  if (state.invoice) return; // a purchase was quicker than this answer
  const kept = read();
  if (kept || invoice) follow(kept?.invoice ?? invoice);
  if (panel && seen("closed") && !seen("active")) note("opened");
}

/** The card form is sent off: conditions that are to begin now, begin. */
export const paying = weather;

/** The bank said yes. @param {string} invoice @returns {boolean} whether this tab is being closed now */
export function confirmed(invoice) {
  begin(invoice, [], FIRST_LOOK_MS); // anew, where a first card failed after all
  note("confirmed");
  if (!strike()) return false;
  note("closed");
  location.assign("/demo/away");
  return true;
}

/** Show the race of this invoice. @param {string} invoice */
export function follow(invoice) {
  if (state.invoice === invoice) return;
  const kept = read();
  begin(invoice, kept?.invoice === invoice ? kept.marks : []);
}

/** @param {string} invoice @param {Mark[]} kept @param {number} [wait] before the first look */
function begin(invoice, kept, wait = 0) {
  Object.assign(state, { invoice, kept, picture: null, fresh: [], looks: 0, rows: "" });
  state.turn += 1;
  clearTimeout(state.timer);
  state.timer = setTimeout(look, wait);
}

// ---- What the browser knows by itself

/** @param {string} what @param {number} [at] by this page's clock */
function note(what, at = local()) {
  if (seen(what)) return;
  state.fresh.push({ what, local: at });
  save();
}

/** @param {string} what */
const seen = (what) => [...state.kept, ...state.fresh].some((mark) => mark.what === what);

function marks() {
  const { offset, within } = state.clock ?? { offset: 0, within: 0 };
  return [...state.kept, ...state.fresh.map(({ what, local: at }) => ({ what, at: at + offset, within }))];
}

function save() {
  localStorage.setItem(KEPT, JSON.stringify({ invoice: state.invoice, marks: marks() }));
}

/** @returns {{invoice: string, marks: Mark[]}|null} */
const read = () => JSON.parse(localStorage.getItem(KEPT) ?? "null");

/** The page's own mark of the moment at which the screen said so. */
function watchMarks() {
  new PerformanceObserver((list) => {
    for (const { name, startTime } of list.getEntries())
      if (name === "paidup:active" && state.invoice) note("active", performance.timeOrigin + startTime);
  }).observe({ type: "mark" });
}

// ---- Looking

/** A question to the server; its answer tells its clock, too. @param {string} url */
async function ask(url) {
  const asked = local();
  const told = await call("GET", url);
  const answered = local();
  const within = (answered - asked) / 2;
  if (!state.clock || within < state.clock.within) state.clock = { offset: told.now - (asked + within), within };
  return told;
}

async function look() {
  clearTimeout(state.timer);
  const turn = ++state.turn;
  const { invoice } = state;
  if (!invoice) return;
  let wait = AWAY_MS;
  try {
    if (!document.hidden) {
      const picture = await ask(`/demo/race/${invoice}`);
      if (turn !== state.turn) return; // somebody else looks now
      state.picture = picture;
      render();
      wait = pause();
    }
  } catch (problem) {
    const { status } = /** @type {{status?: number}} */ (problem);
    if (turn === state.turn && (status === 404 || status === 401)) return forget();
  }
  if (wait && turn === state.turn) state.timer = setTimeout(look, wait);
}

function forget() {
  localStorage.removeItem(KEPT);
  Object.assign(state, { invoice: null, picture: null });
  el("race").hidden = true;
}

/** How long until the next look; 0: there is nothing more to see. */
function pause() {
  const told = current();
  const age = serverNow() - told.origin;
  if (age > LOOK_UNTIL_MS) return 0;
  if (told.settled !== null) void struckEnough();
  if (!told.open && state.looks++ > STRAGGLERS) return 0;
  if (told.settled === null && age < 10_000) return 250;
  return age < 5000 ? 500 : age < 120_000 ? 1000 : 5000;
}

const current = () => story({ .../** @type {Picture} */ (state.picture), marks: marks() }, serverNow());

// ---- Showing

const PARTS = `
  <details class="race-fold" open>
    <summary><h2 id="race-title">Behind the scenes: the race</h2></summary>
    <p class="race-headline" id="race-headline" data-testid="race-headline"></p>
    <p class="race-detail" id="race-detail"></p>
    <svg class="race-picture" id="race-picture" role="img" data-testid="race-picture"></svg>
    <details class="race-steps">
      <summary>Every step as a table</summary>
      <div class="race-scroll" tabindex="0" role="region" aria-labelledby="race-caption">
        <table>
          <caption class="unseen" id="race-caption">What happened to this purchase, in its order</caption>
          <thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th></tr></thead>
          <tbody id="race-rows"></tbody>
        </table>
      </div>
      <p id="race-clock"></p>
    </details>
    <section class="race-others" id="race-others" data-testid="race-others" aria-labelledby="others-title" hidden></section>
  </details>`;

function build() {
  el("race").innerHTML = PARTS;
  watchMarks();
  new ResizeObserver(() => render()).observe(el("race-picture"));
}

const render = whileMoving(() => {
  if (!state.picture) return false;
  el("race").hidden = false;
  const told = current();
  const clock = serverNow() - told.origin;
  text("race-headline", unbroken(told.headline));
  text("race-detail", unbroken(told.detail));
  rows(told);
  const picture = el("race-picture");
  const width = Math.round(picture.clientWidth);
  if (!width) return false; // folded up: its new size is heard of when it is opened
  const desc = told.lanes.map(({ name, said }) => `${name}: ${said}.`).join(" ");
  draw(picture, told, windows(told, clock), clock, width, {
    title: "Timeline of this purchase",
    desc: `${told.headline} ${told.detail} ${desc}`,
  });
  return told.open; // something is still to come: the clock runs on
});

/** @param {string} id @param {string} words */
function text(id, words) {
  if (el(id).textContent !== words) el(id).textContent = words;
}

/** @param {Story} told */
function rows(told) {
  const shown = told.rows.map(({ at, who, text, within }) => [when(at, within), who, text]);
  const known = JSON.stringify(shown);
  if (known === state.rows) return;
  state.rows = known;
  el("race-rows").replaceChildren(...shown.map(tableRow));
  const zero = told.confirmed ? "your bank said yes, as this browser saw it" : "the first news of the payment came";
  const within = state.clock ? `, known to ± ${span(Math.max(1, state.clock.within))}` : "";
  const browser = `The browser’s times were carried over to the server’s clock${within}.`;
  text("race-clock", `Counted from the moment when ${zero}. ${told.confirmed ? browser : ""}`);
}

/** @param {number} at @param {number} within */
function when(at, within) {
  const exact = within >= 1 ? ` ± ${span(within)}` : "";
  return (at < 0 ? `−${span(-at)}` : span(at)) + exact;
}

/** @param {string[]} cells */
function tableRow(cells) {
  const row = document.createElement("tr");
  row.append(
    ...cells.map((words) => {
      const cell = document.createElement("td");
      cell.textContent = words;
      return cell;
    }),
  );
  return row;
}
