// @ts-check
/** Paidup in React: a hook, and a screen of your own. */
import { StrictMode, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

import { useActivation } from "@paidup/client/react";
import { CardForm } from "./card-form.jsx";
import { order } from "./shop.js";

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

const root = /** @type {HTMLElement} */ (document.getElementById("root"));
root.replaceChildren();
createRoot(root).render(
  <StrictMode>
    <Shop />
  </StrictMode>,
);
