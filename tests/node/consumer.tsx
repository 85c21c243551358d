/** A strict TSX page of somebody else with the element, compiled against the package. Never run. */
import { useRef } from "react";

import "@paidup/client/element";
import type { PaidupActivation } from "@paidup/client/element";

const words = { active: { heading: "Your plan is active" } };

export function Activating({ invoice, ticket, jwt }: { invoice: string; ticket: string; jwt: string }) {
  const screen = useRef<PaidupActivation>(null);
  return (
    <paidup-activation
      ref={screen}
      className="activation"
      slot="main"
      invoice={invoice}
      ticket={ticket}
      base-url="/billing"
      heading-level={3}
      headers={() => ({ Authorization: `Bearer ${jwt}` })}
      words={words}
      onactive={({ detail }) => detail.credits_granted.toFixed()}
      onerror={({ detail }) => detail.code.toUpperCase()}
      onClick={() => screen.current?.verify()}
    >
      <a slot="active-actions" href="/start">Continue</a>
    </paidup-activation>
  );
}

// @ts-expect-error: an invoice is an id
export const wrong = <paidup-activation invoice={1} />;
// @ts-expect-error: there is no such event
export const none = <paidup-activation onpaid={() => {}} />;
