// @ts-check
/**
 * What the demo says: numbers, money, and the words of each stage of an activation.
 *
 * Pure: a stage and what is known of the payment go in, the screen's words come out.
 */

/** @typedef {import("../sdk/paidup.js").Status} Status */
/** @typedef {import("../sdk/paidup.js").Stage} Stage */
/** @typedef {"done"|"now"|"next"|"paused"|"failed"} StepState */
/** @typedef {"pay"|"check"|"bank"|"retry"|"restart"|"studio"|"account"} Action what a button does; see demo.js */
/**
 * @typedef {{heading: string, sentence: string, steps: [StepState, StepState, StepState],
 *   actions: {action: Action, label: string}[]}} Screen
 */

/** @param {number} value */
export const number = (value) => value.toLocaleString("en").replace("-", "−");

/** With its sign. @param {number} value */
export const signed = (value) => (value > 0 ? `+${number(value)}` : number(value));

/** @param {number} value */
export const credits = (value) => `${number(value)} ${value === 1 ? "credit" : "credits"}`;

/** @param {number} minor in the currency's smallest unit @param {string} currency */
export function money(minor, currency) {
  const format = new Intl.NumberFormat("en", { style: "currency", currency });
  const amount = minor / 10 ** (format.resolvedOptions().maximumFractionDigits ?? 2);
  return format.format(amount).replace(/[.]0+$/, "");
}

/** @param {number} ms */
export function duration(ms) {
  return ms < 1000 ? `${Math.max(1, Math.round(ms))} ms` : `${(ms / 1000).toFixed(1)} s`;
}

const ROADS = {
  verification: ["verification", "We asked Stripe ourselves, without waiting to be told."],
  webhook: ["webhook", "Stripe’s own message came in first."],
  reconciliation: ["reconciliation", "Our regular sweep found the payment."],
};

/** Which road won, and how fast. @param {Status["via"]} via @param {number|null} ms since the bank confirmed */
export function wonBy(via, ms) {
  if (!via) return null;
  const [name, why] = ROADS[via];
  return { line: `Confirmed by ${name}${ms === null ? "" : ` in ${duration(ms)}`}`, why };
}

/** @param {Action} action @param {string} label */
const button = (action, label) => ({ action, label });
const toStudio = button("studio", "Back to the studio");

/**
 * The activating screen.
 * @param {Stage|"reversed"} stage
 * @param {{plan: string, kind?: string, credits: number, confirmed: boolean, online: boolean, error: string|null}} known
 *   `kind`: what the payment is for: plan, change, renewal, top-up; `confirmed`: whether this browser saw the bank's
 *   confirmation
 * @returns {Screen}
 */
export function screen(stage, known) {
  const { plan, confirmed, error } = known;
  if (!confirmed && ["waiting", "verifying", "delayed"].includes(stage)) return unpaid(stage, known);
  switch (stage) {
    case "waiting":
    case "verifying":
      return {
        heading: known.kind === "top-up" ? `Adding your ${plan.toLowerCase()}` : `Activating your ${plan} plan`,
        sentence: known.online
          ? "Your bank has confirmed the payment. We are checking it with Stripe."
          : "The connection was lost. We are reconnecting, and checking your payment meanwhile.",
        steps: ["done", "now", "next"],
        actions: [],
      };
    case "delayed":
      return {
        heading: "This is taking longer than usual",
        sentence:
          "Your payment is safe. Nothing need be paid again. " +
          "You may close this page; the credits will be there when you come back.",
        steps: ["done", "paused", "next"],
        actions: [toStudio, button("check", "Check again")],
      };
    case "processing":
      return {
        heading: "Payment received, not yet final",
        sentence:
          "Your bank needs more time to complete it. You may leave this page: the credits are added the moment it is done.",
        steps: ["done", "paused", "next"],
        actions: [toStudio],
      };
    case "action_required":
      return {
        heading: "Your bank wants to check that it is you",
        sentence: "The payment is on hold until the check is passed. Nothing has been charged yet.",
        steps: ["paused", "next", "next"],
        actions: [button("bank", "Run the bank’s check"), toStudio],
      };
    case "failed":
      return {
        heading: "That payment did not go through",
        sentence: `${error ?? "The bank refused it."} You can try another card. If this payment comes through after all, this page will tell you.`,
        steps: ["failed", "next", "next"],
        actions: [button("retry", "Try another card"), toStudio],
      };
    case "active":
      return {
        ...joy(known),
        steps: ["done", "done", "done"],
        actions: [],
      };
    case "reversed":
      return {
        heading: "This payment was taken back",
        sentence:
          "It was refunded or disputed, so its credits are gone too. You can choose a plan again at any time.",
        steps: ["done", "done", "failed"],
        actions: [button("restart", "Choose a plan"), toStudio],
      };
    default:
      return {
        heading: "This payment was cancelled",
        sentence: "It expired or was withdrawn. To go on, choose a plan again.",
        steps: ["failed", "next", "next"],
        actions: [button("restart", "Choose a plan"), toStudio],
      };
  }
}

/** It is paid, or nothing had to be. @param {{plan: string, kind?: string, credits: number}} known */
function joy({ plan, kind, credits: added }) {
  const sentence = `${credits(added)} added.`;
  if (kind === "top-up") return { heading: `${credits(added)} more`, sentence: "They are in your account, ready for use." };
  if (kind === "renewal") return { heading: `${plan} goes on`, sentence };
  if (kind === "change" && added === 0)
    return {
      heading: `You are on ${plan} now`,
      sentence:
        "There is nothing to pay. The credits that you have stay yours, and what you paid too much stays as credit for your next invoices.",
    };
  return { heading: `${plan} is yours`, sentence };
}

/** A payment begun, but none seen: here, on another device, or never. @param {Stage|"reversed"} stage @param {{plan: string, kind?: string}} known @returns {Screen} */
function unpaid(stage, { plan, kind }) {
  return {
    heading:
      kind === "top-up"
        ? `Your ${plan.toLowerCase()} are waiting for their payment`
        : `Your ${plan} plan is waiting for its payment`,
    sentence:
      stage === "verifying"
        ? "We are asking Stripe whether it has been paid."
        : "We have not seen a payment yet. If you paid a moment ago, stay here: this page will tell you.",
    steps: [stage === "verifying" ? "now" : "paused", "next", "next"],
    actions: [button("pay", "Enter card details"), toStudio],
  };
}

/** What the card form says. @param {{code?: string, type?: string, message?: string}} error Stripe.js's */
export function cardError(error) {
  if (error.code === "payment_intent_authentication_failure") {
    return "Your bank could not confirm that it was you. Nothing was charged. Try again, or use another card.";
  }
  if (error.type === "api_connection_error") {
    return "Stripe cannot be reached. Try again: it is the same payment, so it cannot be taken twice.";
  }
  return error.message ?? "The payment did not go through. Try again, or use another card.";
}
