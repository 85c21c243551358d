// @ts-check
/** Paidup in a plain page: the client alone, with a screen of your own. No framework, no build step. */
import { activate } from "../sdk/paidup.js";
import { order, stripe } from "./shop.js";

/** @type {Record<string, string>} */
const TEXTS = {
  waiting: "We are checking your payment with Stripe.",
  verifying: "We are checking your payment with Stripe.",
  processing: "Your bank needs more time. You can close this page.",
  delayed: "This is taking longer than usual. Your payment is safe, and you don’t need to pay again.",
  provisioning: "Your payment has arrived. We are setting up your account.",
  failed: "The payment did not go through.",
  void: "This payment was canceled.",
};

/** @param {string} id @returns {any} */
const el = (id) => document.getElementById(id);
const button = el("form").querySelector("button");

const [library, { invoice, client_secret, ticket }] = await Promise.all([stripe(), order("pro")]);
const card = library.elements().create("card", { hidePostalCode: true });
card.mount("#card");

const activation = activate({ invoice, ticket }); // connected before the customer has paid
let paid = false;

/** Draw the current state. The credits can arrive before Stripe.js has answered. */
function draw() {
  const { stage, status } = activation;
  el("form").hidden = paid || stage === "active" || stage === "void";
  const words = status?.status === "active" ? `Pro is yours: ${status.credits_granted} credits.` : (TEXTS[stage] ?? "");
  el("stage").textContent = el("form").hidden ? words : "";
}
activation.addEventListener("status", draw);
activation.addEventListener("stage", draw);
activation.addEventListener("error", ({ detail: error }) => {
  el("stage").textContent = error.code === "unauthorized" ? "Please sign in again." : error.message;
});

el("form").addEventListener("submit", async (/** @type {Event} */ event) => {
  event.preventDefault();
  button.disabled = true;
  const { error, paymentIntent } = await library.confirmCardPayment(client_secret, { payment_method: { card } });
  button.disabled = false;
  el("problem").textContent = error?.message ?? "";
  if (error) return;
  paid = true;
  activation.confirmed(paymentIntent.status);
  draw();
});
