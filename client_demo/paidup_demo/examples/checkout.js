// @ts-check
/**
 * Stripe's Checkout in its three ways: a page of Stripe's (`?ui=hosted`, the default), the same page in this one
 * (`?ui=embedded`), and this page's own form (`?ui=elements`).
 *
 * Customers who leave this page come back by way of Paidup's /activate, which goes on to `return_to`.
 */
import { PaidupActivation } from "../sdk/element/activation.js";
import { balance, openCheckout, stripe } from "./shop.js";

/** @param {string} id @returns {any} */
const el = (id) => document.getElementById(id);
const screen = /** @type {PaidupActivation} */ (document.querySelector("paidup-activation"));
const address = new URLSearchParams(location.search);
const return_to = `${location.pathname}?welcome`;

async function hosted() {
  const { url } = await openCheckout({ plan: "pro", ui: "hosted", return_to });
  location.assign(url);
}

async function embedded() {
  const library = await stripe();
  const { checkout, client_secret } = await openCheckout({ plan: "pro", ui: "embedded", return_to });
  const page = await library.createEmbeddedCheckoutPage({ fetchClientSecret: async () => client_secret });
  page.mount("#page");
  screen.setAttribute("checkout", checkout); // connected before the customer has paid
  screen.addEventListener("active", () => {
    page.destroy();
    screen.hidden = false;
  });
}

async function elements() {
  const library = await stripe();
  const { checkout, client_secret } = await openCheckout({ plan: "pro", ui: "elements", return_to });
  const session = library.initCheckoutElementsSdk({ clientSecret: client_secret });
  session.createPaymentElement().mount("#payment");
  const { actions } = await session.loadActions();
  el("total").textContent = actions.getSession().total.total.amount;
  screen.setAttribute("checkout", checkout);
  el("form").hidden = false;

  el("form").addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    const result = await actions.confirm({ email: el("email").value, redirect: "if_required" });
    el("problem").textContent = result.error?.message ?? "";
    if (result.error) return;
    el("form").hidden = true;
    screen.hidden = false;
    screen.verify();
  });
}

/** @param {() => Promise<void>} act */
async function attempt(act) {
  el("buy").disabled = true;
  await act().catch((error) => (el("problem").textContent = error.message));
  el("buy").disabled = false;
}

const ui = address.get("ui") ?? "hosted";
if (address.has("welcome")) el("welcome").textContent = `Welcome back: you have ${await balance()} credits.`;
else if (ui === "elements") await attempt(elements);
else if (ui === "embedded") await attempt(embedded);
else {
  el("buy").hidden = false;
  el("buy").addEventListener("click", () => attempt(hosted));
}
