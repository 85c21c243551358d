// @ts-check
/** The three things every part of the demo needs of the page. */

/** @param {string} id @returns {any} an element of index.html */
export const el = (id) => document.getElementById(id);

/** Live regions speak at each change of text: change it only for news. @param {string} id @param {string} text */
export function set(id, text) {
  if (el(id).textContent !== text) el(id).textContent = text;
}

/** Whether the customer prefers a page that stands still. */
export const calm = matchMedia("(prefers-reduced-motion: reduce)");
