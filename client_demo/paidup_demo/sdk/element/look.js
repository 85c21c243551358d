// @ts-check
/**
 * The styles of `<paidup-activation>`: its stylesheet, the marks of its steps, and helpers that create elements.
 *
 * All colours come from custom properties. There are no inline styles, images or markup in strings, so it works under
 * the strictest Content-Security-Policy, including Trusted Types.
 */

/** @typedef {import("./words.js").Mark} Mark */

const SVG = "http://www.w3.org/2000/svg";
/** @type {Record<Mark, string>} */
const SIGNS = {
  done: "m7 12.4 3.4 3.4L17 9",
  now: "",
  next: "",
  paused: "M12 6.8V12l3.4 2.4",
  failed: "m8.4 8.4 7.2 7.2m0-7.2-7.2 7.2",
};
/** Ten rays around a mark. */
const RAYS = Array.from({ length: 10 }, (_, n) => {
  const [x, y] = [Math.cos((n * Math.PI) / 5 - Math.PI / 2), Math.sin((n * Math.PI) / 5 - Math.PI / 2)];
  const at = (/** @type {number} */ far) => `${(12 + x * far).toFixed(1)} ${(12 + y * far).toFixed(1)}`;
  return `M${at(15.5)}L${at(n % 2 ? 19 : 21.5)}`;
}).join("");

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name @param {Record<string, string>} attributes @param {Node[]} [children]
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function element(name, attributes, children = []) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** The round mark of a step. @param {boolean} last draws rays on success */
export function markElement(last) {
  const made = document.createElementNS(SVG, "svg");
  const shapes = { disc: "circle", arc: "circle", sign: "path", ...(last && { rays: "path" }) };
  for (const [name, shape] of Object.entries(shapes)) {
    const part = made.appendChild(document.createElementNS(SVG, shape));
    part.setAttribute("class", name);
    if (shape === "circle") for (const key of ["cx", "cy", "r"]) part.setAttribute(key, key === "r" ? "11" : "12");
    if (name === "rays") part.setAttribute("d", RAYS);
  }
  made.setAttribute("viewBox", "0 0 24 24");
  made.setAttribute("class", "mark");
  made.setAttribute("part", "mark");
  made.setAttribute("aria-hidden", "true");
  return made;
}

/** @param {Element} mark @param {Mark} as */
export function drawMark(mark, as) {
  mark.querySelector(".sign")?.setAttribute("d", SIGNS[as]);
}

/** Shared by all elements of a page. @type {CSSStyleSheet|undefined} */
let sheet;

export function styleSheet() {
  if (!sheet) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(STYLE);
  }
  return sheet;
}

const STYLE = `
:host {
  --ink: var(--paidup-ink, light-dark(#191d22, #eff2f5));
  --soft: var(--paidup-ink-soft, light-dark(#545d67, #aab4be));
  --surface: var(--paidup-surface, light-dark(#fff, #171a1f));
  --line: var(--paidup-line, light-dark(#d3d9e0, #3a424b));
  --accent: var(--paidup-accent, light-dark(#2f55d4, #a3b8ff));
  --on-accent: var(--paidup-on-accent, light-dark(#fff, #10131a));
  --good: var(--paidup-good, light-dark(#12784a, #5fd39a));
  --bad: var(--paidup-bad, light-dark(#b42339, #ff98a5));
  display: block; container-type: inline-size; color: var(--ink); line-height: 1.5; text-align: center;
  font-family: var(--paidup-font, inherit);
}
:host([hidden]) { display: none; }
@media (forced-colors: active) {
  :host { --ink: CanvasText; --soft: CanvasText; --surface: Canvas; --line: GrayText; --accent: Highlight;
    --on-accent: HighlightText; --good: CanvasText; --bad: CanvasText; }
}
* { box-sizing: border-box; margin: 0; padding: 0; }
.screen { background: var(--surface); border: 1px solid var(--line); border-radius: var(--paidup-radius, 1rem);
  padding: var(--paidup-padding, clamp(1.5rem, 7cqi, 2.75rem) clamp(1rem, 6cqi, 2.5rem)); display: grid; gap: clamp(1.5rem, 6cqi, 2rem);
  justify-items: center; overflow-wrap: anywhere; }

.screen[data-state=active] { border-color: var(--good);
  background: radial-gradient(75% 9rem at 50% 0, color-mix(in oklab, var(--good) 16%, var(--surface)), var(--surface)); }

.steps { list-style: none; display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); inline-size: min(100%, 26rem); }
.step { position: relative; display: grid; align-content: start; justify-items: center; gap: .5rem; font-size: .875rem; font-weight: 500; line-height: 1.3;
  color: var(--soft); }
.step + .step::before, .step + .step::after { content: ""; position: absolute; inset-block-start: calc(1rem - 1px); block-size: 2px;
  inset-inline: calc(-50% + 1.5rem) calc(50% + 1.5rem); border-radius: 1px; background: var(--line); }
.step + .step::after { background: var(--good); transform: scaleX(0); transform-origin: 0 50%; }
.step:dir(rtl)::after { transform-origin: 100% 50%; }
.step[data-mark=done]::after { transform: none; }
.step[data-mark=now], .step[data-mark=paused], .step[data-mark=failed] { color: var(--ink); }
.mark { inline-size: 2rem; block-size: 2rem; overflow: visible; fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round;
  stroke-linejoin: round; }
.disc { stroke: var(--line); transform-origin: center; }
.arc { stroke: var(--accent); stroke-width: 2.5; stroke-dasharray: 18 60; transform-origin: center; opacity: 0; }
.sign { stroke-dasharray: 24; }
.rays { stroke: var(--good); stroke-dasharray: 6; stroke-dashoffset: 6; opacity: 0; }
[data-mark=now] .arc { opacity: 1; }
[data-mark=paused] .disc { stroke: var(--soft); }
[data-mark=paused] .sign { stroke: var(--ink); }
[data-mark=done] .disc { fill: var(--good); stroke: var(--good); }
[data-mark=failed] .disc { fill: var(--bad); stroke: var(--bad); }
[data-mark=done] .sign, [data-mark=failed] .sign { stroke: var(--surface); stroke-width: 2.4; }
.unseen { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

.blocks { display: grid; inline-size: 100%; }
.block { grid-area: 1 / 1; visibility: hidden; display: grid; gap: .5rem; justify-items: center; align-content: center; }
.block[data-current] { visibility: visible; }
.heading { font-size: clamp(1.3125rem, 1.1rem + 1.6cqi, 1.625rem); font-weight: 700; line-height: 1.2; letter-spacing: -.015em;
  text-wrap: balance; border-radius: .25rem; }
.heading:focus { outline: none; }
.heading, .text { unicode-bidi: plaintext; }
.text { color: var(--soft); max-inline-size: 30em; text-wrap: pretty; }
.active .heading { font-size: clamp(1.5rem, 1.2rem + 2.4cqi, 2rem); }
.active .text { color: var(--ink); font-size: 1.0625rem; }
[data-state=active] .label { color: var(--ink); }
.actions { display: flex; flex-wrap: wrap; justify-content: center; gap: .75rem; padding-block-start: .75rem; }
.button[hidden] { display: none; }
.button:any-link { display: inline-flex; align-items: center; text-decoration: none; }
.button { font: inherit; font-weight: 600; color: var(--on-accent); background: var(--accent); border: 0; cursor: pointer;
  border-radius: calc(var(--paidup-radius, 1rem) * .6); min-block-size: 2.75rem; padding: .5rem 1.25rem; }
.button:hover { background: color-mix(in oklab, var(--accent) 88%, var(--ink)); }
.button:focus-visible { outline: 3px solid var(--accent); outline-offset: 3px; }

@media (prefers-reduced-motion: no-preference) {
  .step::after { transition: transform .35s ease-out; }
  .disc { transition: fill .2s, stroke .2s; }
  [data-mark=now] .arc { animation: turn 1.1s linear infinite; }
  [data-mark=done] .sign { animation: draw .3s .1s ease-out backwards; }
  .block[data-current] { animation: come .3s ease-out; }
  [data-state=active] .disc { animation: bounce .5s cubic-bezier(.3, 1.6, .6, 1) backwards; }
  [data-state=active] .step:nth-child(2)::after { transition-delay: .05s; }
  [data-state=active] .step:nth-child(2) .disc, [data-state=active] .step:nth-child(2) .sign { animation-delay: .2s; }
  [data-state=active] .step:nth-child(3)::after { transition-delay: .3s; }
  [data-state=active] .step:nth-child(3) .disc, [data-state=active] .step:nth-child(3) .sign { animation-delay: .5s; }
  [data-state=active] .rays { animation: shine .8s .6s ease-out; }
}
@keyframes turn { to { transform: rotate(1turn); } }
@keyframes draw { from { stroke-dashoffset: 24; } }
@keyframes come { from { opacity: 0; transform: translateY(.375rem); } }
@keyframes bounce { from { transform: scale(.6); } 60% { transform: scale(1.14); } }
@keyframes shine { 0% { opacity: 1; stroke-dashoffset: 6; } 45% { opacity: 1; stroke-dashoffset: 0; }
  100% { opacity: 0; stroke-dashoffset: -6; } }
`;
