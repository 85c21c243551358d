// @ts-check
/**
 * The account page's texts: the plan and its dates, a plan change before it is made, and each ledger entry.
 *
 * Pure: the server's answers in, sentences out.
 */
import { credits, money, number } from "./text.js";

/** @typedef {import("./api.js").Plan} Plan */
/** @typedef {import("./api.js").Price} Price */
/** @typedef {import("./api.js").Cost} Cost */
/** @typedef {import("./api.js").Entry} Entry */
/** @typedef {import("./api.js").Account} Account */
/** @typedef {import("./api.js").Activating} Activating */
/** @typedef {import("./api.js").Subscription} Subscription */
/** @typedef {import("../sdk/paidup.js").Status} Status */
/** @typedef {"pay"|"bank"|"show"} Way what the customer can do about a payment */
/** @typedef {{title: string, text: string, label: string, way: Way}} Notice */

const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "long", year: "numeric" });
const RUNNING = ["active", "trialing", "past_due", "unpaid"];

/** @param {string} at ISO 8601 */
export const date = (at) => DATE.format(new Date(at));

/** @param {Subscription|null} subscription @returns {subscription is Subscription} */
export const isRunning = (subscription) => !!subscription && RUNNING.includes(subscription.status);

/** @param {Plan|undefined} plan @param {string|null|undefined} interval */
export const priceOf = (plan, interval) =>
  plan?.prices.find((price) => price.interval === (interval ?? "month")) ?? plan?.prices[0];

/** @param {Price|undefined} price @param {number} [seats] */
export const cost = (price, seats = 1) =>
  price ? `${money(price.amount_minor * seats, price.currency)} a ${price.interval}` : "";

/** What paying yearly saves, if all plans save the same. @param {Plan[]} plans */
export function saving(plans) {
  const free = plans.map((plan) => {
    const [month, year] = ["month", "year"].map((interval) => plan.prices.find((p) => p.interval === interval));
    return month && year ? 12 - year.amount_minor / month.amount_minor : null;
  });
  const known = free.filter((months) => months !== null);
  const most = Math.max(0, ...known);
  if (!most) return "";
  if (Number.isInteger(most) && known.every((months) => months === most))
    return most === 1 ? "1 month free" : `${most} months free`;
  return `save up to ${Math.floor((100 * most) / 12)} %`;
}

// ---- Plan

/**
 * @param {Subscription|null} subscription @param {Plan|undefined} plan
 * @param {import("./api.js").Renewing|null} [renewing]
 * @returns {{name: string, price: string, text: string}}
 */
export function planSummary(subscription, plan, renewing = null) {
  if (!subscription || ["incomplete", "incomplete_expired"].includes(subscription.status))
    return { name: "None yet", price: "", text: "Choose one below: you get its credits immediately, and again each month." };
  const { status, quantity, cancel_at, ended_at, current_period_end: end } = subscription;
  const name = `${plan?.name ?? subscription.plan ?? "A plan"}${quantity > 1 ? ` × ${number(quantity)}` : ""}`;
  const price = cost(priceOf(plan, subscription.interval), quantity);
  const on = end ? ` on ${date(end)}` : "";
  if (status === "canceled")
    return {
      name: "None",
      price: "",
      text: `${name} ended${ended_at ? ` on ${date(ended_at)}` : ""}. To continue, choose a plan below.`,
    };
  if (status === "past_due" || status === "unpaid") return { name, price, text: "" };
  if (cancel_at) return { name, price, text: `Ends on ${date(cancel_at)}. You keep it until then.` };
  if (renewing) return { name, price, text: "Being renewed. You keep your credits meanwhile." };
  if (status === "trialing") return { name, price, text: `On trial. The first payment is due${on}.` };
  const again = credits((plan?.credits ?? 0) * quantity);
  const then = subscription.interval === "year" ? "Its credits are added every month." : `Each renewal adds ${again}.`;
  return { name, price, text: `Renews${on}. ${then}` };
}

/** How many posters the balance buys. @param {number} balance @param {number} each the price of a poster */
export function balanceText(balance, each) {
  if (balance < 0)
    return (
      `You owe ${credits(-balance)}: a payment was reversed after its credits were spent. ` +
      "Your next credits cover them first; you are not charged."
    );
  const posters = Math.floor(balance / each);
  if (posters === 0) return "Not enough for a poster.";
  return `Enough for ${number(posters)} ${posters === 1 ? "poster" : "posters"}.`;
}

/** What is reserved, and what expires next if it is not used. @param {import("./api.js").Credits} credits */
export function balanceParts({ held, expiring: [next] }) {
  const reserved = held ? `${credits(held)} held for work that still runs: not spent.` : "";
  const ends = next ? `${credits(next.credits)} to use by ${date(next.at)}.` : "";
  return [reserved, ends].filter(Boolean).join(" ");
}

/** @param {Account["installments"]} parts of a yearly plan still to be granted */
export function upcomingCredits([next, ...rest]) {
  if (!next) return "";
  const after = rest.length ? `, then ${number(rest.length)} more` : ", the last of the year";
  return `Next: ${credits(next.credits)} on ${date(next.due_at)}${after}.`;
}

// ---- Pending payments

/** @type {Record<string, string>} */
const PURPOSES = { subscription_cycle: "renewal", subscription_update: "change" };

/** What a payment is for. @param {Activating} activating @param {Plan|undefined} plan what it pays */
export function purposeOf({ reason }, plan) {
  return plan?.top_up ? "top-up" : (PURPOSES[reason ?? ""] ?? "plan");
}

/** @type {Record<string, (name: string) => string>} */
const SUBJECTS = { change: (name) => `Your change to ${name}`, renewal: (name) => `Your ${name} renewal` };

/** @param {Pick<Status, "status"|"error"|"processing">} payment @param {string} kind what it is for @param {Plan|undefined} plan of it @returns {Notice} */
export function notice({ status, error, processing }, kind, plan) {
  const name = plan?.name ?? "new";
  const plural = kind === "top-up";
  const what = plural ? `Your ${name.toLowerCase()}` : (SUBJECTS[kind]?.(name) ?? `Your ${name} plan`);
  if (status === "processing")
    return {
      title: processing?.kind === "voucher" ? `${what} ${plural ? "wait" : "waits"} for your voucher` : `${what} ${plural ? "are" : "is"} being paid`,
      text: processing?.message ?? "Your bank needs more time. The credits are added as soon as it is done.",
      label: "Show",
      way: "show",
    };
  if (status === "requires_action")
    return {
      title: `${what} ${plural ? "need" : "needs"} your bank’s check`,
      text: "Your bank needs to verify it’s you. Nothing has been charged yet.",
      label: "Complete the bank’s check",
      way: "bank",
    };
  if (status === "failed")
    return {
      title: `${what} could not be paid`,
      text: `${error?.message ?? "Your bank declined it."} You can use another card; you keep what you have in the meantime.`,
      label: "Pay with another card",
      way: "pay",
    };
  return {
    title: `${what} ${plural ? "are" : "is"} waiting for payment`,
    text: "If you have just paid, this updates by itself.",
    label: "Continue",
    way: "pay",
  };
}

/**
 * What the card form names: what is paid for, its price, and the amount where it is known.
 * @param {{kind?: string, interval?: string, quantity?: number}} order @param {Plan|undefined} plan
 */
export function order({ kind, interval, quantity = 1 }, plan) {
  const price = priceOf(plan, interval);
  if (!plan || !price) return { name: "", price: "", cost: "" };
  const amount = money(price.amount_minor * quantity, price.currency);
  if (kind === "top-up") return { name: `${plan.name}: ${number(plan.credits * quantity)}`, price: amount, cost: amount };
  const name = `${plan.name}, ${credits(plan.credits)} a month`;
  if (kind === "change") return { name: `Change to ${name}`, price: "the difference", cost: "" };
  return { name, price: cost(price, quantity), cost: amount };
}

// ---- Plan changes

/** @typedef {{plan: Plan, price: Price}} Offer */

/** Money that already bought credits does not buy them again. */
const UNUSED_MONEY =
  "What you have paid too much is deducted from your next invoices, and adds no credits a second time.";

/** @param {Offer} from @param {Offer} to @returns {"Upgrade"|"Downgrade"|"Pay yearly"|"Pay monthly"} */
export function changeName(from, to) {
  if (from.plan.id === to.plan.id) return to.price.interval === "year" ? "Pay yearly" : "Pay monthly";
  return to.plan.credits > from.plan.credits ? "Upgrade" : "Downgrade";
}

/** @type {Record<string, string>} */
const BRANDS = { visa: "Visa", mastercard: "Mastercard", amex: "American Express", discover: "Discover" };

/** What is charged today, and from which card. @param {Cost} cost */
function today({ amount_due_minor: due, currency, card }) {
  if (due === 0) return "You pay nothing today.";
  const from = card ? `${BRANDS[card.brand] ?? "card"} ending in ${card.last4}` : "saved card";
  return `You pay ${money(due, currency)} today with your ${from}.`;
}

/**
 * What the change means, as sentences: today, from then on, and the credits.
 * @param {Offer} from @param {Offer} to @param {Subscription} subscription @param {Cost} due @returns {string[]}
 */
export function changeMeaning(from, to, { current_period_end: end, quantity, cancel_at }, due) {
  const amount = cost(to.price, quantity);
  const restarts = to.price.interval !== from.price.interval;
  const then = restarts || !end ? `Then it is ${amount}.` : `From ${date(end)} it is ${amount}.`;
  const lines = [`${today(due)} ${then}`];
  const kept = `You keep the credits you have. ${UNUSED_MONEY}`;
  if (restarts && to.price.interval === "year") lines.push(`${credits(to.plan.credits * quantity)} are added every month.`);
  else if (restarts || to.price.amount_minor <= from.price.amount_minor) lines.push(kept);
  else lines.push(`That is the difference for the rest of this ${from.price.interval}. It adds the same share of the credits immediately.`);
  if (cancel_at) lines.push("Your plan still ends on the date you chose, unless you resume it.");
  return lines;
}

/**
 * The dialog's title and buttons. @param {Offer} from @param {Offer} to
 * @returns {{title: string, yes: string, no: string}}
 */
export function changeQuestion(from, to) {
  const interval = to.price.interval;
  if (from.plan.id === to.plan.id)
    return {
      title: `Pay for ${to.plan.name} by the ${interval}?`,
      yes: `Pay by the ${interval}`,
      no: `Keep paying by the ${from.price.interval}`,
    };
  const name = interval === from.price.interval ? to.plan.name : `${to.plan.name}, paid by the ${interval}`;
  return { title: `Change to ${name}?`, yes: `Change to ${to.plan.name}`, no: `Stay on ${from.plan.name}` };
}

/** @param {string} name of the plan @param {string|null} end */
export function cancelMeaning(name, end) {
  const until = end ? `on ${date(end)}` : "at the end of its period";
  return [
    `${name} can end ${until}, and you keep it until then; you can resume it at any time. ` +
      "Or it ends now, without a refund.",
  ];
}

// ---- Ledger entries

/** @param {string} id @param {Plan[]} plans */
const known = (id, plans) => plans.find((plan) => plan.id === id);

/**
 * An entry's name and its detail.
 * @param {Entry} entry @param {Plan[]} plans @returns {[name: string, more: string]}
 */
export function entry({ kind, credits: amount, reason }, plans) {
  if (kind === "grant") return granted(amount, reason, plans);
  if (kind === "spend") return ["Poster", reason === "reserved earlier" ? "printed from reserved credits" : ""];
  if (kind === "reserve") return ["Reserved", "for work in progress"];
  if (kind === "release") return ["Reservation returned", REASONS[reason] ?? ""];
  if (kind === "expire") return ["Expired", REASONS[reason.split(",")[0] ?? ""] ?? reason]; // it ends with a date
  if (kind === "adjust") return ["Corrected", REASONS[reason] ?? reason];
  const name = kind === "freeze" ? "Frozen" : kind === "reverse" ? "Reversed" : "Restored";
  return [name, REASONS[reason] ?? reason];
}

/** @param {number} amount @param {string} reason @param {Plan[]} plans @returns {[string, string]} */
function granted(amount, reason, plans) {
  const [, id, part] = reason.match(/^(.*), (?:paid|part (\d+))$/) ?? [];
  const plan = known(id ?? "", plans);
  if (!plan) return ["Credits", reason];
  if (plan.top_up) return [plan.name, "purchased"];
  if (!amount) return [`${plan.name} plan`, "nothing to pay, no new credits"];
  return [`${plan.name} plan`, part ? `month ${part} of the year` : "paid"];
}

/** @type {Record<string, string>} the ledger's reasons in the customer's words */
const REASONS = {
  refunded: "the payment was refunded",
  "credited back": "the payment was credited back",
  "unused at its end": "unused when its month ended",
  "above the rollover cap": "more than is kept",
  "the subscription has ended": "the plan ended",
  "recalculated with a late invoice": "corrected after a late payment",
  "reservation expired": "not used in time",
  "reservation committed": "then charged by use",
  "reservation released": "not used",
};
