// @ts-check
/**
 * The timeline's scale: which time window is drawn, where each step lies in it, and the labels of the axis.
 *
 * Pure: no DOM, no clock. Times are milliseconds since the timeline's origin; positions are pixels.
 */
import { BEFORE_MS, DELIVERED } from "./layout.js";

/** @typedef {import("./layout.js").Lane} Lane */
/** @typedef {import("./layout.js").Timeline} Timeline */
/** @typedef {{from: number, to: number}} Window */

const LENS_BELOW_SHARE = 0.12; // an activation that takes less of the axis than this is drawn again, enlarged

/** Round ends for the axis of a running timeline: it grows in steps and does not move between them. */
const ENDS = [0.2, 0.5, 1, 2, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900].map((s) => s * 1000);

/**
 * The time window of the whole picture, and of the enlarged part if the activation would be too small to see.
 * @param {Timeline} timeline @param {number} clock ms since the origin @returns {{whole: Window, lens: Window|null}}
 */
export function timeWindows(timeline, clock) {
  const first = Math.min(0, ...dotsOf(timeline), ...spansOf(timeline));
  const near = Math.max(first, -BEFORE_MS);
  const reach = Math.max(timeline.last, timeline.open ? clock : 0, 20);
  const to = timeline.open
    ? (ENDS.find((end) => end * 0.94 >= reach) ?? reach * 1.1)
    : timeline.last * 1.06 + 2;
  const pad = Math.max(-first * 1.15, to * 0.015);
  const whole = { from: -pad, to };
  const done = Math.max(timeline.settled ?? 0, timeline.shownAt ?? 0, deliveredAt(timeline));
  if (timeline.settled === null || done <= 0 || done / (to + pad) > LENS_BELOW_SHARE) return { whole, lens: null };
  const lens = { from: Math.min(near * 1.15, -done * 0.04), to: done * 1.12 };
  return { whole, lens };
}

/** @param {Timeline} timeline */
const dotsOf = ({ lanes }) => lanes.flatMap(({ dots }) => dots.map(({ at }) => at));
/** @param {Timeline} timeline */
const spansOf = ({ lanes, before }) =>
  lanes.flatMap(({ spans }) => spans.map(({ from }) => from).filter((from) => from >= -(before ?? BEFORE_MS)));

/** @param {Timeline} timeline when the page was updated, if that was soon after the credits were granted */
function deliveredAt({ lanes, settled }) {
  const at = lanes.find(({ id }) => id === "socket")?.dots.find(({ text }) => text === DELIVERED)?.at ?? 0;
  return settled !== null && at < settled + 1000 ? at : 0;
}

/** Maps a time to its x position. @param {Window} window @param {number} width */
export const scale =
  ({ from, to }, width) =>
  (/** @type {number} */ at) =>
    ((at - from) / (to - from)) * width;

const TICK_BASES = [1, 2, 5];
const LONG_TICKS = [1000, 2000, 5000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000];

/**
 * Labels of the axis: round times from 0, at least `apart` pixels between them.
 * @param {Window} window @param {number} width @param {number} [apart] @returns {{at: number, text: string}[]}
 */
export function ticks({ from, to }, width, apart = 70) {
  const least = ((to - from) / width) * apart;
  const step = tickStep(least);
  const found = [];
  for (let at = 0; at <= to; at += step) found.push({ at, text: tick(at, step) });
  return found;
}

/** @param {number} least */
function tickStep(least) {
  if (least > 500) return LONG_TICKS.find((step) => step >= least) ?? Math.ceil(least / 300_000) * 300_000;
  for (let power = 1; ; power *= 10) {
    const base = TICK_BASES.find((base) => base * power >= least);
    if (base) return base * power;
  }
}

/** @param {number} at @param {number} step */
function tick(at, step) {
  if (at === 0) return "0";
  if (step >= 60_000) return `${at / 60_000} min`;
  if (step >= 1000) return `${at / 1000} s`;
  return at < 1000 ? `${at} ms` : `${at / 1000} s`;
}

/**
 * A lane's dots and spans with their positions. Open spans end at `clock`; what lies outside the window is left out.
 * @param {Lane} lane @param {Window} window @param {number} width @param {number} clock
 */
export function place({ dots, spans }, window, width, clock) {
  const x = scale(window, width);
  const inside = (/** @type {number} */ at) => at >= window.from && at <= window.to;
  return {
    dots: dots.filter(({ at }) => inside(at)).map((dot) => ({ ...dot, x: x(dot.at) })),
    spans: spans
      .map((span) => ({
        ...span,
        from: Math.max(span.from, window.from),
        to: Math.min(span.to ?? Math.max(clock, span.from), window.to),
      }))
      .filter(({ from, to }) => to > from)
      .map(({ from, to, look }) => ({ look, x: x(from), width: x(to) - x(from) })),
  };
}
