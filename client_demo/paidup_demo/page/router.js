// @ts-check
/**
 * The address of each view: `#account`, and so on; the studio is the page itself.
 *
 * Owns the browser's history. A purchase's own views leave no trace there: Back leads to where it began.
 */

/** @typedef {"studio"|"plans"|"account"|"card"|"activating"|"done"} View */

/** @type {View[]} */
const VIEWS = ["studio", "plans", "account", "card", "activating", "done"];
/** @type {View[]} */
const PASSING = ["card", "activating", "done"];

/** The view that the address names; null where it names none. @returns {View|null} */
export function here() {
  const name = /** @type {View} */ (location.hash.slice(1) || "studio");
  return VIEWS.includes(name) ? name : null;
}

/** Make the address that of `view`. @param {View} view */
export function enter(view) {
  const now = here();
  if (now === view) return;
  const address = view === "studio" ? location.pathname : `#${view}`;
  if (now === null || PASSING.includes(now)) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
}

/** Links, Back and Forward. @param {(view: View) => void} show */
export function onWandering(show) {
  addEventListener("hashchange", () => {
    const view = here();
    if (view) show(view);
  });
}
