// @ts-check
/** Paidup in a plain page: the client alone, with a screen of your own. No framework, no build step. */
import { activate } from "../paidup.js";
import { order, stripe } from "./shop.js";

/** @type {Record<string, string>} */
const WORDS = {
  verifying: "We are checking your payment with Stripe.",
  processing: "Your bank needs more time. You may close this page.",
  delayed: "This takes longer than usual. Your payment is safe, and need not be repeated.",
  failed: "The payment did not go through.",
  void: "This payment was cancelled.",
};

/** @param {string} id @returns {any} */
const el = (id) => document.getElementById(id);
const button = el("form").querySelector("button");

const [library, { invoice, client_secret, ticket }] = await Promise.all([stripe(), order("pro")]);
const card = library.elements().create("card", { hidePostalCode: true });
card.mount("#card");

const activation = activate({ invoice, ticket }); // the line is open before the customer has paid
activation.addEventListener("stage", ({ detail: stage }) => {
  if (el("form").hidden) el("stage").textContent = WORDS[stage] ?? "";
});
activation.addEventListener("error", ({ detail: error }) => {
  el("stage").textContent = error.code === "unauthorized" ? "Please sign in again." : error.message;
});
activation.finished.then(({ status, credits_granted }) => {
  el("form").hidden = true;
  if (status === "active") el("stage").textContent = `Pro is yours: ${credits_granted} credits.`;
}, () => {});

el("form").addEventListener("submit", async (/** @type {Event} */ event) => {
  event.preventDefault();
  button.disabled = true;
  const { error, paymentIntent } = await library.confirmCardPayment(client_secret, { payment_method: { card } });
  button.disabled = false;
  el("problem").textContent = error?.message ?? "";
  if (error) return;
  el("form").hidden = true;
  el("stage").textContent = WORDS.verifying;
  activation.confirmed(paymentIntent.status);
});
