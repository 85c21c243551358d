// @ts-check
/** One question before something is done that costs money or ends a plan: a dialog, and its answer. */
import { el } from "../lib/dom.js";

/** @typedef {{title: string, text: string[], choices: {value: string, label: string}[], never: string}} Question */

/**
 * The value of the choice that was pressed; "" where the customer would rather not.
 * The focus goes back to where it was.
 * @param {Question} question @returns {Promise<string>}
 */
export function ask({ title, text, choices, never }) {
  const dialog = /** @type {HTMLDialogElement} */ (el("ask"));
  el("ask-title").textContent = title;
  el("ask-text").replaceChildren(...text.map(paragraph));
  const buttons = choices.map(({ value, label }, index) => choice(value, label, index ? "quiet" : "primary"));
  el("ask-choices").replaceChildren(...buttons, choice("", never, "link"));
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

/** @param {string} text */
function paragraph(text) {
  const made = document.createElement("p");
  made.textContent = text;
  return made;
}

/** @param {string} value @param {string} label @param {string} look */
function choice(value, label, look) {
  const button = document.createElement("button");
  button.value = value;
  button.textContent = label;
  button.className = look;
  return button;
}
