// @ts-check
/**
 * Compares three ways to wait for the same purchase: Paidup, polling, and the webhook alone.
 *
 * Three extra customers make real purchases under the same conditions. Each wait is measured in this page, from the
 * confirmation of the payment until the credits can be used.
 */
import { call } from "../lib/api.js";
import { triggerFault, restoreConditions, applyPaymentConditions } from "./fault_controls.js";
import { el, whileMoving } from "../lib/dom.js";
import { activate } from "../sdk/paidup.js";
import { stripe } from "../lib/stripe_payment.js";
import { draw } from "./draw.js";
import { timeWindows } from "./axis.js";
import { formatDuration, unbroken } from "../lib/text.js";

/** @typedef {"paidup"|"polling"|"webhook"} Way */
/** @typedef {{invoice: string, ticket: string, client_secret: string}} Order */
/**
 * One customer's wait. `began` is the confirmation by this page's clock; the other times are ms since then.
 * @typedef {{way: Way, began: number, asked: number[], done: number|null}} Track
 */

const GIVE_UP_MS = 180_000;
const INTERVAL_MS = { polling: 1000, webhook: 3000 };
const CARD = "pm_card_visa";
/** @type {Record<Way, string>} */
const NAMES = { paidup: "Paidup", polling: "Polling each second", webhook: "Webhook only" };

const PARTS = `
  <h3 id="comparison-title">The same purchase, three ways</h3>
  <p>Three new customers buy the smallest plan at the same time, under the conditions set here. The first uses Paidup. The
    second polls: its server asks Stripe every second. The third waits for the webhook and reloads every three
    seconds.</p>
  <p class="act">
    <button type="button" class="quiet" id="comparison-start">Compare them</button>
    <button type="button" class="link" id="comparison-stop" hidden>Stop</button>
  </p>
  <p class="error" id="comparison-error" role="alert"></p>
  <svg class="timeline-picture" id="comparison-picture" role="img" hidden></svg>
  <p class="timeline-headline" id="comparison-result" data-testid="comparison-result" role="status"></p>`;

/** @type {Track[]} */
let tracks = [];
let running = 0; // the current run; another start, or a stop, ends it

/** @param {HTMLElement} section @param {{stripe_js: string, publishable_key: string}} config */
export function setUpComparison(section, config) {
  section.innerHTML = PARTS;
  section.hidden = false;
  el("comparison-start").onclick = () => void compare(config);
  el("comparison-stop").onclick = () => end();
  new ResizeObserver(() => show()).observe(section);
}

/** @param {{stripe_js: string, publishable_key: string}} config */
async function compare(config) {
  if (el("comparison-stop").hidden === false) return;
  const run = ++running;
  tracks = [];
  el("comparison-stop").hidden = false;
  el("comparison-error").textContent = "";
  el("comparison-result").textContent = "Three customers are choosing their plan…";
  try {
    const orders = await call("POST", "/demo/timeline/comparison");
    const library = await stripe(config.stripe_js, config.publishable_key);
    await applyPaymentConditions();
    el("comparison-result").textContent = "";
    show();
    const ways = /** @type {Way[]} */ (Object.keys(NAMES));
    await Promise.all(ways.map((way) => purchase(run, way, orders[way], library)));
    const { events } = await call("GET", `/demo/timeline/invoices/${orders.paidup.invoice}`);
    const asked = events.filter((/** @type {any} */ { type }) => type === "verification_asked").length;
    if (run === running) conclude(asked);
  } catch (problem) {
    el("comparison-result").textContent = "";
    el("comparison-error").textContent = /** @type {Error} */ (problem).message;
  }
  if (run === running) end();
}

function end() {
  running += 1;
  void restoreConditions();
  el("comparison-stop").hidden = true;
  if (tracks.length && tracks.some(({ done }) => done === null)) conclude();
  show();
}

/** @param {number} run @param {Way} way @param {Order} order @param {any} library */
async function purchase(run, way, order, library) {
  const { error } = await library.confirmCardPayment(order.client_secret, { payment_method: CARD });
  if (error) throw new Error(error.message);
  if (way === "paidup") triggerFault(false);
  /** @type {Track} */
  const track = { way, began: performance.now(), asked: [], done: null };
  tracks.push(track);
  const usable = way === "paidup" ? watch(run, order) : poll(run, track, INTERVAL_MS[way], order.invoice);
  if (await usable) track.done = performance.now() - track.began;
}

/** Wait with Paidup's client. @param {number} run @param {Order} order */
async function watch(run, { invoice, ticket }) {
  const stop = new AbortController();
  const activation = activate({ invoice, ticket, refreshTicket: async () => ticket, signal: stop.signal });
  const watching = setInterval(() => run !== running && stop.abort(), 200);
  const limit = setTimeout(() => stop.abort(), GIVE_UP_MS);
  const status = await activation.finished.catch(() => null);
  clearInterval(watching);
  clearTimeout(limit);
  return status?.status === "active";
}

/** Ask every `every` ms until the credits can be used. A failed request counts too. @param {number} run @param {Track} track @param {number} every @param {string} invoice */
async function poll(run, track, every, invoice) {
  for (let number = 1; number * every <= GIVE_UP_MS; number++) {
    const due = track.began + number * every;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    if (run !== running) return false;
    const { usable } = await call("GET", `/demo/timeline/comparison/${invoice}`).catch(() => ({ usable: false }));
    track.asked.push(performance.now() - track.began);
    if (usable) return true;
  }
  return false;
}

// ---- Drawing

const show = whileMoving(() => {
  const picture = el("comparison-picture");
  const on = el("comparison-stop").hidden === false;
  if (!tracks.length) return on;
  picture.removeAttribute("hidden"); // an SVG has no such property
  const width = Math.round(picture.clientWidth);
  if (!width) return on;
  const open = on && tracks.some(({ done }) => done === null);
  const now = performance.now();
  const lanes = /** @type {Way[]} */ (Object.keys(NAMES)).map((way) =>
    lane(
      way,
      tracks.find((track) => track.way === way),
      now,
    ),
  );
  const clock = Math.max(...tracks.map(({ began, done }) => done ?? now - began));
  const last = Math.max(0, ...lanes.flatMap(({ dots }) => dots.map((/** @type {{at: number}} */ { at }) => at)), open ? 0 : clock);
  const drawn = { lanes, open, settled: null, painted: null, last };
  const desc = lanes.map(({ name, summary }) => `${name}: ${summary}.`).join(" ");
  draw(picture, drawn, timeWindows(/** @type {any} */ (drawn), clock), clock, width, {
    title: "The same purchase, three ways",
    desc,
  });
  return on;
});

/** @param {Way} way @param {Track|undefined} track @param {number} now @returns {any} a lane as in layout.js */
function lane(way, track, now) {
  if (!track) return { id: way, name: NAMES[way], summary: "paying", dots: [], spans: [] };
  const { done, asked } = track;
  const dots = asked.filter((at) => done === null || at < done).map((at) => ({ at, look: "late", text: "not yet" }));
  if (done !== null) dots.push({ at: done, look: "first", text: "usable" });
  const summary = done === null ? `paid ${formatDuration(now - track.began)} ago` : `usable after ${formatDuration(done)}`;
  return { id: way, name: NAMES[way], summary, dots, spans: [{ from: 0, to: done, look: "wait" }] };
}

/** @param {number} many @param {string} noun */
const count = (many, noun) => `${many} ${noun}${many === 1 ? "" : "s"}`;

/** Write the result. @param {number} [requests] Paidup's requests to Stripe, once they are known */
function conclude(requests) {
  const of = (/** @type {Way} */ way) => tracks.find((track) => track.way === way);
  const [paidup, polling, webhook] = [of("paidup"), of("polling"), of("webhook")];
  const sentences = [];
  if (paidup?.done) {
    const asked = requests === undefined ? "" : `, with ${count(requests, "request")} to Stripe`;
    sentences.push(`With Paidup it took ${formatDuration(paidup.done)}${asked}.`);
  }
  if (polling) {
    const asked = count(polling.asked.length, "request");
    sentences.push(polling.done ? `With polling it took ${formatDuration(polling.done)} and ${asked}.` : `Polling has no result after ${asked}.`);
  }
  if (webhook) {
    const reloads = count(webhook.asked.length, "reload");
    sentences.push(
      webhook.done
        ? `With the webhook alone it took ${formatDuration(webhook.done)} and ${reloads}.`
        : `The webhook has not arrived after ${reloads}.`,
    );
  }
  el("comparison-result").textContent = unbroken(sentences.join(" "));
}
