// @ts-check
/** Draws the lanes, the axis and, where needed, an enlarged part as one SVG. The data comes from layout.js. */
import { place, scale, ticks } from "./axis.js";
import { formatDuration } from "../lib/text.js";

/** @typedef {import("./layout.js").Lane} Lane */
/** @typedef {import("./axis.js").Window} Window */
/**
 * @typedef {{lanes: Lane[], restarts?: {from: number, to: number|null}[], settled?: number|null, open: boolean}} Drawn
 * @typedef {{title: string, desc: string}} Description for screen readers
 */

const SVG = "http://www.w3.org/2000/svg";
const LANE = 44;
const SMALL_LANE = 36;
const AXIS = 26;
const BEAM = 46; // between the whole and the enlarged part
const CAPTION = 20; // a lane's text, above its line
const LABEL = 18; // from the lanes to the labels of the axis
const CHARACTER = 7.5; // at most, of a label of the axis
const TRACK = 30; // from a lane's top to its line

/** @param {string} name @param {Record<string, string|number>} [attributes] @param {(Node|string)[]} [inside] */
function make(name, attributes = {}, inside = []) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  made.append(...inside);
  return made;
}

/**
 * @param {SVGElement} svg @param {Drawn} timeline @param {{whole: Window, lens: Window|null}} windows
 * @param {number} clock @param {number} width @param {Description} description
 */
export function draw(svg, timeline, { whole, lens }, clock, width, description) {
  const height = timeline.lanes.length * LANE + AXIS;
  const parts = [make("title", {}, [description.title]), make("desc", {}, [description.desc])];
  const enlarged = lens ? timeline.lanes.filter((lane) => place(lane, lens, width, clock).dots.length) : [];
  const total = height + (lens ? BEAM + enlarged.length * SMALL_LANE + AXIS : 0);
  if (lens) parts.push(beam(lens, whole, width, height));
  parts.push(chart(timeline, timeline.lanes, whole, clock, width, LANE, true));
  if (lens) {
    const below = chart(timeline, enlarged, lens, clock, width, SMALL_LANE, false);
    below.setAttribute("transform", `translate(0 ${height + BEAM})`);
    parts.push(below);
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${total}`);
  svg.setAttribute("height", String(total));
  svg.replaceChildren(...parts);
}

/** @param {Drawn} timeline @param {Lane[]} lanes @param {Window} window @param {number} clock @param {number} width @param {number} tall @param {boolean} full */
function chart(timeline, lanes, window, clock, width, tall, full) {
  const x = scale(window, width);
  const bottom = lanes.length * tall;
  const group = make("g");
  const current = full && timeline.open ? nowLabel(x(Math.min(clock, window.to)), clock, width) : null;
  group.append(...axis(window, width, bottom, current?.extent));
  for (const { from, to } of timeline.restarts ?? []) {
    const [left, right] = [x(Math.max(from, window.from)), x(Math.min(to ?? clock, window.to))];
    if (right > left) group.append(outage(left, Math.max(2, right - left), tall, bottom));
  }
  const { settled } = timeline;
  if (settled != null && settled >= window.from && settled <= window.to)
    group.append(make("path", { class: "timeline-settled", d: besideCaptions(x(settled), lanes.length, tall) }));
  if (current) group.append(now(current, besideCaptions(current.x, lanes.length, tall), bottom));
  lanes.forEach((lane, index) => {
    const drawn = row(lane, window, clock, width, full);
    drawn.setAttribute("transform", `translate(0 ${index * tall})`);
    group.append(drawn);
  });
  return group;
}

/**
 * The labels of the axis share their line with that of the current time: those that would be drawn over
 * it, or over each other, are left out.
 * @param {Window} window @param {number} width @param {number} bottom @param {Extent} [taken]
 */
function axis(window, width, bottom, taken) {
  const x = scale(window, width);
  const extents = taken ? [taken] : [];
  return ticks(window, width).flatMap(({ at, text }) => {
    const left = x(at);
    const anchor = left < 16 ? "start" : left > width - 24 ? "end" : "middle";
    const from = Math.min(width, Math.max(0, left));
    const extent = extentOf(text, from, anchor);
    const line = upright("timeline-grid", left, bottom);
    if (extents.some((other) => extent.from < other.to && other.from < extent.to)) return [line];
    extents.push(extent);
    return [line, make("text", { class: "timeline-tick", x: from, y: bottom + LABEL, "text-anchor": anchor }, [text])];
  });
}

/** @typedef {{from: number, to: number}} Extent the pixels that a label takes */

/** @param {string} text @param {number} x @param {"start"|"middle"|"end"} anchor @returns {Extent} */
function extentOf(text, x, anchor) {
  const width = text.length * CHARACTER;
  const from = anchor === "start" ? x : anchor === "end" ? x - width : x - width / 2;
  return { from: from - 4, to: from + width + 4 };
}

/** @param {number} x @param {number} clock @param {number} width */
function nowLabel(x, clock, width) {
  const text = `now, ${formatDuration(clock)}`;
  const anchor = x > width - text.length * CHARACTER - 5 ? /** @type {const} */ ("end") : /** @type {const} */ ("start");
  const from = anchor === "end" ? x - 5 : x + 5;
  return { x, text, anchor, from, extent: extentOf(text, from, anchor) };
}

/** @param {string} look @param {number} x @param {number} bottom */
const upright = (look, x, bottom) => make("line", { class: look, x1: x, x2: x, y1: 0, y2: bottom });

/** A vertical line through the lanes that leaves out their text. @param {number} x @param {number} count @param {number} tall */
const besideCaptions = (x, count, tall) =>
  Array.from({ length: count }, (_, lane) => `M${x} ${lane * tall + CAPTION}V${(lane + 1) * tall}`).join("");

/** @param {{text: string, anchor: string, from: number}} label @param {string} d @param {number} bottom */
function now({ text, anchor, from }, d, bottom) {
  return make("g", { class: "timeline-now" }, [
    make("path", { d: `${d}V${bottom + LABEL}` }),
    make("text", { x: from, y: bottom + LABEL, "text-anchor": anchor }, [text]),
  ]);
}

/** A server restart, drawn across all lanes but the browser's. @param {number} x @param {number} width @param {number} tall @param {number} bottom */
function outage(x, width, tall, bottom) {
  const words = width > 130 ? [make("text", { x: x + 8, y: bottom - 2 }, ["server restarting"])] : [];
  return make("g", { class: "timeline-outage" }, [
    make("title", {}, ["Server restarting"]),
    make("rect", { x, y: tall, width, height: bottom - tall }),
    ...words,
  ]);
}

/** @param {Lane} lane @param {Window} window @param {number} clock @param {number} width @param {boolean} full */
function row(lane, window, clock, width, full) {
  const track = full ? TRACK : TRACK - 6;
  const { dots, spans } = place(lane, window, width, clock);
  const group = make("g", { class: "timeline-lane", "data-lane": lane.id });
  group.append(make("line", { class: "timeline-track", x1: 0, x2: width, y1: track, y2: track }));
  for (const { x, width: length, look } of spans) {
    const thick = look === "work" || look === "outage" ? 7 : 2;
    group.append(
      make("rect", { class: `timeline-span-${look}`, x, y: track - thick / 2, width: Math.max(1.5, length), height: thick }),
    );
  }
  group.append(...[...dots].sort(firstOnTop).map((dot) => mark(dot, track)));
  group.append(make("text", { class: "timeline-name", x: 0, y: 14 }, [lane.name]));
  if (full) group.append(make("text", { class: "timeline-summary", x: width, y: 14, "text-anchor": "end" }, [lane.summary]));
  return group;
}

/** @param {{look: string}} one @param {{look: string}} other */
const firstOnTop = (one, other) => Number(one.look === "first") - Number(other.look === "first");

/** @param {{x: number, at: number, look: string, text: string}} dot @param {number} y */
function mark({ x, at, look, text }, y) {
  const shapes = {
    plain: () => [make("circle", { cx: x, cy: y, r: 3.5 })],
    late: () => [make("circle", { cx: x, cy: y, r: 4.5 })],
    bad: () => [make("path", { d: `M${x - 4} ${y - 4}l8 8m0-8l-8 8` })],
    first: () => [
      make("circle", { cx: x - 2.5, cy: y - 1.5, r: 5.5, class: "timeline-pink" }),
      make("circle", { cx: x + 2.5, cy: y + 1.5, r: 5.5, class: "timeline-cyan" }),
      make("circle", { cx: x, cy: y, r: 4.5, class: "timeline-ink" }),
    ],
  };
  const shape = shapes[/** @type {keyof typeof shapes} */ (look)]();
  const when = at < 0 ? `${formatDuration(-at)} before` : formatDuration(at);
  return make("g", { class: `timeline-dot timeline-${look}`, "data-look": look }, [make("title", {}, [`${when}: ${text}`]), ...shape]);
}

/** Connects a part of the axis with its enlarged drawing. @param {Window} lens @param {Window} whole @param {number} width @param {number} bottom */
function beam(lens, whole, width, bottom) {
  const x = scale(whole, width);
  const [left, right] = [Math.max(0, x(lens.from)), Math.max(x(lens.to), x(lens.from) + 2)];
  const times = (whole.to - whole.from) / (lens.to - lens.from);
  const top = bottom - AXIS;
  const foot = bottom + BEAM - 10;
  const shown = times < 10 ? times.toFixed(1) : Math.round(times).toLocaleString("en");
  return make("g", { class: "timeline-beam" }, [
    make("path", { d: `M${left} 0V${top}L0 ${foot}H${width}L${right} ${top}V0Z` }),
    make("text", { x: width, y: foot - 8, "text-anchor": "end" }, [`the first ${formatDuration(lens.to)}, enlarged ${shown} times`]),
  ]);
}
