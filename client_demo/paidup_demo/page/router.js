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
