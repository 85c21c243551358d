// @ts-check
/**
 * The balance, wherever the page shows it: counted up when credits come, and said once it stands still.
 *
 * Owns the line on which the server tells of every change. Computes nothing: it shows what it was told last.
 */
import { calm, el, set } from "../lib/dom.js";
import { watchBalance } from "../sdk/paidup.js";
import * as words from "../lib/text.js";

const COUNT_MS = 700;
const SAY_AFTER_MS = 600; // a year's parts come one after the other: one sentence is enough

/** @type {number|null} */
let known = null;
/** @type {number|undefined} */
let saying;

/** @param {number} balance */
export function showBalance(balance) {
  const from = known;
  known = balance;
  el("balance").dataset.value = String(balance);
  el("balance-unit").textContent = el("account-unit").textContent = balance === 1 ? "credit" : "credits";
  el("account-balance").dataset.owed = String(balance < 0);
  if (from !== null && from !== balance) say(balance);
  if (calm.matches || from === balance || balance < (from ?? 0)) return write(balance);
  count(from ?? 0, balance);
}

/** @param {number} from @param {number} to */
function count(from, to) {
  const began = performance.now();
  const step = (/** @type {number} */ now) => {
    if (known !== to) return; // a newer figure has taken over
    const part = Math.min(1, Math.max(0, now - began) / COUNT_MS);
    write(Math.round(from + (to - from) * (1 - (1 - part) ** 3)));
    if (part < 1) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

/** @param {number} figure */
function write(figure) {
  el("balance").textContent = el("account-balance").textContent = words.number(figure);
}

/** @param {number} balance */
function say(balance) {
  clearTimeout(saying);
  saying = setTimeout(() => set("said-balance", `Your balance: ${words.credits(balance)}.`), SAY_AFTER_MS);
}

/** From now on it changes by itself. @param {() => void} changed what else depends on it */
export function followBalance(changed) {
  const watch = watchBalance();
  watch.addEventListener("balance", (event) => {
    showBalance(/** @type {CustomEvent} */ (event).detail.balance);
    changed();
  });
}
