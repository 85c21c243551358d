/**
 * The texts of `<paidup-activation>` in English, and its states.
 *
 * Pure: a state and a status in, texts and marks out.
 */
export type Status = import("../paidup.js").Status;
export type State = import("../paidup.js").Stage | "voucher" | "reversed" | "refused";
export type Step = "payment" | "check" | "credits";
export type Mark = "done" | "now" | "next" | "paused" | "failed";
export type Phrase = string | ((status: Status | null) => string);
export type Saying = {
    heading: Phrase;
    text: Phrase;
    again?: Phrase;
    show?: Phrase;
};
export type AllWords = Record<State, Saying> & {
    steps: Record<Step | Mark, string>;
};
export type Words = {
    [Key in keyof AllWords]?: Partial<AllWords[Key]>;
};
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
export declare const WORDS: AllWords;
export declare const STATES: State[];
/** The state of what the server says. @param {Pick<Status, "status"|"processing">|null} status @param {import("../paidup.js").Stage} stage @returns {State} */
export declare function stateOf(status: Pick<Status, "status" | "processing"> | null, stage: import("../paidup.js").Stage): State;
/**
 * The marks of the three steps. Until this page has confirmed the payment, the first step is the current one.
 * @param {State} state @param {boolean} confirmed
 */
export declare function marksOf(state: State, confirmed: boolean): [Mark, Mark, Mark];
/** @param {Phrase} phrase @param {Status|null} status @param {string|undefined} language BCP 47 */
export declare function phrase(phrase: Phrase, status: Status | null, language: string | undefined): string;
