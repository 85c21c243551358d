// @ts-check
/**
 * What survives a reload: the interrupted poster and the way to pay (per tab), and payments, confirmations and the
 * gallery (per browser).
 *
 * Tickets and client secrets are never stored.
 */

/** @typedef {"card"|"element"|"hosted"|"embedded"} Way */

export const MOST_POSTERS = 24;

export const storage = {
  get poster() {
    return sessionStorage.getItem("halftone:poster");
  },
  set poster(key) {
    if (key) sessionStorage.setItem("halftone:poster", key);
    else sessionStorage.removeItem("halftone:poster");
  },
  /** How they pay. @returns {Way} */
  get way() {
    return /** @type {Way} */ (sessionStorage.getItem("halftone:way") ?? "card");
  },
  set way(way) {
    sessionStorage.setItem("halftone:way", way);
  },
  /** When this browser saw the bank confirm, in ms since 1970. @param {string} invoice @returns {number|null} */
  confirmedAt: (invoice) => Number(localStorage.getItem(`halftone:confirmed:${invoice}`)) || null,
  /** @param {string} invoice @param {number} at */
  confirm: (invoice, at) => localStorage.setItem(`halftone:confirmed:${invoice}`, String(at)), // for other tabs
  /** @param {string} invoice */
  forget: (invoice) => localStorage.removeItem(`halftone:confirmed:${invoice}`),
  /** The payment that this browser began last, until it is settled. @returns {{invoice: string, kind?: string, plan?: string, interval?: string, quantity?: number}|null} */
  get begun() {
    return JSON.parse(localStorage.getItem("halftone:begun") ?? "null");
  },
  set begun(payment) {
    if (payment) localStorage.setItem("halftone:begun", JSON.stringify(payment));
    else localStorage.removeItem("halftone:begun");
  },
  /** @returns {string[]} seeds, newest first */
  get gallery() {
    return JSON.parse(localStorage.getItem("halftone:gallery") ?? "[]");
  },
  set gallery(seeds) {
    localStorage.setItem("halftone:gallery", JSON.stringify(seeds.slice(0, MOST_POSTERS)));
  },
};
