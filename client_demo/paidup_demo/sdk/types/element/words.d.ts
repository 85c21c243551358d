/**
 * What `<paidup-activation>` says, in English, and the states that it can be in.
 *
 * Pure: a state and a status go in, words and marks come out.
 */
export type Status = import("../paidup.js").Status;
export type State = import("../paidup.js").Stage | "unconfirmed" | "reversed" | "refused";
export type Step = "payment" | "check" | "credits";
export type Mark = "done" | "now" | "next" | "paused" | "failed";
export type Phrase = string | ((status: Status | null) => string);
export type Saying = {
    heading: Phrase;
    text: Phrase;
    again?: Phrase;
};
export type AllWords = Record<State, Saying> & {
    steps: Record<Step | Mark, string>;
};
export type Words = {
    [Key in keyof AllWords]?: Partial<AllWords[Key]>;
};
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
export declare const WORDS: AllWords;
export declare const STATES: State[];
/**
 * How payment, check and credits stand. Before this page has seen a payment, the first step is what is looked for.
 * @param {State} state @param {boolean} confirmed
 */
export declare function marksOf(state: State, confirmed: boolean): [Mark, Mark, Mark];
/** @param {Phrase} phrase @param {Status|null} status @param {string|undefined} language BCP 47 */
export declare function phrase(phrase: Phrase, status: Status | null, language: string | undefined): string;
