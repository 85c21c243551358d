/** Paidup in React 19 with TypeScript: `<paidup-activation>`, whose types come with its import. */
import { StrictMode, useCallback, useEffect, useState } from "react";
import { createRoot } from "react-dom/client";

import "@paidup/client/element";
import type { PaidupActivation } from "@paidup/client/element";
import { CardForm } from "./card-form.jsx";
import { order } from "./shop.js";
import type { Purchase } from "./shop.js";

function Shop() {
  const [purchase, setPurchase] = useState<Purchase | null>(null);
  const [intent, setIntent] = useState("");
  const [credits, setCredits] = useState(0);
  const [problem, setProblem] = useState("");

  useEffect(() => {
    order("pro").then(setPurchase, (refusal) => setProblem(refusal.message));
  }, []);

  const show = useCallback(
    (screen: PaidupActivation | null) => {
      screen?.confirmed(intent);
      screen?.focus();
    },
    [intent],
  );

  return (
    <>
      <h1>Pro, 2,000 credits a month</h1>
      {purchase && !intent && <CardForm secret={purchase.client_secret} onPaid={setIntent} />}
      {purchase && intent && (
        <paidup-activation
          ref={show}
          invoice={purchase.invoice}
          ticket={purchase.ticket}
          words={{ active: { heading: "Pro is yours" } }}
          onactive={({ detail }) => setCredits(detail.credits_granted)}
        />
      )}
      {credits > 0 && <p>Continue with {credits} credits.</p>}
      <p role="alert">{problem}</p>
    </>
  );
}

const root = document.getElementById("root")!;
root.replaceChildren();
createRoot(root).render(
  <StrictMode>
    <Shop />
  </StrictMode>,
);
