// @ts-check
/**
 * Maps views to addresses: `#account` and so on; the home view has no hash.
 *
 * The views of a purchase are not kept in the browser's history: Back returns to where the purchase started.
 */

/** @typedef {"home"|"plans"|"account"|"card"|"activating"|"done"} View */

/** @type {View[]} */
const VIEWS = ["home", "plans", "account", "card", "activating", "done"];
/** @type {View[]} */
const PURCHASE_VIEWS = ["card", "activating", "done"];

/** Where customers come back to from another page: this one, with a mark. It says nothing of the payment. */
const BACK = "back";
export const RETURN_TO = `/?${BACK}=1`;

/** Whether the customer comes back from another page; removes the mark, and what Stripe has added to it. */
export function cameBack() {
  const back = new URLSearchParams(location.search).has(BACK);
  if (back) history.replaceState(null, "", location.pathname + location.hash);
  return back;
}

/** The view in the address, or null. @returns {View|null} */
export function here() {
  const name = /** @type {View} */ (location.hash.slice(1) || "home");
  return VIEWS.includes(name) ? name : null;
}

/** Set the address to `view`. @param {View} view */
export function enter(view) {
  const now = here();
  if (now === view) return;
  const address = view === "home" ? location.pathname : `#${view}`;
  if (now === null || PURCHASE_VIEWS.includes(now)) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
}

/** Links, Back and Forward. @param {(view: View) => void} show */
export function onNavigate(show) {
  addEventListener("hashchange", () => {
    const view = here();
    if (view) show(view);
  });
}
