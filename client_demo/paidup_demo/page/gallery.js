// @ts-check
/**
 * The press and the wall: the sheet in the bed, and the posters printed so far.
 *
 * Owns what hangs there. Knows nothing of money.
 */
import { calm, el } from "../lib/dom.js";
import { kept, MOST_POSTERS } from "./storage.js";
import { describe, press, print, proof } from "./poster.js";

/** The sheet is printed while the customer watches, then hung in the gallery. @param {string} seed */
export async function deliver(seed) {
  const { title } = describe(seed);
  kept.gallery = [seed, ...kept.gallery.filter((other) => other !== seed)]; // first: a reload must not lose it
  el("bed-text").textContent = `Printing “${title}”…`;
  if (calm.matches) print(el("sheet"), seed, 2);
  else await press(el("sheet"), seed);
  el("sheet").setAttribute("aria-label", `Poster: ${title}`);
  el("bed-text").textContent = `“${title}”, fresh from the press.`;
  el("gallery").prepend(framed(seed));
  while (el("gallery").children.length > MOST_POSTERS) el("gallery").lastChild.remove();
}

/** The grey proof in the bed, or the newest poster. @param {string|null} waiting the seed of the interrupted poster */
export function lay(waiting) {
  const [newest] = kept.gallery;
  if (waiting || !newest) {
    proof(el("sheet"), waiting ?? "halftone");
    el("sheet").setAttribute("aria-label", "A grey proof of your poster, waiting to be printed");
    el("bed-text").textContent = waiting
      ? `“${describe(waiting).title}” is waiting to be printed.`
      : "A proof. Your first poster prints here.";
    return;
  }
  print(el("sheet"), newest, 2);
  el("sheet").setAttribute("aria-label", `Poster: ${describe(newest).title}`);
  el("bed-text").textContent = `“${describe(newest).title}”, your newest.`;
}

export function hangAll() {
  el("gallery").replaceChildren(...kept.gallery.map(framed));
}

/** @param {string} seed */
function framed(seed) {
  const item = document.createElement("li");
  item.dataset.testid = "poster";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Poster: ${describe(seed).title}`);
  print(canvas, seed, 0.75);
  item.append(canvas);
  return item;
}
