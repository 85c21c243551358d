// @ts-check
/** The card field of Stripe.js as a React component. */
import { useEffect, useRef, useState } from "react";

import { stripe } from "./shop.js";

/** @param {{secret: string, onPaid: (intent: string) => void}} props `onPaid` is told the PaymentIntent's status */
export function CardForm({ secret, onPaid }) {
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
    setProblem("");
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
