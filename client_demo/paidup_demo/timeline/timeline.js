// @ts-check
/**
 * Shows the timeline of the customer's own purchase, next to the fault panel and the comparison.
 *
 * Polls the server for the recorded events and adds this browser's performance marks, converted to the server's clock.
 * It observes only: nothing here takes part in an activation.
 */
import { call } from "../lib/api.js";
import { applyPaymentConditions, conditions, restoreConditions, triggerFault } from "./fault_controls.js";
import { el, whileMoving } from "../lib/dom.js";
import { draw } from "./draw.js";
import { timeWindows } from "./axis.js";
import { setUpComparison } from "./comparison.js";
import { buildTimeline } from "./layout.js";
import { formatDuration, unbroken } from "../lib/text.js";

/** @typedef {import("./layout.js").Mark} Mark */
/** @typedef {import("./layout.js").Purchase} Purchase */
/** @typedef {Omit<Purchase, "marks">} Snapshot the server's part */
/** @typedef {import("./layout.js").Timeline} Timeline */
/**
 * What the browser saw, and when by its own clock. Converted only to be drawn, all by the same offset: so the time between
 * two of them is the same wherever it is shown.
 * @typedef {{type: string, local: number}} Seen
 */

const STORAGE_KEY = "halftone:seen";
const POLL_UNTIL_MS = 15 * 60_000;
const IDLE_MS = 1000; // the page is hidden, or the server does not answer
const FIRST_POLL_MS = 200; // after the bank's confirmation: drawing must not delay the activation
const LAST_POLLS = 4; // polls after the last expected event: a duplicate webhook may follow

/** `clock.offset` added to this page's clock gives the server's, ± `within` ms. */
const state = {
  /** @type {string|null} */ invoice: null,
  /** @type {Snapshot|null} */ snapshot: null,
  /** @type {Seen[]} by the browser, from earlier page loads */ stored: [],
  /** @type {Seen[]} */ fresh: [],
  /** @type {(shown: Timeline, invoice: string) => void} */ told: () => {},
  /** @type {{offset: number, within: number}|null} */ clock: null,
  /** @type {number|undefined} */ timer: undefined,
  followedAt: 0, // by this page's clock
  pollId: 0, // the newest poll; older ones drop their answer
  polls: 0,
  rows: "",
};

/** This page's clock in ms since 1970; monotonic. */
const local = () => performance.timeOrigin + performance.now();
const serverNow = () => local() + (state.clock?.offset ?? 0);

// ---- What the page calls

/**
 * @param {{sandbox: string|null, stripe_js: string, publishable_key: string}} config
 * @param {(shown: Timeline, invoice: string) => void} [told] called with each timeline that is drawn
 */
export async function start(config, told) {
  if (told) state.told = told;
  build();
  const unknown = { invoice: null, available_faults: [] };
  const { invoice, available_faults: available } = await get("/demo/timeline").catch(() => unknown);
  const inject = async (/** @type {string} */ type) => {
    if (type === "socket" && !state.invoice) throw new Error("Buy something first: there is no WebSocket to close yet.");
    await call("POST", "/demo/timeline/faults", { type, invoice: state.invoice ?? undefined });
    await poll();
  };
  const panel = el("conditions");
  if (config.sandbox && panel) void conditions(panel, config.sandbox, available, inject);
  if (config.sandbox && available.length) setUpComparison(el("comparison"), config);
  const back = () => panel && seen("left") && note("returned", performance.timeOrigin);
  if (state.invoice) return void back(); // a purchase was followed before this answer arrived
  const stored = read();
  if (stored || invoice) follow(stored?.invoice ?? invoice);
  if (panel && seen("closed") && !seen("active")) note("opened");
  back();
}

/**
 * The card form is submitted: show the timeline, still empty, so that nothing moves when its events arrive; then apply the
 * conditions that start with the payment.
 */
export function paying() {
  if (el("timeline").hidden) {
    el("timeline").hidden = false;
    const empty = { invoice: "", status: "open", events: [], faults: [], marks: [] };
    show(buildTimeline(empty, serverNow()), 0);
  }
  return applyPaymentConditions();
}

/** The bank has confirmed. @param {string} invoice @param {number} at in ms since 1970 @returns {boolean} whether this tab is being closed now */
export function confirmed(invoice, at) {
  begin(invoice, [], FIRST_POLL_MS); // start again: a first card may have failed
  note("confirmed", at);
  if (!triggerFault()) return false;
  note("closed");
  location.assign("/demo/closed-tab");
  return true;
}

/** The payment page of a Checkout Session was opened: for this tab to leave to it, or to show it. @param {string} checkout */
export function opened(checkout) {
  begin(checkout, [], FIRST_POLL_MS);
  note("left");
}

/** Show the timeline of this invoice, or Checkout Session. @param {string} invoice */
export function follow(invoice) {
  if (state.invoice === invoice) return;
  const stored = read();
  begin(invoice, stored?.invoice === invoice ? stored.marks : []);
}

/** @param {string} invoice @param {Seen[]} stored @param {number} [wait] ms before the first poll */
function begin(invoice, stored, wait = 0) {
  Object.assign(state, { invoice, stored, snapshot: null, fresh: [], polls: 0, rows: "", followedAt: local() });
  state.pollId += 1;
  clearTimeout(state.timer);
  state.timer = setTimeout(poll, wait);
}

// ---- What the browser records

/** @param {string} type @param {number} [at] by this page's clock */
function note(type, at = local()) {
  if (seen(type)) return;
  state.fresh.push({ type, local: at });
  save();
}

/** @param {string} type */
const seen = (type) => [...state.stored, ...state.fresh].some((mark) => mark.type === type);

/** @returns {Mark[]} */
const marks = () => [...state.stored, ...state.fresh].map(({ type, local }) => ({ type, at: local + (state.clock?.offset ?? 0) }));

function save() {
  localStorage.setItem(STORAGE_KEY, JSON.stringify({ invoice: state.invoice, marks: [...state.stored, ...state.fresh] }));
}

/** @returns {{invoice: string, marks: Seen[]}|null} */
const read = () => JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "null");

/** Record when the screen showed the credits: the page sets a performance mark. */
function watchMarks() {
  new PerformanceObserver((list) => {
    for (const { name, startTime } of list.getEntries())
      if (name === "paidup:active" && state.invoice) note("active", performance.timeOrigin + startTime);
  }).observe({ type: "mark" });
}

// ---- Polling

/** GET from the server, and measure its clock with the answer. @param {string} url */
async function get(url) {
  const asked = local();
  const answer = await call("GET", url);
  const answered = local();
  const within = (answered - asked) / 2;
  if (!state.clock || within < state.clock.within) state.clock = { offset: answer.now - (asked + within), within };
  return answer;
}

async function poll() {
  clearTimeout(state.timer);
  const pollId = ++state.pollId;
  const { invoice } = state;
  if (!invoice) return;
  let wait = IDLE_MS;
  try {
    if (!document.hidden) {
      const snapshot = await get(`/demo/timeline/invoices/${invoice}`);
      if (pollId !== state.pollId) return; // a newer poll is running
      state.snapshot = snapshot;
      render();
      wait = pause();
    }
  } catch (problem) {
    const { status } = /** @type {{status?: number}} */ (problem);
    if (pollId === state.pollId && (status === 404 || status === 401)) return forget();
  }
  if (wait && pollId === state.pollId) state.timer = setTimeout(poll, wait);
}

function forget() {
  localStorage.removeItem(STORAGE_KEY);
  Object.assign(state, { invoice: null, snapshot: null });
  el("timeline").hidden = true;
}

/** Milliseconds until the next poll; 0 if no more events are expected. */
function pause() {
  const shown = current();
  const age = serverNow() - shown.origin;
  if (Math.max(age, local() - state.followedAt) > POLL_UNTIL_MS) return 0;
  if (shown.settled !== null) void restoreConditions();
  if (!shown.open && state.polls++ > LAST_POLLS) return 0;
  if (shown.settled === null && age < 10_000) return 250;
  return age < 5000 ? 500 : age < 120_000 ? 1000 : 5000;
}

const current = () => buildTimeline({ .../** @type {Snapshot} */ (state.snapshot), marks: marks() }, serverNow());

// ---- Drawing

const PARTS = `
  <details class="timeline-fold" open>
    <summary><h2 id="timeline-title">Behind the scenes: the timeline</h2></summary>
    <p class="timeline-headline" id="timeline-headline" data-testid="timeline-headline"></p>
    <p class="timeline-detail" id="timeline-detail"></p>
    <svg class="timeline-picture" id="timeline-picture" role="img" data-testid="timeline-picture"></svg>
    <details class="timeline-steps">
      <summary>All events as a table</summary>
      <table>
        <caption class="unseen">Events of this purchase, in order</caption>
        <thead><tr><th scope="col">When</th><th scope="col">Where</th><th scope="col">Event</th></tr></thead>
        <tbody id="timeline-rows"></tbody>
      </table>
      <p id="timeline-clock"></p>
    </details>
    <section class="comparison" id="comparison" data-testid="comparison" aria-labelledby="comparison-title" hidden></section>
  </details>`;

function build() {
  el("timeline").innerHTML = PARTS;
  watchMarks();
  new ResizeObserver(() => render()).observe(el("timeline-picture"));
}

const render = whileMoving(() => {
  if (!state.snapshot) return false;
  el("timeline").hidden = false;
  const shown = current();
  state.told(shown, state.invoice ?? "");
  return show(shown, serverNow() - shown.origin);
});

/** @param {Timeline} shown @param {number} clock ms since its origin @returns {boolean} whether more events are expected */
function show(shown, clock) {
  text("timeline-headline", unbroken(shown.headline));
  text("timeline-detail", unbroken(shown.detail));
  rows(shown);
  const picture = el("timeline-picture");
  const width = Math.round(picture.clientWidth);
  if (!width) return false; // folded: the ResizeObserver reports its size when it is opened
  const desc = shown.lanes.map(({ name, summary }) => `${name}: ${summary}.`).join(" ");
  draw(picture, shown, timeWindows(shown, clock), clock, width, {
    title: "Timeline of this purchase",
    desc: `${shown.headline} ${shown.detail} ${desc}`,
  });
  return shown.open;
}

/** @param {string} id @param {string} words */
function text(id, words) {
  if (el(id).textContent !== words) el(id).textContent = words;
}

/** @param {Timeline} timeline */
function rows(timeline) {
  const shown = timeline.rows.map(({ at, who, text }) => [when(at), who, text]);
  const known = JSON.stringify(shown);
  if (known === state.rows) return;
  state.rows = known;
  el("timeline-rows").replaceChildren(...shown.map(tableRow));
  const zero = timeline.confirmed ? "this browser saw the bank’s confirmation" : "the first event about the payment arrived";
  const clocks = state.clock ? `The clocks of browser and server are compared to ± ${formatDuration(Math.max(1, state.clock.within))}.` : "";
  text("timeline-clock", `Times count from when ${zero}. ${clocks}`);
}

/** @param {number} at */
const when = (at) => (at < 0 ? `−${formatDuration(-at)}` : formatDuration(at));

/** @param {string[]} cells */
function tableRow(cells) {
  const row = document.createElement("tr");
  row.append(
    ...cells.map((words) => {
      const cell = document.createElement("td");
      const parts = words.split(/(?<=[._])(?=[a-z])/); // a long name such as invoice.payment_succeeded breaks there
      cell.append(...parts.flatMap((part, index) => (index ? [document.createElement("wbr"), part] : [part])));
      return cell;
    }),
  );
  return row;
}
