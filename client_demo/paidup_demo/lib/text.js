// @ts-check
/**
 * The demo's texts: numbers, money, and the screen of each stage of an activation.
 *
 * Pure: a stage and the payment's details in, the screen's texts out.
 */

/** @typedef {import("../sdk/paidup.js").Status} Status */
/** @typedef {import("../sdk/paidup.js").Stage} Stage */
/** @typedef {"done"|"now"|"next"|"paused"|"failed"} StepState */
/** @typedef {"pay"|"check"|"bank"|"retry"|"restart"|"home"|"account"} Action what a button does; see main.js */
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

/** A duration for reading: 41 ms, 4.9 s, 38 s, 2 min 5 s. @param {number} ms */
export function formatDuration(ms) {
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 100) return `${seconds} s`;
  return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

/** Joins each number and its unit with a no-break space. @param {string} text */
export const unbroken = (text) => text.replace(/(\d) (ms|s|min)\b/g, "$1\u00a0$2");

const CONTACT = "help@halftone.example";

/**
 * What was just seen, and what it would have been without Paidup.
 * @param {{via: Status["via"], after: number|null, webhook: number|null, missed: boolean}} seen `after`: ms from the bank's
 *   confirmation to the credits on the screen, null if this browser did not see the confirmation; `webhook`: ms from the
 *   credits to Stripe's webhook, null while there is none; `missed`: it is no longer expected
 * @returns {{line: string, why: string}|null} null if nothing was paid
 */
export function story({ via, after, webhook, missed }) {
  if (!via) return null;
  const line =
    after === null
      ? "Your credits are ready."
      : `Your credits were ready ${formatDuration(after)} after your bank’s confirmation.`;
  return { line: unbroken(line), why: unbroken(STORIES[via](webhook, missed)) };
}

/** @type {Record<NonNullable<Status["via"]>, (webhook: number|null, missed: boolean) => string>} */
const STORIES = {
  verification(webhook, missed) {
    if (webhook === null)
      return `Stripe’s webhook ${missed ? "never arrived" : "has not arrived yet"}; without Paidup you would still be waiting for it.`;
    if (webhook <= 0) return "Stripe’s webhook arrived at the same time. Had it been late, Paidup would not have waited for it.";
    return `Stripe’s webhook arrived ${formatDuration(webhook)} later; without Paidup you would have waited for it.`;
  },
  webhook: () => "Stripe’s webhook was first this time. Had it been late, Paidup would not have waited for it.",
  operator: () => "The shop has credited it by hand.",
  reconciliation(webhook) {
    const then = webhook !== null && webhook > 0 ? `arrived ${formatDuration(webhook)} later` : "had not arrived";
    return `Paidup’s regular check found it. Stripe’s webhook ${then}.`;
  },
};

/** @param {Action} action @param {string} label */
const button = (action, label) => ({ action, label });
const toHome = button("home", "Back to posters");

/**
 * The activating screen.
 * @param {Stage|"reversed"} stage
 * @param {{plan: string, kind?: string, credits: number, confirmed: boolean, online: boolean, error: string|null,
 *   elsewhere?: boolean, reference?: string, processing?: string, voucher?: boolean}} known `kind`: what the payment is for: plan, change,
 *   renewal, top-up; `confirmed`: whether this browser saw the bank's confirmation; `elsewhere`: paid on a page of
 *   Stripe's; `reference`: the invoice, to name to the shop; `processing`: what the server says of a payment that takes
 *   days; `voucher`: whether that is a voucher, which is still to be paid
 * @returns {Screen}
 */
export function screen(stage, known) {
  const { plan, confirmed, error } = known;
  if (stage === "awaiting_payment" || (!confirmed && (stage === "waiting" || stage === "verifying")))
    return unpaid(stage, known);
  switch (stage) {
    case "waiting":
    case "verifying":
      return {
        heading: known.kind === "top-up" ? `Adding your ${plan.toLowerCase()}` : `Activating your ${plan} plan`,
        sentence: known.online && known.elsewhere
          ? "We are checking your payment with Stripe."
          : known.online
          ? "Your bank has confirmed the payment. We are checking it with Stripe."
          : "The connection was lost. We are reconnecting and still checking your payment.",
        steps: ["done", "now", "next"],
        actions: [],
      };
    case "provisioning":
      return {
        heading: "Your payment has arrived",
        sentence: "We are setting up your account. It takes a moment.",
        steps: ["done", "done", "now"],
        actions: [],
      };
    case "delayed":
      return {
        heading: "This is taking longer than usual",
        sentence:
          "Your payment is safe. You don’t need to pay again. " +
          "You can close this page; the credits will be there when you come back. " +
          `Questions? Write to ${CONTACT} and name the payment ${known.reference}.`,
        steps: ["done", "paused", "next"],
        actions: [button("check", "Check again"), toHome],
      };
    case "processing":
      return {
        heading: known.voucher ? "Pay your voucher" : "Your bank is processing the payment",
        sentence:
          known.processing ? `${known.processing} You can leave this page.` :
          "Your bank needs more time. You can leave this page: your credits are added as soon as it is done.",
        steps: known.voucher ? ["paused", "next", "next"] : ["done", "paused", "next"],
        actions: [toHome],
      };
    case "action_required":
      return {
        heading: "Your bank needs to verify it’s you",
        sentence: "The payment is on hold until you complete the check. Nothing has been charged yet.",
        steps: ["paused", "next", "next"],
        actions: [button("bank", "Complete the bank’s check"), toHome],
      };
    case "failed":
      return {
        heading: "The payment did not go through",
        sentence: `${error ?? "Your bank declined it."} You can try another card. If this payment succeeds after all, this page will show it.`,
        steps: ["failed", "next", "next"],
        actions: [button("retry", "Try another card"), toHome],
      };
    case "active":
      return {
        ...success(known),
        steps: ["done", "done", "done"],
        actions: [],
      };
    case "reversed":
      return {
        heading: "This payment was reversed",
        sentence:
          "It was refunded or disputed, so its credits were removed. You can choose a plan again at any time.",
        steps: ["done", "done", "failed"],
        actions: [button("restart", "Choose a plan"), toHome],
      };
    default:
      return {
        heading: "This payment was canceled",
        sentence: "It expired or was canceled. To continue, choose a plan again.",
        steps: ["failed", "next", "next"],
        actions: [button("restart", "Choose a plan"), toHome],
      };
  }
}

/** Paid, or nothing was due. @param {{plan: string, kind?: string, credits: number}} known */
function success({ plan, kind, credits: added }) {
  const sentence = `${credits(added)} added.`;
  if (kind === "top-up") return { heading: `${credits(added)} added`, sentence: "They are in your account, ready to use." };
  if (kind === "renewal") return { heading: `${plan} is renewed`, sentence };
  if (kind === "change" && added === 0)
    return {
      heading: `You are on ${plan} now`,
      sentence:
        "There is nothing to pay. You keep the credits you have, and what you have paid too much is deducted from your next invoices.",
    };
  return { heading: `${plan} is yours`, sentence };
}

/** Not paid, as Stripe says; or not known yet, and not confirmed in this browser. @param {Stage|"reversed"} stage @param {{plan: string, kind?: string, elsewhere?: boolean}} known @returns {Screen} */
function unpaid(stage, { plan, kind, elsewhere }) {
  const how = elsewhere ? "Go to the payment page" : "Enter your card details";
  return {
    heading:
      kind === "top-up"
        ? `Your ${plan.toLowerCase()} are waiting for payment`
        : `Your ${plan} plan is waiting for payment`,
    sentence:
      stage === "awaiting_payment"
        ? `It is not paid yet. ${how} to complete it. If you are paying on another device, this page updates by itself.`
        : "We are checking whether it has been paid.",
    steps: [stage === "awaiting_payment" ? "paused" : "now", "next", "next"],
    actions: [button("pay", elsewhere ? "Go to the payment page" : "Enter card details"), toHome],
  };
}

/** The card form's error text. @param {{code?: string, type?: string, message?: string}} error Stripe.js's */
export function cardError(error) {
  if (error.code === "payment_intent_authentication_failure") {
    return "Your bank could not verify that it was you. Nothing was charged. Try again, or use another card.";
  }
  if (error.type === "api_connection_error") {
    return "Stripe cannot be reached. Try again: you cannot be charged twice for the same payment.";
  }
  return error.message ?? "The payment did not go through. Try again, or use another card.";
}
