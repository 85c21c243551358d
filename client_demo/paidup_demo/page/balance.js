// @ts-check
/**
 * Shows the balance everywhere on the page: counts up when credits arrive, and announces the final number once.
 *
 * Follows the account's balance over a WebSocket and shows the newest value.
 */
import { reducedMotion, el, set } from "../lib/dom.js";
import { watchBalance } from "../sdk/paidup.js";
import * as texts from "../lib/text.js";

const COUNT_MS = 700;
const SAY_AFTER_MS = 600; // several grants may follow each other: announce only the last

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
  if (reducedMotion.matches || from === balance || balance < (from ?? 0)) return write(balance);
  count(from ?? 0, balance);
}

/** @param {number} from @param {number} to */
function count(from, to) {
  const began = performance.now();
  const step = (/** @type {number} */ now) => {
    if (known !== to) return; // a newer balance has arrived
    const part = Math.min(1, Math.max(0, now - began) / COUNT_MS);
    write(Math.round(from + (to - from) * (1 - (1 - part) ** 3)));
    if (part < 1) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

/** @param {number} figure */
function write(figure) {
  el("balance").textContent = el("account-balance").textContent = texts.number(figure);
}

/** @param {number} balance */
function say(balance) {
  clearTimeout(saying);
  saying = setTimeout(() => set("balance-status", `Your balance: ${texts.credits(balance)}.`), SAY_AFTER_MS);
}

/** Follow the balance from now on. @param {() => void} changed called after each change */
export function followBalance(changed) {
  const watch = watchBalance();
  watch.addEventListener("balance", (event) => {
    const { balance, held } = event.detail;
    showBalance(balance);
    set("balance-held", held ? `(${texts.number(held)} held)` : "");
    changed();
  });
}
