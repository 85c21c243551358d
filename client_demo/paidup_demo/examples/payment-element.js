// @ts-check
/** Stripe's Payment Element, and `<paidup-activation>` once it is paid: by card here, or on a bank's own page. */
import { PaidupActivation } from "../sdk/element/activation.js";
import { order, stripe } from "./shop.js";

const form = /** @type {HTMLFormElement} */ (document.getElementById("form"));
const problem = /** @type {HTMLElement} */ (document.getElementById("problem"));
const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));
const screen = /** @type {PaidupActivation} */ (document.querySelector("paidup-activation"));

/**
 * @param {string} invoice @param {string|null} intent the PaymentIntent's status, if Stripe.js returned one
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
  const [library, { invoice, client_secret, ticket }] = await Promise.all([stripe(), order("pro")]);
  const elements = library.elements({ clientSecret: client_secret });
  elements.create("payment").mount("#payment");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    problem.textContent = "";
    const { error, paymentIntent } = await pay(library, elements, invoice);
    button.disabled = false;
    if (!error) showActivation(invoice, paymentIntent.status, ticket);
    else if (error.type !== "validation_error") problem.textContent = error.message; // the element shows those itself
  });
}

/** @param {any} library @param {any} elements @param {string} invoice @returns {Promise<any>} */
async function pay(library, elements, invoice) {
  const { error } = await elements.submit();
  if (error) return { error };
  const back = new URL(location.pathname, location.href);
  back.searchParams.set("invoice", invoice); // for the return from a payment on another page
  return library.confirmPayment({ elements, confirmParams: { return_url: back.href }, redirect: "if_required" });
}

const came = new URLSearchParams(location.search);
const invoice = came.get("invoice");
const outcome = came.get("redirect_status"); // Stripe adds it
if (invoice && outcome !== "failed") showActivation(invoice, outcome);
else await showForm();
