// @ts-check
/**
 * The press and the gallery: the current sheet, and the posters printed so far.
 */
import { reducedMotion, el } from "../lib/dom.js";
import { storage, MOST_POSTERS } from "./storage.js";
import { describe, press, print, proof } from "./poster.js";

/** Print the poster with an animation, then add it to the gallery. @param {string} seed */
export async function printToGallery(seed) {
  const { title } = describe(seed);
  storage.gallery = [seed, ...storage.gallery.filter((other) => other !== seed)]; // first, so that a reload does not lose it
  el("bed-text").textContent = `Printing “${title}”…`;
  if (reducedMotion.matches) print(el("sheet"), seed, 2);
  else await press(el("sheet"), seed);
  el("sheet").setAttribute("aria-label", `Poster: ${title}`);
  el("bed-text").textContent = `“${title}”, fresh from the press.`;
  el("gallery").prepend(galleryItem(seed));
  while (el("gallery").children.length > MOST_POSTERS) el("gallery").lastChild.remove();
}

/** Show the grey proof, or the newest poster. @param {string|null} waiting the seed of the interrupted poster */
export function showSheet(waiting) {
  const [newest] = storage.gallery;
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

export function drawGallery() {
  el("gallery").replaceChildren(...storage.gallery.map(galleryItem));
}

/** @param {string} seed */
function galleryItem(seed) {
  const item = document.createElement("li");
  item.dataset.testid = "poster";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Poster: ${describe(seed).title}`);
  print(canvas, seed, 0.75);
  item.append(canvas);
  return item;
}
