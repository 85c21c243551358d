// @ts-check
/**
 * The texts of `<paidup-activation>` in English, and its states.
 *
 * Pure: a state and a status in, texts and marks out.
 */

/** @typedef {import("../paidup.js").Status} Status */
/**
 * The screen's state: one of paidup.js's stages, or `voucher` (in processing: a voucher is to be paid), `reversed`
 * (credited, then refunded or disputed), `refused` (the server does not authorize this page).
 * @typedef {import("../paidup.js").Stage|"voucher"|"reversed"|"refused"} State
 */
/** @typedef {"payment"|"check"|"credits"} Step */
/** @typedef {"done"|"now"|"next"|"paused"|"failed"} Mark */
/**
 * `{credits}`, `{granted}` ("1,000 credits, 50 images"), `{balance}`, `{plan}`, `{error}` (the bank's message) and `{processing}` (the server's text for a payment that
 * takes days, in English) are filled in, and of such a payment `{method}`, `{expected}` (the day by which the bank usually
 * answers) and `{pay_by}` (the last day on which a voucher can be paid); a function gets the status.
 * @typedef {string|((status: Status|null) => string)} Phrase
 */
/**
 * `again` is the button's text after a long wait, `show` that of the link to a voucher.
 * @typedef {{heading: Phrase, text: Phrase, again?: Phrase, show?: Phrase}} Saying
 */
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
  awaiting_payment: {
    heading: "Not paid yet",
    text: "Complete the payment to get your credits. If you are paying on another device, stay here: this page updates by itself.",
    again: "Check again",
  },
  action_required: {
    heading: "Your bank needs to verify it’s you",
    text: "The payment is on hold until you complete the check. Nothing has been charged yet.",
  },
  processing: {
    heading: "Your bank is processing the payment",
    text: "{processing} You can close this page.",
  },
  voucher: {
    heading: "Pay your voucher",
    text: "{processing} You can close this page.",
    show: "Show the voucher",
  },
  delayed: {
    heading: "This is taking longer than usual",
    text: "Your payment is safe. You don’t need to pay again. You can close this page: your credits will be there.",
    again: "Check again",
  },
  provisioning: { heading: "Your payment has arrived", text: "We are setting up your account. It takes a moment." },
  active: { heading: "Your plan is active", text: "{granted} are in your account, ready to use." },
  failed: {
    heading: "The payment did not go through",
    text: "{error} If it succeeds after all, this page will show it.",
  },
  void: { heading: "This payment was canceled", text: "It expired or was canceled. To continue, choose a plan again." },
  unclaimed: {
    heading: "Your payment has arrived",
    text: "It is paid, but it could not be assigned to an account yet. You don’t need to pay again. Sign in, or write to us.",
  },
  reversed: {
    heading: "This payment was reversed",
    text: "It was refunded or disputed, so its credits were removed.",
  },
  refused: {
    heading: "We cannot show this payment here",
    text: "Sign in again to see its status. If you have paid, nothing is lost: your credits are added automatically.",
  },
};

export const STATES = /** @type {State[]} */ (Object.keys(WORDS).filter((name) => name !== "steps"));

/** @type {Record<State, [Mark, Mark, Mark]>} */
const MARKS = {
  waiting: ["done", "now", "next"],
  verifying: ["done", "now", "next"],
  awaiting_payment: ["now", "next", "next"],
  action_required: ["paused", "next", "next"],
  processing: ["done", "paused", "next"],
  voucher: ["paused", "next", "next"],
  delayed: ["done", "paused", "next"],
  provisioning: ["done", "done", "now"],
  active: ["done", "done", "done"],
  failed: ["failed", "next", "next"],
  void: ["failed", "next", "next"],
  unclaimed: ["done", "done", "paused"],
  reversed: ["done", "done", "failed"],
  refused: ["paused", "next", "next"],
};

/** The state of what the server says. @param {Pick<Status, "status"|"processing">|null} status @param {import("../paidup.js").Stage} stage @returns {State} */
export function stateOf(status, stage) {
  if (status?.status === "reversed") return "reversed";
  return stage === "processing" && status?.processing?.kind === "voucher" ? "voucher" : stage;
}

/**
 * The marks of the three steps. Until this page has confirmed the payment, the first step is the current one.
 * @param {State} state @param {boolean} confirmed
 */
export function marksOf(state, confirmed) {
  return !confirmed && (state === "waiting" || state === "verifying")
    ? /** @type {[Mark, Mark, Mark]} */ (["now", "next", "next"])
    : MARKS[state];
}

const PROCESSING = "Your bank needs more time: your credits are added as soon as it is done.";

/** @param {string|undefined} at @param {string|undefined} language */
const day = (at, language) => (at ? new Date(at).toLocaleDateString(language, { day: "numeric", month: "long", timeZone: "UTC" }) : "");

/** What was granted of each unit; of the default one alone, where it is the only one. @param {Status|null} status @param {string|undefined} language */
function granted(status, language) {
  const units = Object.entries(status?.units_granted ?? {}).filter(([, number]) => number > 0);
  const credits = status?.credits_granted ?? 0;
  /** @type {[string, number][]} */
  const all = credits || !units.length ? [["credits", credits], ...units] : units;
  return all.map(([unit, number]) => `${number.toLocaleString(language)} ${unit}`).join(", ");
}

/** @param {Phrase} phrase @param {Status|null} status @param {string|undefined} language BCP 47 */
export function phrase(phrase, status, language) {
  if (typeof phrase === "function") return phrase(status);
  /** @type {Record<string, string>} */
  const known = {
    credits: (status?.credits_granted ?? 0).toLocaleString(language),
    granted: granted(status, language),
    balance: (status?.balance ?? 0).toLocaleString(language),
    plan: status?.plan ?? "",
    error: status?.error?.message ?? "",
    processing: status?.processing?.message ?? PROCESSING,
    method: status?.processing?.name ?? "",
    expected: day(status?.processing?.expected_at, language),
    pay_by: day(status?.processing?.pay_by ?? undefined, language),
  };
  return phrase.replace(/\{(\w+)\}/g, (whole, name) => known[name] ?? whole).trim();
}
