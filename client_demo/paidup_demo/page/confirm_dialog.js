// @ts-check
/** A dialog that asks for confirmation before something costs money or ends a plan. */
import { el } from "../lib/dom.js";

/** @typedef {{title: string, text: string[], choices: {value: string, label: string}[], cancelLabel: string}} Question */

/**
 * Resolves to the value of the chosen button, or "" if the customer cancels. The focus returns to where it was.
 * @param {Question} question @returns {Promise<string>}
 */
export function confirmChoice({ title, text, choices, cancelLabel }) {
  const dialog = /** @type {HTMLDialogElement} */ (el("confirm"));
  el("confirm-title").textContent = title;
  el("confirm-text").replaceChildren(...text.map(paragraph));
  const buttons = choices.map(({ value, label }, index) => choice(value, label, index ? "quiet" : "primary"));
  el("confirm-choices").replaceChildren(...buttons, choice("", cancelLabel, "link"));
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
