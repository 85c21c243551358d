// @ts-check
/**
 * Paidup in React: `const { stage, status, error, confirmed, verify } = useActivation({ invoice, ticket })`.
 *
 * With `{ checkout }` in place of both, it watches a Checkout Session. Opens one connection for each and closes it with
 * the component. Renders nothing.
 */
"use client";

import { useCallback, useEffect, useRef, useState } from "react";

import { activate } from "./paidup.js";

/** @typedef {import("./paidup.js").Activation} Activation */
/** @typedef {import("./paidup.js").ActivationError} ActivationError */
/** @typedef {import("./paidup.js").CheckoutOptions} CheckoutOptions */
/** @typedef {import("./paidup.js").CheckoutStatus} CheckoutStatus */
/** @typedef {import("./paidup.js").Connection} Connection */
/** @typedef {import("./paidup.js").Options} Options */
/** @typedef {import("./paidup.js").Stage} Stage */
/** @typedef {import("./paidup.js").Status} Status */
/** @typedef {import("./paidup.js").Transport} Transport */
/**
 * `error` is final. `confirmed` and `verify` keep their identity while the component is mounted.
 * @typedef {{stage: Stage, status: Status|null, connection: Connection, transport: Transport|null,
 *   error: ActivationError|null,
 *   confirmed: (intent: string, at?: number) => void, verify: () => void}} Watched
 */

/** @typedef {Omit<Watched, "status"> & {status: CheckoutStatus|null}} CheckoutWatched */

/** @type {Pick<Watched, "stage"|"status"|"connection"|"transport"|"error">} */
const NOTHING = { stage: "waiting", status: null, connection: "closed", transport: null, error: null };

/**
 * Watch one invoice or Checkout Session while the component is mounted; nothing without options. Only a different
 * `invoice` or `checkout` opens a new connection; the other options are read when it is opened.
 * @overload @param {Options|null|undefined} options @returns {Watched}
 */
/**
 * @overload @param {CheckoutOptions|null|undefined} options @returns {CheckoutWatched}
 */
/** @param {any} options @returns {any} */
export function useActivation(options) {
  const [seen, setSeen] = useState(NOTHING);
  const latest = useRef(options);
  const watched = useRef(/** @type {Activation|null} */ (null));
  latest.current = options;
  const subject = options?.invoice ?? options?.checkout;

  useEffect(() => {
    if (!subject || !latest.current) return;
    /** @type {Activation} */
    const activation = activate(latest.current);
    const look = () => {
      if (watched.current !== activation) return;
      const { stage, status, connection, transport } = activation;
      setSeen((before) => ({ ...before, stage, status, connection, transport }));
    };
    activation.addEventListener("status", look);
    activation.addEventListener("stage", look);
    activation.addEventListener("connection", look);
    activation.addEventListener("transport", look);
    activation.addEventListener("error", ({ detail }) => setSeen((before) => ({ ...before, error: detail })));
    watched.current = activation;
    setSeen({ ...NOTHING, connection: activation.connection });
    return () => {
      watched.current = null;
      activation.close();
    };
  }, [subject]);

  const confirmed = useCallback(
    (/** @type {string} */ intent, /** @type {number|undefined} */ at) => watched.current?.confirmed(intent, at),
    [],
  );
  const verify = useCallback(() => watched.current?.verify(), []);
  return { ...seen, confirmed, verify };
}
