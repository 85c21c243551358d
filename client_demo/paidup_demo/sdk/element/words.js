// @ts-check
/**
 * What `<paidup-activation>` says, in English, and the states that it can be in.
 *
 * Pure: a state and a status go in, words and marks come out.
 */

/** @typedef {import("../paidup.js").Status} Status */
/**
 * What the screen shows: paidup.js's stages, and three more. `unconfirmed`: delayed, and this page has not seen the
 * payment confirmed; `reversed`: credited once, and taken back; `refused`: the server will not tell this page.
 * @typedef {import("../paidup.js").Stage|"unconfirmed"|"reversed"|"refused"} State
 */
/** @typedef {"payment"|"check"|"credits"} Step */
/** @typedef {"done"|"now"|"next"|"paused"|"failed"} Mark */
/**
 * `{credits}`, `{balance}`, `{plan}` and `{error}` (the bank's own words) are filled in; a function is told the status.
 * @typedef {string|((status: Status|null) => string)} Phrase
 */
/** @typedef {{heading: Phrase, text: Phrase, again?: Phrase}} Saying `again` is the button of a long wait */
/** @typedef {Record<State, Saying> & {steps: Record<Step|Mark, string>}} AllWords */
/** @typedef {{[Key in keyof AllWords]?: Partial<AllWords[Key]>}} Words any part of them */

/** @type {AllWords} */
export const WORDS = {
  steps: {
    payment: "Payment",
    check: "Check with Stripe",
    credits: "Credits",
    done: "done",
    now: "under way",
    next: "not yet",
    paused: "waiting",
    failed: "failed",
  },
  waiting: { heading: "Activating your plan", text: "We are about to check your payment." },
  verifying: { heading: "Activating your plan", text: "We are checking your payment with Stripe." },
  action_required: {
    heading: "Your bank wants to check that it is you",
    text: "The payment is on hold until you pass the check. Nothing has been charged yet.",
  },
  processing: {
    heading: "Payment received, not yet final",
    text: "Your bank needs more time. You may close this page: your credits are added the moment it is done.",
  },
  delayed: {
    heading: "This takes longer than usual",
    text: "Your payment is safe. Nothing need be paid again. You may close this page: your credits will be there.",
    again: "Check again",
  },
  unconfirmed: {
    heading: "No payment seen yet",
    text: "If you have paid, your payment is safe and need not be repeated. You may close this page, or stay: it will tell you.",
    again: "Check again",
  },
  active: { heading: "Your plan is active", text: "{credits} credits are in your account, ready for use." },
  failed: {
    heading: "That payment did not go through",
    text: "{error} If it comes through after all, this page will tell you.",
  },
  void: { heading: "This payment was cancelled", text: "It expired or was withdrawn. To go on, choose a plan again." },
  reversed: {
    heading: "This payment was taken back",
    text: "It was refunded or disputed, so its credits are gone too.",
  },
  refused: {
    heading: "We cannot show this payment here",
    text: "Sign in again to see how it stands. If you have paid, nothing is lost: your credits come by themselves.",
  },
};

export const STATES = /** @type {State[]} */ (Object.keys(WORDS).filter((name) => name !== "steps"));

/** @type {Record<State, [Mark, Mark, Mark]>} */
const MARKS = {
  waiting: ["done", "now", "next"],
  verifying: ["done", "now", "next"],
  action_required: ["paused", "next", "next"],
  processing: ["done", "paused", "next"],
  delayed: ["done", "paused", "next"],
  unconfirmed: ["paused", "next", "next"],
  active: ["done", "done", "done"],
  failed: ["failed", "next", "next"],
  void: ["failed", "next", "next"],
  reversed: ["done", "done", "failed"],
  refused: ["paused", "next", "next"],
};

/**
 * How payment, check and credits stand. Before this page has seen a payment, the first step is what is looked for.
 * @param {State} state @param {boolean} confirmed
 */
export function marksOf(state, confirmed) {
  return !confirmed && (state === "waiting" || state === "verifying")
    ? /** @type {[Mark, Mark, Mark]} */ (["now", "next", "next"])
    : MARKS[state];
}

/** @param {Phrase} phrase @param {Status|null} status @param {string|undefined} language BCP 47 */
export function phrase(phrase, status, language) {
  if (typeof phrase === "function") return phrase(status);
  /** @type {Record<string, string>} */
  const known = {
    credits: (status?.credits_granted ?? 0).toLocaleString(language),
    balance: (status?.balance ?? 0).toLocaleString(language),
    plan: status?.plan ?? "",
    error: status?.error?.message ?? "",
  };
  return phrase.replace(/\{(\w+)\}/g, (whole, name) => known[name] ?? whole).trim();
}
