// @ts-check
/** The switch "How they pay". It is remembered for this tab. */
import { el } from "../lib/dom.js";
import { storage } from "./storage.js";

/** @typedef {import("./storage.js").Way} Way */

/** @param {() => void} changed what to do with a payment that is being made */
export function setUpWays(changed) {
  const inputs = /** @type {NodeListOf<HTMLInputElement>} */ (el("ways").querySelectorAll("input"));
  for (const input of inputs) {
    input.checked = input.value === storage.way;
    input.onchange = () => {
      storage.way = /** @type {Way} */ (input.value);
      changed();
    };
  }
}
