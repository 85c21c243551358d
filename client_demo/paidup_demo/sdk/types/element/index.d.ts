/** Written by hand, unlike its neighbours: what JSDoc cannot say of `<paidup-activation>`. */
import type { ActivationError, Stage, Status } from "../paidup.js";
import { PaidupActivation } from "./activation.js";

export { PaidupActivation };
export type { AllWords, Phrase, Saying, State, Words } from "./words.js";

/** The `detail` of each of its events. */
export interface PaidupActivationEvents {
  status: Status;
  stage: Stage;
  active: Status;
  error: ActivationError;
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
