// @ts-check
/** Draws the list of plans and the list of test cards. */
import { saving } from "../lib/account_text.js";
import { el } from "../lib/dom.js";
import { state } from "./session_state.js";
import * as texts from "../lib/text.js";

/** @typedef {import("../lib/api.js").Plan} Plan */

const TEST_CARDS = [
  ["4242 4242 4242 4242", "Succeeds"],
  ["4000 0000 0000 3220", "Your bank asks first (3DS), then it succeeds"],
  ["4000 0000 0000 0002", "Declined"],
  ["4000 0000 0000 9995", "Declined: insufficient funds"],
  ["4000 0084 0000 1629", "Your bank asks first (3DS), then it is declined"],
];

const ROW =
  '<i aria-hidden="true"></i><div><h2></h2><p></p></div><p class="cost"><b></b><span></span></p>' +
  '<button type="button" class="choose">Choose</button>';

/** @param {Plan[]} plans @param {(plan: string, interval: string) => void} choose */
export function drawPlans(plans, choose) {
  const checked = document.querySelector("[name=interval]:checked");
  const wanted = /** @type {HTMLInputElement|null} */ (checked)?.value;
  plans = plans.filter((plan) => !plan.top_up);
  el("interval").hidden = !plans.some((plan) => plan.prices.some((price) => price.interval === "year"));
  for (const label of el("interval").querySelectorAll("[data-saving]")) label.textContent = saving(plans);
  const rows = plans.map((plan, index) => {
    const price = plan.prices.find((price) => price.interval === wanted) ?? plan.prices[0];
    const item = row({
      h2: plan.name,
      "div p": `${texts.credits(plan.credits)} a month. ${plan.description}`,
      b: texts.money(price.amount_minor, price.currency),
      span: `a ${price.interval}`,
    });
    item.style.setProperty("--size", String(0.34 + 0.33 * index));
    const button = /** @type {HTMLButtonElement} */ (item.querySelector("button"));
    button.dataset.testid = `plan-${plan.id}`;
    button.setAttribute("aria-label", `Choose ${plan.name}`);
    button.onclick = () => choose(plan.id, price.interval);
    return item;
  });
  el("plans").replaceChildren(...rows);
}

/** @param {Record<string, string>} texts by selector */
function row(texts) {
  const item = document.createElement("li");
  item.innerHTML = ROW;
  for (const [where, text] of Object.entries(texts)) {
    /** @type {HTMLElement} */ (item.querySelector(where)).textContent = text;
  }
  return item;
}

/** @param {boolean} sandboxed whether a test card can be filled in; Stripe's own form cannot be */
export function drawTestCards(sandboxed) {
  el("test-cards").hidden = false;
  el("tests-how").textContent = sandboxed
    ? "No real payments are made. Press a card to fill in the form."
    : "No real payments are made. Press a number to copy it. Any future date and any three digits will do.";
  const rows = TEST_CARDS.map(([digits, what]) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const [number, outcome] = [document.createElement("b"), document.createElement("span")];
    button.type = "button";
    [number.textContent, outcome.textContent] = [digits, what];
    button.append(number, " ", outcome);
    button.onclick = () => use(button, digits);
    item.append(button);
    return item;
  });
  el("test-list").replaceChildren(...rows);
}

/** @param {HTMLElement} button @param {string} digits */
async function use(button, digits) {
  const done = state.card?.sandboxFill ? fill(digits) : await copy(digits);
  if (!done) return;
  el("card-error").textContent = "";
  el("tests-status").textContent = `${digits}: ${done}`;
  for (const other of document.querySelectorAll("[data-done]")) delete (/** @type {HTMLElement} */ (other).dataset.done);
  button.dataset.done = done;
  setTimeout(() => delete button.dataset.done, 1500);
}

/** @param {string} digits */
function fill(digits) {
  state.card.sandboxFill(digits);
  return "filled in";
}

/** @param {string} digits */
const copy = (digits) =>
  navigator.clipboard.writeText(digits.replaceAll(" ", "")).then(
    () => "copied",
    () => "", // not allowed here; the number can still be typed
  );
