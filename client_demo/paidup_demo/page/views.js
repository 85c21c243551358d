// @ts-check
/**
 * Switches between the views: one at a time, with its title focused; and shows the banner of a pending payment.
 */
import { refreshIfShown } from "./account.js";
import * as accountText from "../lib/account_text.js";
import { el, set } from "../lib/dom.js";
import { storage } from "./storage.js";
import { enter } from "./router.js";
import { isConfirmed, planName, planOf, state, watching } from "./session_state.js";

/** @typedef {import("./router.js").View} View */

/** @param {View} view */
export function go(view) {
  const changed = state.view !== view;
  state.view = view;
  enter(view);
  if (changed) state.announcement = "";
  if (changed && view !== "card") closePage();
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

/** Take Stripe's embedded page away, if there is one. */
export function closePage() {
  state.page?.destroy();
  state.page = null;
}

/** The gallery is hidden during checkout. */
export function showGallery() {
  const looking = state.view === "home" || state.view === "done";
  el("gallery-section").hidden = !looking || storage.gallery.length === 0;
}

/** Shows that a payment is pending while its own screen is not shown; the account page has its own notice. */
export function showBanner() {
  const { activation, order, view, announcement } = state;
  const pending = order && watching(order.invoice) && view !== "account";
  el("banner").hidden = !(pending || announcement) || !(view === "home" || view === "account");
  el("banner-open").hidden = !pending;
  if (announcement) set("banner-text", announcement);
  if (!pending) return;
  state.announcement = "";
  const plan = planOf(order.plan);
  const known = activation?.status ?? { status: "open", error: null };
  const text = isConfirmed(order)
    ? `Your ${planName(order.plan)} plan is being activated.`
    : `${accountText.notice(known, order.kind ?? "plan", plan).title}.`;
  set("banner-text", text);
  set("banner-open", isConfirmed(order) ? "Show" : "Continue");
}
