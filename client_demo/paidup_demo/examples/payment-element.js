// @ts-check
/**
 * Stripe's Payment Element, and `<paidup-activation>` once it is paid: by card here, by bank debit, or on another page.
 *
 * `?deferred` in the address shows the form before anything is ordered. What Stripe adds to the address of a customer who
 * comes back (`redirect_status`) is a hint that anybody can write: the screen shows what the server says.
 */
import { PaidupActivation } from "../sdk/element/activation.js";
import { order, priceOf, stripe } from "./shop.js";

const form = /** @type {HTMLFormElement} */ (document.getElementById("form"));
const problem = /** @type {HTMLElement} */ (document.getElementById("problem"));
const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));
const screen = /** @type {PaidupActivation} */ (document.querySelector("paidup-activation"));
const address = new URLSearchParams(location.search);
const deferred = address.has("deferred");

/**
 * @param {string} invoice @param {string} [intent] the PaymentIntent's status, which Stripe.js returned to this page
 * @param {string} [ticket] without, one is fetched with the page's cookie
 */
function showActivation(invoice, intent, ticket) {
  screen.setAttribute("invoice", invoice);
  if (ticket) screen.setAttribute("ticket", ticket);
  if (intent) screen.confirmed(intent);
  form.hidden = true;
  screen.hidden = false;
  screen.focus();
}

async function showForm() {
  form.hidden = false;
  const library = await stripe();
  const purchase = deferred ? null : await order("pro");
  const elements = library.elements(purchase ? { clientSecret: purchase.client_secret } : { mode: "subscription", ...(await priceOf("pro")) });
  elements.create("payment").mount("#payment");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    problem.textContent = "";
    const { error } = await pay(library, elements, purchase).catch((error) => ({ error }));
    button.disabled = false;
    if (error && error.type !== "validation_error") problem.textContent = error.message; // the element shows those itself
  });
}

/** @param {any} library @param {any} elements @param {import("./shop.js").Purchase|null} purchase @returns {Promise<any>} */
async function pay(library, elements, purchase) {
  const { error } = await elements.submit();
  if (error) return { error };
  const { invoice, client_secret, ticket } = purchase ?? (await order("pro")); // deferred: only now something is ordered
  const back = new URL(location.pathname, location.href);
  back.searchParams.set("invoice", invoice); // for the return from another page, in whichever tab
  const confirmParams = { return_url: back.href };
  const secret = purchase ? {} : { clientSecret: client_secret };
  const confirmed = await library.confirmPayment({ elements, ...secret, confirmParams, redirect: "if_required" });
  if (!confirmed.error) showActivation(invoice, confirmed.paymentIntent.status, ticket);
  return confirmed;
}

const invoice = address.get("invoice");
if (invoice) {
  showActivation(invoice);
  /** @param {any} event */
  const offerAgain = ({ detail: stage }) => {
    if (stage !== "failed" && stage !== "awaiting_payment") return;
    screen.removeEventListener("stage", offerAgain);
    void showForm(); // the same order: it can still be paid
  };
  screen.addEventListener("stage", offerAgain);
} else await showForm();
