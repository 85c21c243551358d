// @ts-check
/**
 * The account page's offers: each plan, monthly or yearly, and extra credits.
 *
 * Redraws only when something has changed, and keeps the focus.
 */
import * as accountText from "../lib/account_text.js";
import { el } from "../lib/dom.js";
import * as texts from "../lib/text.js";

/** @typedef {import("../lib/api.js").Plan} Plan */
/** @typedef {import("../lib/api.js").Price} Price */
/** @typedef {import("../lib/api.js").Subscription} Subscription */
/** @typedef {{plan: Plan, price: Price}} Offer */

const MOST_PACKS = 20;
const ROW =
  '<i aria-hidden="true"></i><div><h3></h3><p></p></div><p class="cost"><b></b><span></span></p><p class="do"></p>';

/** @param {Plan[]} plans @param {Subscription|null} subscription @param {(offer: Offer) => void} choose */
export function drawOffers(plans, subscription, choose) {
  const interval = chosenInterval();
  const sold = plans.filter((plan) => !plan.top_up);
  for (const label of document.querySelectorAll("[data-saving]")) label.textContent = accountText.saving(sold);
  const running = accountText.isRunning(subscription) ? subscription : null;
  const now = `${interval} ${running?.plan} ${running?.interval} ${sold.length}`;
  if (el("offers").dataset.shows === now) return;
  el("offers").dataset.shows = now;
  const focused = /** @type {HTMLElement|null} */ (document.activeElement)?.dataset.testid;
  const inside = el("offers").contains(document.activeElement);
  el("offers").replaceChildren(
    ...sold.map((plan, index) => {
      const price = plan.prices.find((price) => price.interval === interval) ?? plan.prices[0];
      return drawOffer({ plan, price }, index, running, plans, choose);
    }),
  );
  if (inside) (el("offers").querySelector(`[data-testid="${focused}"]`) ?? el("offers-title")).focus();
}

/** @returns {string} */
export const chosenInterval = () =>
  /** @type {HTMLInputElement} */ (document.querySelector("[name=offer-interval]:checked")).value;

/** Select monthly or yearly prices. @param {string} interval */
export function chooseInterval(interval) {
  const wanted = document.querySelector(`[name=offer-interval][value=${interval}]`);
  if (wanted) /** @type {HTMLInputElement} */ (wanted).checked = true;
}

/**
 * @param {Offer} offer @param {number} index @param {Subscription|null} running @param {Plan[]} plans
 * @param {(offer: Offer) => void} choose
 */
function drawOffer(offer, index, running, plans, choose) {
  const { plan, price } = offer;
  const a_month = texts.money(Math.round(price.amount_minor / 12), price.currency);
  const item = row({
    h3: plan.name,
    "div p": `${texts.credits(plan.credits)} a month. ${plan.description}`,
    b: texts.money(price.amount_minor, price.currency),
    span: price.interval === "year" ? `a year, ${a_month} a month` : `a ${price.interval}`,
  });
  item.style.setProperty("--size", String(0.34 + 0.33 * index));
  const own = plans.find(({ id }) => id === running?.plan);
  const from = own && { plan: own, price: /** @type {Price} */ (accountText.priceOf(own, running?.interval)) };
  const what = /** @type {HTMLElement} */ (item.querySelector(".do"));
  if (from?.plan === plan && from.price === price) {
    item.setAttribute("aria-current", "true");
    what.append(mark());
    return item;
  }
  const button = document.createElement("button");
  button.type = "button";
  button.className = "choose";
  button.dataset.testid = `offer-${plan.id}`;
  button.textContent = from ? accountText.changeName(from, offer) : "Choose";
  button.setAttribute("aria-label", from ? `${button.textContent}: ${plan.name}` : `Choose ${plan.name}`);
  button.onclick = () => choose(offer);
  what.append(button);
  return item;
}

function mark() {
  const mark = document.createElement("span");
  mark.className = "yours";
  mark.textContent = "Your plan";
  return mark;
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

// ---- More credits

/** @param {Plan[]} plans @param {(plan: Plan, quantity: number) => void} buy */
export function drawTopUp(plans, buy) {
  const plan = plans.find((plan) => plan.top_up);
  el("top-up").hidden = !plan;
  if (!plan) return;
  el("top-up-name").textContent = plan.name;
  el("top-up-text").textContent = `${texts.credits(plan.credits)} a pack. ${plan.description}`;
  const price = plan.prices[0];
  const show = () => {
    const many = packs();
    const cost = texts.money(price.amount_minor * many, price.currency);
    el("top-up-buy").textContent = `Buy ${texts.number(plan.credits * many)} for ${cost}`;
    el("fewer").setAttribute("aria-disabled", String(many <= 1));
    el("more").setAttribute("aria-disabled", String(many >= MOST_PACKS));
  };
  const step = (/** @type {number} */ by) => {
    el("packs").value = String(Math.min(MOST_PACKS, Math.max(1, packs() + by)));
    show();
  };
  el("fewer").onclick = () => step(-1);
  el("more").onclick = () => step(1);
  el("packs").oninput = show;
  el("packs").onblur = () => step(0);
  el("top-up").onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    buy(plan, packs());
  };
  show();
}

const packs = () => Math.min(MOST_PACKS, Math.max(1, Math.floor(Number(el("packs").value)) || 1));
