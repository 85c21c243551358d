// @ts-check
/** What every part of the demo needs of the page. */

/** @param {string} id @returns {any} an element of index.html */
export const el = (id) => document.getElementById(id);

/** Live regions speak at each change of text: change it only for news. @param {string} id @param {string} text */
export function set(id, text) {
  if (el(id).textContent !== text) el(id).textContent = text;
}

/** Whether the customer prefers a page that stands still. */
export const calm = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * A function that draws, and draws again for as long as `draw` says that something moves. A page at rest, or
 * one that nobody sees, asks for no frame.
 *
 * @param {() => boolean} draw
 */
export function whileMoving(draw) {
  /** @type {number|undefined} */
  let next;
  return function again() {
    clearTimeout(next);
    if (draw()) next = setTimeout(() => requestAnimationFrame(again), calm.matches ? 1000 : 80);
  };
}
