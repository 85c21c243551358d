import { StrictMode, useCallback, useEffect, useState } from "react";
import type { FormEvent } from "react";
import { createRoot } from "react-dom/client";

import { watchBalance } from "@paidup/client";
import "@paidup/client/element";
import type { PaidupActivation } from "@paidup/client/element";
import { CardElement, Elements, useElements, useStripe } from "@stripe/react-stripe-js";
import { loadStripe } from "@stripe/stripe-js";

import { backend, headers, paidup, paidupUrl, Refused, signIn } from "./billing";
import type { Account, Plan, Purchase } from "./billing";

const stripeJs = loadStripe(import.meta.env.VITE_STRIPE_PUBLISHABLE_KEY);

/** The card form. `onPaid` gets the PaymentIntent's status, once Stripe.js has confirmed. */
function CardForm({ secret, onPaid }: { secret: string; onPaid: (status: string) => void }) {
  const stripe = useStripe();
  const elements = useElements();
  const [problem, setProblem] = useState("");

  async function pay(event: FormEvent) {
    event.preventDefault();
    const card = elements?.getElement(CardElement);
    if (!stripe || !card) return;
    const { error, paymentIntent } = await stripe.confirmCardPayment(secret, { payment_method: { card } });
    if (error) setProblem(error.message ?? "Your card was not charged.");
    else onPaid(paymentIntent.status);
  }

  return (
    <form onSubmit={pay}>
      <CardElement options={{ hidePostalCode: true }} />
      <button>Pay</button>
      <p role="alert">{problem}</p>
    </form>
  );
}

/** The activating screen. `intent` is null for a payment that this page has not confirmed. */
function Activating({ purchase, intent, url, onActive }: {
  purchase: Purchase;
  intent: string | null;
  url: string;
  onActive: () => void;
}) {
  const show = useCallback(
    (screen: PaidupActivation | null) => {
      if (intent) screen?.confirmed(intent);
      screen?.focus();
    },
    [intent],
  );
  const { invoice, ticket } = purchase;
  return (
    <paidup-activation
      ref={show} invoice={invoice} ticket={ticket} base-url={url} headers={headers} onactive={onActive}
    />
  );
}

function Shop({ url }: { url: string }) {
  const [plans, setPlans] = useState<Plan[]>([]);
  const [account, setAccount] = useState<Account>();
  const [balance, setBalance] = useState(0);
  const [purchase, setPurchase] = useState<Purchase | null>(null);
  const [intent, setIntent] = useState<string | null>(null);
  const [message, setMessage] = useState("");

  const reload = useCallback(() => paidup<Account>("/api/account").then(setAccount), []);
  useEffect(() => {
    void paidup<{ plans: Plan[] }>("/api/plans").then((answer) => setPlans(answer.plans));
    void reload();
    const watch = watchBalance({ baseUrl: url, headers });
    watch.addEventListener("balance", ({ detail }) => setBalance(detail.balance));
    return () => watch.close();
  }, [url, reload]);

  /** Runs an action; a refusal is shown. Without credits, a payment that is on its way is shown. */
  async function attempt(action: () => Promise<unknown>) {
    setMessage("");
    try {
      await action();
      await reload();
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      setMessage(error.status === 402 ? "You need more credits." : error.message);
      if (error.body.activating) show({ ...error.body.activating, client_secret: null, status: null });
    }
  }

  function show(next: Purchase) {
    setPurchase(next);
    setIntent(next.status?.status === "active" ? "succeeded" : null); // the saved card has paid already
  }

  const status = account?.subscription?.status ?? "";
  const running = ["active", "trialing", "past_due"].includes(status) ? account?.subscription : null;

  async function buy(plan: Plan) {
    const path = plan.top_up ? "/api/top-ups" : running ? "/api/subscriptions/change" : "/api/subscriptions";
    const next = await paidup<Purchase>(path, { plan: plan.id });
    show(next);
    if (next.status?.status === "requires_action" && next.client_secret) await checkSavedCard(next.client_secret);
  }

  /** The bank asks for a check of the saved card. If it fails, the card form is there for another one. */
  async function checkSavedCard(clientSecret: string) {
    const answer = await (await stripeJs)?.handleNextAction({ clientSecret });
    if (answer?.paymentIntent) setIntent(answer.paymentIntent.status);
  }

  const poster = () => backend("/app/posters", { id: crypto.randomUUID() });
  const toPay = purchase?.client_secret && !intent ? purchase.client_secret : null;

  return (
    <main>
      <p>
        <output>{balance} credits</output>, {running ? `plan ${running.plan}` : "no plan"}
        {running?.cancel_at && ", which ends with its period"}
      </p>
      <button onClick={() => attempt(poster)}>Make a poster</button>
      {plans.map((plan) => (
        <button key={plan.id} onClick={() => attempt(() => buy(plan))}>
          {plan.name}: {plan.credits} credits for {plan.prices[0]!.amount_minor / 100} {plan.prices[0]!.currency}
        </button>
      ))}
      {running && !running.cancel_at && (
        <button onClick={() => attempt(() => paidup("/api/subscriptions/cancel", {}))}>Cancel</button>
      )}
      {running?.cancel_at && (
        <button onClick={() => attempt(() => paidup("/api/subscriptions/resume", {}))}>Resume</button>
      )}
      <p role="status">{message}</p>
      {toPay && <CardForm key={toPay} secret={toPay} onPaid={setIntent} />}
      {purchase && !toPay && (
        <Activating key={purchase.invoice} purchase={purchase} intent={intent} url={url} onActive={reload} />
      )}
    </main>
  );
}

function Page() {
  const [url, setUrl] = useState("");

  async function enter(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    await signIn(String(new FormData(event.currentTarget).get("email")));
    setUrl(await paidupUrl());
  }

  if (url) {
    return (
      <Elements stripe={stripeJs}>
        <Shop url={url} />
      </Elements>
    );
  }
  return (
    <form onSubmit={enter}>
      <label>E-mail <input name="email" type="email" required /></label>
      <button>Sign in</button>
    </form>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
