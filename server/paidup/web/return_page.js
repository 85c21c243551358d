// @ts-check
/**
 * The return page while it is open: follows the Checkout Session, shows what changes, and goes on once it is active.
 *
 * The page is complete without it: the server has written the state of the moment it was asked.
 */
// @ts-ignore: where the server serves it
import * as client from "./sdk/latest/paidup.js";
// @ts-ignore: the same
import * as look from "./sdk/latest/element/look.js";
// @ts-ignore: the same
import * as texts from "./sdk/latest/element/words.js";

/** @type {typeof import("../../../client_demo/paidup_demo/sdk/paidup.js")} */ const { activate } = client;
/** @type {typeof import("../../../client_demo/paidup_demo/sdk/element/look.js")} */ const { drawMark } = look;
/** @type {typeof import("../../../client_demo/paidup_demo/sdk/element/words.js")} */ const { marksOf, phrase, stateOf } = texts;

/** How long the customer can read that the plan is active. The page without a script waits as long. */
const READ_MS = 3_000;

/**
 * What the server has written: the status that it shows, and the texts in the customer's language. `home` is the origin
 * that the customer may be sent to, `fallback` where they go if the session names no address.
 * @typedef {{checkout: string, status: any, words: Record<string, any>, home: string, fallback: string}} Data
 */
/** @type {Data} */
const { checkout, status: first, words, home, fallback } = JSON.parse(at("data").textContent ?? "");
const screen = /** @type {HTMLElement} */ (document.querySelector("main"));
const language = document.documentElement.lang;

/** @param {string} id */
function at(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** @param {string} selector @param {string} text */
function write(selector, text) {
  const place = /** @type {Element} */ (document.querySelector(selector));
  if (place.textContent !== text) place.textContent = text; // a live region announces each assignment
}

/** @param {string} state @param {any} status */
function draw(state, status) {
  if (screen.dataset.state === state) return;
  screen.dataset.state = state;
  const said = words[state];
  write("h1", phrase(said.heading, status, language));
  write(".words p", phrase(said.text, status, language));
  document.title = document.title.replace(/^[^·]*/, `${phrase(said.heading, status, language)} `).trim();
  const marks = marksOf(/** @type {any} */ (state), (status?.version ?? 0) > 0);
  document.querySelectorAll("li").forEach((step, index) => {
    step.dataset.mark = marks[index];
    drawMark(/** @type {Element} */ (step.querySelector("svg")), marks[index]);
    /** @type {Element} */ (step.querySelector(".unseen")).textContent = `(${words.steps[marks[index]]})`;
  });
  at("again").hidden = !said.again;
  at("back").hidden = state !== "awaiting_payment" || history.length < 2;
}

/** Go on to where the customer belongs; only to the origin that the server allows. @param {string|null} wanted */
function goOn(wanted) {
  const allowed = wanted && home && (wanted === home || "/?#".includes(wanted.charAt(home.length)) && wanted.startsWith(home));
  const address = allowed ? wanted : fallback;
  if (!address) return;
  at("go").setAttribute("href", address);
  at("go").hidden = false;
  at("home").hidden = true;
  setTimeout(() => location.replace(address), READ_MS); // replaced, so that "back" does not lead here again
}

function start() {
  at("back").hidden = first.stage !== "awaiting_payment" || history.length < 2;
  at("back").addEventListener("click", () => history.back());
  if (first.status === "active") return goOn(first.return_to);
  if (["void", "reversed"].includes(first.status)) return;
  const activation = activate({ checkout, baseUrl: new URL(".", location.href).href });
  at("again").addEventListener("click", (event) => {
    event.preventDefault();
    activation.verify();
  });
  const show = () => {
    const { stage, status } = activation;
    // The server asked Stripe before it wrote this page: while it asks again, nothing else is known yet.
    const asking = stage === "verifying" && status?.version === first.version && first.stage !== "verifying";
    if (stage !== "waiting" && !asking) draw(stateOf(status, stage), status);
  };
  activation.addEventListener("stage", show);
  activation.addEventListener("status", show);
  activation.finished.then(
    ({ status, return_to }) => status === "active" && goOn(return_to),
    () => {}, // the page stays as it is, with its link to check again
  );
}

// A page that was fetched in advance is not looked at yet.
if (/** @type {any} */ (document).prerendering) document.addEventListener("prerenderingchange", start, { once: true });
else start();
