// @ts-check
/** Paidup in React: a hook, and a screen of your own. */
import { StrictMode, useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";

import { useActivation } from "../sdk/react.js";
import { order, stripe } from "./shop.js";

/** @typedef {import("./shop.js").Purchase} Purchase */

function Shop() {
  const [purchase, setPurchase] = useState(/** @type {Purchase|null} */ (null));
  const [paid, setPaid] = useState(false);
  const [problem, setProblem] = useState("");
  const { stage, status, error, confirmed, verify } = useActivation(purchase);

  useEffect(() => {
    order("pro").then(setPurchase, (refusal) => setProblem(refusal.message));
  }, []);

  if (error) return <p role="alert">{error.message}</p>;
  if (status?.status === "active") return <p role="status">Pro is yours: {status.credits_granted} credits.</p>;
  if (paid && stage !== "failed")
    return (
      <p role="status">
        {stage === "delayed" ? "Your payment is safe. You can close this page. " : "We are checking your payment. "}
        {stage === "delayed" && <button onClick={verify}>Check again</button>}
      </p>
    );
  return (
    <>
      <h1>Pro, 2,000 credits a month</h1>
      {purchase && (
        <CardForm
          secret={purchase.client_secret}
          onPaid={(intent) => {
            setPaid(true);
            confirmed(intent);
          }}
        />
      )}
      <p role="alert">{problem || status?.error?.message}</p>
    </>
  );
}

/** @param {{secret: string, onPaid: (intent: string) => void}} props `onPaid` is told the PaymentIntent's status */
function CardForm({ secret, onPaid }) {
  const field = useRef(/** @type {HTMLDivElement|null} */ (null));
  const [form, setForm] = useState(/** @type {{library: any, card: any}|null} */ (null));
  const [problem, setProblem] = useState("");

  useEffect(() => {
    let left = false;
    stripe().then((library) => {
      if (left || !field.current) return;
      const card = library.elements().create("card", { hidePostalCode: true });
      card.mount(field.current);
      setForm({ library, card });
    });
    return () => void (left = true);
  }, []);

  /** @param {import("react").FormEvent} event */
  async function pay(event) {
    event.preventDefault();
    if (!form) return;
    const method = { payment_method: { card: form.card } };
    const { error, paymentIntent } = await form.library.confirmCardPayment(secret, method);
    if (error) setProblem(error.message);
    else onPaid(paymentIntent.status);
  }

  return (
    <form onSubmit={pay}>
      <div ref={field} className="field" />
      <p role="alert">{problem}</p>
      <button>Pay</button>
    </form>
  );
}

const root = /** @type {HTMLElement} */ (document.getElementById("root"));
root.replaceChildren();
createRoot(root).render(
  <StrictMode>
    <Shop />
  </StrictMode>,
);
