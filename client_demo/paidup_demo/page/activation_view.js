// @ts-check
/** Draws the activating screen, updating only what has changed. */
import { el, set } from "../lib/dom.js";

/** @typedef {import("../lib/text.js").Screen} Screen */
/** @typedef {import("../lib/text.js").StepState} StepState */
/** @typedef {import("../lib/text.js").Action} Action */

const SAID = { done: "done", now: "under way", next: "not yet", paused: "waiting", failed: "failed" };

/** @param {string} stage @param {Screen} screen */
export function drawScreen(stage, { heading, sentence, steps, actions }) {
  el("stage").dataset.stage = stage;
  set("activating-title", heading);
  set("stage", sentence);
  [...el("steps").children].forEach((item, index) => drawStep(item, steps[index]));
  const wanted = actions.map(({ label }) => label).join("|");
  if (el("actions").dataset.wanted === wanted) return; // keep the focus if the buttons are the same
  el("actions").dataset.wanted = wanted;
  const focused = el("actions").contains(document.activeElement);
  el("actions").replaceChildren(...actions.map(button));
  if (focused) el("activating-title").focus();
}

/** @param {HTMLElement} item @param {StepState} step */
function drawStep(item, step) {
  if (item.dataset.step === step) return;
  item.dataset.step = step;
  item.querySelector("use")?.setAttribute("href", `#mark-${step === "now" ? "next" : step}`);
  const said = item.querySelector("em");
  if (said) said.textContent = `(${SAID[step]})`;
}

/** @param {{action: Action, label: string}} wanted @param {number} index */
function button({ action, label }, index) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = action === "home" ? "link" : index === 0 ? "primary" : "quiet";
  button.dataset.action = action;
  button.textContent = label;
  if (action === "retry" || action === "restart" || action === "pay") button.dataset.testid = "try-again";
  return button;
}
