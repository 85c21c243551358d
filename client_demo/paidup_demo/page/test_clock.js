// @ts-check
/**
 * The sandbox clock: shows its date and moves it ahead, so that a renewal or a whole year takes a minute.
 *
 * Only shown with the sandbox, since Stripe's own time cannot be moved.
 */
import * as api from "../lib/api.js";
import { date } from "../lib/account_text.js";
import { el } from "../lib/dom.js";

/** @type {[name: string, step: {days?: number, months?: number}][]} */
const STEPS = [
  ["1 day", { days: 1 }],
  ["1 month", { months: 1 }],
  ["1 year", { months: 12 }],
];

/** @param {() => void} moved called after each move */
export async function clock(moved) {
  el("clock").hidden = false;
  el("clock-steps").replaceChildren(...STEPS.map(([name, step]) => button(name, step, moved)));
  await attempt(api.clock);
}

/** @param {string} name @param {{days?: number, months?: number}} step @param {() => void} moved */
function button(name, step, moved) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = `+ ${name}`;
  button.setAttribute("aria-label", `Move the clock forward by ${name}`);
  button.onclick = async () => {
    if (el("clock").ariaBusy === "true") return;
    el("clock").ariaBusy = "true";
    if (await attempt(() => api.moveClock(step))) {
      el("clock-note").textContent = `${name} later. What is due by now is being charged.`;
      moved();
    }
    el("clock").ariaBusy = "false";
  };
  return button;
}

/** @param {() => Promise<{now: string}>} read @returns {Promise<boolean>} */
async function attempt(read) {
  try {
    el("clock-now").textContent = date((await read()).now);
    return true;
  } catch {
    el("clock-note").textContent = "The sandbox did not answer.";
    return false;
  }
}
