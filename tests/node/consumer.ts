/** A strict TypeScript page of somebody else, compiled against the package as it would be installed. Never run. */
import { ActivationError, activate, backoff, watchBalance } from "@paidup/client";
import type { Activation, Balance, CheckoutActivation, Options, Stage, Status } from "@paidup/client";
import "@paidup/client/element";
import type { PaidupActivation, Words } from "@paidup/client/element";
import { useActivation } from "@paidup/client/react";

const options: Options = { invoice: "in_1", ticket: "t", headers: async () => ({ Authorization: "Bearer jwt" }) };
const activation: Activation = activate(options);
activation.addEventListener("stage", ({ detail }) => {
  const stage: Stage = detail;
  return stage;
});
activation.addEventListener("error", ({ detail }) => detail.code.toUpperCase(), { once: true });
activation.addEventListener("error", ({ detail }) => {
  // @ts-expect-error: there is no such code
  return detail.code === "late";
});
// @ts-expect-error: there is no such event
activation.addEventListener("stages", () => {});
// @ts-expect-error: a balance has no ticket to give up
watchBalance({ invoice: "in_1" });
// @ts-expect-error: an activation needs an invoice
activate({ ticket: "t" });

export async function story(): Promise<number> {
  for await (const { status, error } of activation) if (status === "failed") console.log(error?.message);
  try {
    const final: Status = await activation.finished;
    const ending: "active" | "void" | "reversed" = (await activation.finished).status;
    return ending === "active" ? final.credits_granted + backoff(1) : 0;
  } catch (error) {
    if (error instanceof ActivationError && error.status === 401) return 0;
    throw error;
  }
}

export async function comesBack(): Promise<string | null> {
  const returned: CheckoutActivation = activate({ checkout: "cs_test_1" });
  returned.addEventListener("status", ({ detail }) => detail.checkout.toUpperCase());
  // @ts-expect-error: a Checkout Session shows no balance
  returned.addEventListener("status", ({ detail }) => detail.balance);
  const final = await returned.finished;
  const ending: "active" | "void" | "reversed" = final.status;
  return ending === "active" ? final.return_to : null;
}

watchBalance({ signal: AbortSignal.timeout(1000) }).addEventListener("balance", ({ detail }) => {
  const { balance }: Balance = detail;
  return balance;
});

const words: Words = { delayed: { heading: "Moment" }, active: { text: (status) => `${status?.credits_granted}` } };
const screen: PaidupActivation | null = document.querySelector("paidup-activation");
if (screen) {
  screen.words = words;
  screen.refreshTicket = async () => "t";
  screen.addEventListener("active", ({ detail }) => detail.credits_granted.toFixed());
  screen.addEventListener("click", ({ clientX }) => clientX);
  screen.confirmed("succeeded");
}
// @ts-expect-error: no such state
export const wrong: Words = { late: { heading: "Moment" } };

export function Returned() {
  return useActivation({ checkout: "cs_test_1" }).status?.return_to;
}

export function Component() {
  const { stage, status, confirmed } = useActivation(status_of_a_shop);
  confirmed("succeeded");
  return `${stage} ${status?.balance}`;
}
declare const status_of_a_shop: { invoice: string } | null;
