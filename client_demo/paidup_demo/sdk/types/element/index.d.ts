/** Written by hand, unlike its neighbours: what JSDoc cannot say of `<paidup-activation>`. */
import type { ActivationError, Stage, Status } from "../paidup.js";
import { PaidupActivation } from "./activation.js";
import type { Words } from "./words.js";

export { PaidupActivation };
export type { AllWords, Phrase, Saying, State, Words } from "./words.js";

/** The `detail` of each of its events. */
export interface PaidupActivationEvents {
  status: Status;
  stage: Stage;
  active: Status;
  error: ActivationError;
}

/** Its attributes, properties and events in TSX. React 19 sets all of them; React 18 the attributes only. */
export interface PaidupActivationProps {
  invoice?: string;
  checkout?: string;
  ticket?: string;
  "base-url"?: string;
  "heading-level"?: number | string;
  headers?: PaidupActivation["headers"];
  refreshTicket?: PaidupActivation["refreshTicket"];
  words?: Words;
  onstatus?: (event: CustomEvent<Status>) => void;
  onstage?: (event: CustomEvent<Stage>) => void;
  onactive?: (event: CustomEvent<Status>) => void;
  onerror?: (event: CustomEvent<ActivationError>) => void;
}

declare module "./activation.js" {
  interface PaidupActivation {
    addEventListener<Type extends keyof PaidupActivationEvents>(
      type: Type,
      listener: (event: CustomEvent<PaidupActivationEvents[Type]>) => void,
      options?: boolean | AddEventListenerOptions,
    ): void;
    addEventListener<Type extends keyof HTMLElementEventMap>(
      type: Type,
      listener: (event: HTMLElementEventMap[Type]) => void,
      options?: boolean | AddEventListenerOptions,
    ): void;
    addEventListener(
      type: string,
      listener: EventListenerOrEventListenerObject | null,
      options?: boolean | AddEventListenerOptions,
    ): void;
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "paidup-activation": PaidupActivation;
  }
}

// @ts-ignore: where React is not installed, there is nothing to extend
declare module "react" {
  namespace JSX {
    interface IntrinsicElements {
      // @ts-ignore: the same
      "paidup-activation": DetailedHTMLProps<HTMLAttributes<PaidupActivation>, PaidupActivation> & PaidupActivationProps;
    }
  }
}
