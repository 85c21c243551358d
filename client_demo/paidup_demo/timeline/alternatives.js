// @ts-check
/**
 * The same purchase in three ways, at once: Paidup, a page that polls, and a page that waits for the webhook.
 *
 * Real purchases by extra customers, in the same weather; each is timed here, from its own confirmation until its
 * customer could use what he paid for. Refuses to guess: what has not happened goes on growing, or is left.
 */
import { call } from "../lib/api.js";
import { strike, struckEnough, weather } from "./fault_controls.js";
import { el, whileMoving } from "../lib/dom.js";
import { activate } from "../sdk/paidup.js";
import { stripe } from "../lib/stripe_payment.js";
import { draw } from "./draw.js";
import { span, times, unbroken, windows } from "./layout.js";

/** @typedef {"paidup"|"polling"|"webhook"} Way */
/** @typedef {{invoice: string, ticket: string, client_secret: string}} Bought */
/**
 * One customer. Times are ms since his confirmation; `began` is that, by this page's clock.
 * @typedef {{way: Way, began: number, asked: number[], done: number|null}} Track
 */

const GIVE_UP_MS = 180_000;
const EVERY_MS = { polling: 1000, webhook: 3000 };
const CARD = "pm_card_visa";
/** @type {Record<Way, string>} */
const NAMES = { paidup: "Paidup", polling: "Polling each second", webhook: "Webhook only" };

const PARTS = `
  <h3 id="others-title">The same purchase, three ways</h3>
  <p>Three more customers buy the smallest plan at once, under the conditions that are set. One has Paidup. One has a
    page that asks its server each second, and the server asks Stripe. One has the webhook alone, and reloads every three
    seconds.</p>
  <p class="act">
    <button type="button" class="quiet" id="others-go">Race them</button>
    <button type="button" class="link" id="others-leave" hidden>Leave it</button>
  </p>
  <p class="error" id="others-error" role="alert"></p>
  <svg class="race-picture" id="others-picture" role="img" hidden></svg>
  <p class="race-headline" id="others-said" data-testid="others-said" role="status"></p>`;

/** @type {Track[]} */
let tracks = [];
let running = 0; // which run; another one, or leaving, ends it

/** @param {HTMLElement} section @param {{stripe_js: string, publishable_key: string}} config */
export function others(section, config) {
  section.innerHTML = PARTS;
  section.hidden = false;
  el("others-go").onclick = () => void race(config);
  el("others-leave").onclick = () => end();
  new ResizeObserver(() => show()).observe(section);
}

/** @param {{stripe_js: string, publishable_key: string}} config */
async function race(config) {
  if (el("others-leave").hidden === false) return;
  const run = ++running;
  tracks = [];
  el("others-leave").hidden = false;
  el("others-error").textContent = "";
  el("others-said").textContent = "Three customers choose their plan…";
  try {
    const bought = await call("POST", "/demo/race/others");
    const library = await stripe(config.stripe_js, config.publishable_key);
    await weather();
    el("others-said").textContent = "";
    show();
    const ways = /** @type {Way[]} */ (Object.keys(NAMES));
    await Promise.all(ways.map((way) => one(run, way, bought[way], library)));
    const { steps } = await call("GET", `/demo/race/${bought.paidup.invoice}`);
    const asked = steps.filter((/** @type {any} */ { what }) => what === "verification_asked").length;
    if (run === running) conclude(asked);
  } catch (problem) {
    el("others-said").textContent = "";
    el("others-error").textContent = /** @type {Error} */ (problem).message;
  }
  if (run === running) end();
}

function end() {
  running += 1;
  void struckEnough();
  el("others-leave").hidden = true;
  if (tracks.length && tracks.some(({ done }) => done === null)) conclude();
  show();
}

/** @param {number} run @param {Way} way @param {Bought} bought @param {any} library */
async function one(run, way, bought, library) {
  const { error } = await library.confirmCardPayment(bought.client_secret, { payment_method: CARD });
  if (error) throw new Error(error.message);
  if (way === "paidup") strike(false);
  /** @type {Track} */
  const track = { way, began: performance.now(), asked: [], done: null };
  tracks.push(track);
  const usable = way === "paidup" ? listens(run, bought) : asks(run, track, EVERY_MS[way], bought.invoice);
  if (await usable) track.done = performance.now() - track.began;
}

/** @param {number} run @param {Bought} bought */
async function listens(run, { invoice, ticket }) {
  const stop = new AbortController();
  const activation = activate({ invoice, ticket, refreshTicket: async () => ticket, signal: stop.signal });
  const watching = setInterval(() => run !== running && stop.abort(), 200);
  const limit = setTimeout(() => stop.abort(), GIVE_UP_MS);
  const status = await activation.finished.catch(() => null);
  clearInterval(watching);
  clearTimeout(limit);
  return status?.status === "active";
}

/** Ask every so often until it is usable; a question that fails is one, too. @param {number} run @param {Track} track @param {number} every @param {string} invoice */
async function asks(run, track, every, invoice) {
  for (let number = 1; number * every <= GIVE_UP_MS; number++) {
    const due = track.began + number * every;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    if (run !== running) return false;
    const { usable } = await call("GET", `/demo/race/others/${invoice}`).catch(() => ({ usable: false }));
    track.asked.push(performance.now() - track.began);
    if (usable) return true;
  }
  return false;
}

// ---- Showing

const show = whileMoving(() => {
  const picture = el("others-picture");
  const on = el("others-leave").hidden === false;
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
  const said = lanes.map(({ name, said }) => `${name}: ${said}.`).join(" ");
  draw(picture, drawn, windows(/** @type {any} */ (drawn), clock), clock, width, {
    title: "The same purchase, three ways",
    desc: said,
  });
  return on;
});

/** @param {Way} way @param {Track|undefined} track @param {number} now @returns {any} a lane, as race_layout.js has them */
function lane(way, track, now) {
  if (!track) return { id: way, name: NAMES[way], said: "pays", dots: [], spans: [] };
  const { done, asked } = track;
  const dots = asked.filter((at) => done === null || at < done).map((at) => ({ at, look: "late", text: "not yet" }));
  if (done !== null) dots.push({ at: done, look: "won", text: "usable" });
  const said = done === null ? `paid ${span(now - track.began)} ago` : `usable after ${span(done)}`;
  return { id: way, name: NAMES[way], said, dots, spans: [{ from: 0, to: done, look: "wait" }] };
}

/** In words. @param {number} [questions] Paidup's to Stripe, once they are known */
function conclude(questions) {
  const of = (/** @type {Way} */ way) => tracks.find((track) => track.way === way);
  const [paidup, polling, webhook] = [of("paidup"), of("polling"), of("webhook")];
  const sentences = [];
  if (paidup?.done) {
    const asked = questions === undefined ? "" : `, and Stripe was asked ${times(questions)}`;
    sentences.push(`Paidup’s customer could go on after ${span(paidup.done)}${asked}.`);
  }
  if (polling) {
    const asked = `its server asked Stripe ${times(polling.asked.length)}`;
    sentences.push(polling.done ? `Polling took ${span(polling.done)}, and ${asked}.` : `Polling had nothing yet; ${asked}.`);
  }
  if (webhook) {
    const reloads = `reloaded ${times(webhook.asked.length)}`;
    sentences.push(
      webhook.done
        ? `With the webhook alone it took ${span(webhook.done)}; he ${reloads}.`
        : `With the webhook alone he still waits, and has ${reloads}.`,
    );
  }
  el("others-said").textContent = unbroken(sentences.join(" "));
}
