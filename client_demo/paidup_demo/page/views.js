// @ts-check
/**
 * The views of the page: one at a time, each with its title focused; and the banner of a payment that waits.
 *
 * Owns which is shown, and its address. What a view says is its own file's.
 */
import { refreshIfShown } from "./account.js";
import * as account_words from "../lib/account_text.js";
import { el, set } from "../lib/dom.js";
import { kept } from "./storage.js";
import { enter } from "./router.js";
import { isConfirmed, planName, planOf, state, watching } from "./session_state.js";

/** @typedef {import("./router.js").View} View */

/** @param {View} view */
export function go(view) {
  const changed = state.view !== view;
  state.view = view;
  enter(view);
  if (changed) state.news = "";
  document.title = view === "account" ? "Your account – Halftone" : "Halftone";
  el("work").dataset.view = view;
  el("to-account").ariaCurrent = view === "account" ? "page" : null;
  for (const section of document.querySelectorAll(".view"))
    /** @type {HTMLElement} */ (section).hidden = section.id !== `view-${view}`;
  showGallery();
  for (const error of document.querySelectorAll(".error")) error.textContent = "";
  showBanner();
  if (!changed) return;
  scrollTo({ top: 0 });
  el(`${view}-title`).focus({ preventScroll: true });
  if (view === "account") refreshIfShown();
}

/** The gallery is for looking at, not for paying beside. */
export function showGallery() {
  const looking = state.view === "studio" || state.view === "done";
  el("gallery-section").hidden = !looking || kept.gallery.length === 0;
}

/** While a payment is pending and its screen is not shown, say so, quietly; the account page says it by itself. */
export function showBanner() {
  const { activation, order, view, news } = state;
  const pending = order && watching(order.invoice) && view !== "account";
  el("banner").hidden = !(pending || news) || !(view === "studio" || view === "account");
  el("banner-open").hidden = !pending;
  if (news) set("banner-text", news);
  if (!pending) return;
  state.news = "";
  const plan = planOf(order.plan);
  const known = activation?.status ?? { status: "open", error: null };
  const text = isConfirmed(order)
    ? `Your ${planName(order.plan)} plan is being activated.`
    : `${account_words.notice(known, order.kind ?? "plan", plan).title}.`;
  set("banner-text", text);
  set("banner-open", isConfirmed(order) ? "Show" : "Continue");
}
