// @ts-check
/** DOM helpers shared by the demo's modules. */

/** @param {string} id @returns {any} an element of index.html */
export const el = (id) => document.getElementById(id);

/** Set the text only if it changes: a live region announces every assignment. @param {string} id @param {string} text */
export function set(id, text) {
  if (el(id).textContent !== text) el(id).textContent = text;
}

/** Set a performance mark now. @param {string} name @returns {number} its time in ms since 1970, to fractions of one */
export function mark(name) {
  const startTime = performance.now();
  performance.mark(name, { startTime });
  return performance.timeOrigin + startTime;
}

/** Whether the customer prefers reduced motion. */
export const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Returns a function that draws, and repeats while `draw` returns true. A static or hidden page requests no frames.
 *
 * @param {() => boolean} draw
 */
export function whileMoving(draw) {
  /** @type {number|undefined} */
  let next;
  return function again() {
    clearTimeout(next);
    if (draw()) next = setTimeout(() => requestAnimationFrame(again), reducedMotion.matches ? 1000 : 80);
  };
}
