// @ts-check
/**
 * `<paidup-activation invoice="in_…" ticket="…">`, or with `checkout="cs_…"`: the whole activating screen, in any page
 * and any framework.
 *
 * Shows the customer the status of paidup.js between the payment and the credits. The styles are in look.js and the
 * texts in words.js; both can be replaced.
 */
import { drawMark, element, markElement, styleSheet } from "./look.js";
import { STATES, WORDS, marksOf, phrase, stateOf } from "./words.js";
import { activate, watchBalance } from "../paidup.js";

/** @typedef {import("./words.js").State} State */
/** @typedef {import("./words.js").Words} Words */
/** @typedef {import("./words.js").Mark} Mark */
/** @typedef {import("./words.js").Step} Step */
/** @typedef {import("./words.js").AllWords} AllWords */
/** @typedef {import("../paidup.js").Activation} Activation */
/** @typedef {import("../paidup.js").ActivationError} ActivationError */
/** @typedef {import("../paidup.js").Options} Options */
/** @typedef {import("../paidup.js").Stage} Stage */
/** @typedef {import("../paidup.js").Status} Status */

/** There is no HTMLElement in server-side rendering; the module can still be imported there. */
const Base = globalThis.HTMLElement ?? class {};
/** @type {Step[]} */
const STEPS = ["payment", "check", "credits"];
/** How long a page whose purchase was given up is told that another one, in another tab, was paid instead. */
const REPLACED_WITHIN_MS = 3_600_000;

/**
 * Events, each a CustomEvent with a `detail`, composed, not bubbling: `status` (Status), `stage` (Stage), `active`
 * (Status: the credits are there), `error` (ActivationError: final).
 */
export class PaidupActivation extends Base {
  static observedAttributes = ["invoice", "checkout", "base-url", "heading-level"];

  /** For each request to the server, e.g. Authorization. @type {Options["headers"]} */
  headers = this.#takeProperty("headers");
  /** Fetches new tickets in the page's own way. @type {Options["refreshTicket"]} */
  refreshTicket = this.#takeProperty("refreshTicket");

  /** @type {Words} */ #words = this.#takeProperty("words") ?? {};
  /** @type {Activation|null} */ #activation = null;
  /** @type {ActivationError|null} */ #error = null;
  /** @type {State|""} */ #state = "";
  /** The PaymentIntent's status, and when, if this page has confirmed it. @type {[string, number]|null} */ #confirmed = null;
  /** Follows the balance after the purchase was given up. @type {import("../paidup.js").BalanceWatch|null} */ #account = null;
  #waiting = false; // for the end of this task: the page may still be setting attributes and properties

  #root;
  #internals;
  /** @type {HTMLElement} */ #screen;
  /** @type {HTMLElement[]} */ #steps;
  /** @type {Map<State, HTMLElement>} */ #blocks = new Map();
  /** The link to a voucher. */
  #voucher = element("a", { part: "button", class: "button", target: "_blank", rel: "noopener", "data-says": "show" });

  constructor() {
    super();
    this.#internals = this.attachInternals();
    this.#root = this.attachShadow({ mode: "open" });
    this.#root.adoptedStyleSheets = [styleSheet()];
    this.#steps = STEPS.map(stepElement);
    for (const state of STATES) this.#blocks.set(state, this.#block(state));
    this.#screen = element("div", { part: "screen", class: "screen" }, [
      element("ol", { part: "steps", class: "steps" }, this.#steps),
      element("div", { class: "blocks", role: "status" }, [...this.#blocks.values()]),
    ]);
    this.#root.append(this.#screen);
    this.#draw();
  }

  // ---- Public properties and methods

  /** The newest status. @returns {Status|null} */
  get status() {
    return this.#activation?.status ?? null;
  }
  /** @returns {Stage} */
  get stage() {
    return this.#activation?.stage ?? "waiting";
  }
  /** The Activation of paidup.js, once it is started. @returns {Activation|null} */
  get activation() {
    return this.#activation;
  }

  /** The page's own texts, which replace the English ones. @returns {Words} */
  get words() {
    return this.#words;
  }
  set words(words) {
    this.#words = words ?? {};
    this.#draw();
  }

  /** Verify again now; after a final error, start over. */
  verify() {
    if (this.#error) this.#stop();
    this.#activation?.verify();
    this.#update();
  }

  /**
   * Call after Stripe.js has confirmed the payment.
   * @param {string} intent its PaymentIntent's status @param {number} [at] when, in ms since 1970; default: now
   */
  confirmed(intent, at = Date.now()) {
    this.#confirmed = [intent, at];
    this.#activation?.confirmed(intent, at);
    this.#draw();
  }

  /** Focus the current heading, so that a screen reader starts there. @param {FocusOptions} [options] */
  focus(options) {
    if (this.#state) this.#headingOf(this.#state).focus(options);
  }

  // ---- Lifecycle

  connectedCallback() {
    this.#update();
  }

  disconnectedCallback() {
    this.#update(); // if it was only moved, it is connected again by then and continues
  }

  /** @param {string} name @param {string|null} before @param {string|null} now */
  attributeChangedCallback(name, before, now) {
    if (before === now) return;
    if (name === "heading-level") return this.#draw();
    this.#stop();
    if (before !== null && (name === "invoice" || name === "checkout")) this.#confirmed = null;
    this.#update();
  }

  #update() {
    if (this.#waiting) return;
    this.#waiting = true;
    queueMicrotask(() => {
      this.#waiting = false;
      const closed = this.#activation?.connection === "closed"; // stays as it is
      if (!this.isConnected && !closed) this.#stop();
      if (this.isConnected && !this.#activation) this.#start();
    });
  }

  #start() {
    this.#error = null;
    const invoice = this.getAttribute("invoice");
    const checkout = this.getAttribute("checkout");
    if (!invoice && !checkout) return this.#draw();
    const given = {
      .../** @type {{invoice: string}} */ (invoice ? { invoice } : { checkout }),
      baseUrl: this.getAttribute("base-url") ?? undefined,
      headers: this.headers,
      refreshTicket: this.refreshTicket,
    };
    const activation = activate({ ...given, ticket: this.getAttribute("ticket") ?? undefined });
    this.#activation = activation;
    activation.addEventListener("status", ({ detail }) => this.#dispatch("status", detail));
    activation.addEventListener("stage", ({ detail }) => this.#dispatch("stage", detail));
    activation.addEventListener("error", ({ detail }) => {
      this.#error = detail;
      this.#dispatch("error", detail);
    });
    activation.finished.then(
      (status) => {
        if (this.#activation !== activation) return;
        if (status.status === "active") this.#dispatch("active", status);
        if (status.status === "void" && invoice) this.#followReplacement(given);
      },
      () => {},
    );
    if (this.#confirmed) activation.confirmed(...this.#confirmed);
    this.#draw();
  }

  /**
   * The purchase was given up, perhaps for another one in another tab: once that is paid, show it here, too.
   * @param {Options} given
   */
  #followReplacement(given) {
    const { headers, baseUrl } = given;
    const account = (this.#account = watchBalance({ headers, baseUrl, signal: AbortSignal.timeout(REPLACED_WITHIN_MS) }));
    account.addEventListener("balance", async () => {
      const { replaced_by: instead } = await activate(given).finished.catch(() => /** @type {any} */ ({}));
      if (!instead || this.#account !== account) return;
      this.removeAttribute("ticket"); // it was the other invoice's
      this.setAttribute("invoice", instead);
    });
  }

  #stop() {
    this.#account?.close();
    this.#activation?.close();
    this.#account = this.#activation = null;
  }

  /** Draw first: a listener may read the screen. @param {string} type @param {unknown} detail */
  #dispatch(type, detail) {
    this.#draw();
    this.dispatchEvent(new CustomEvent(type, { detail, composed: true }));
  }

  // ---- Drawing

  /** @returns {State} */
  #current() {
    return this.#error ? "refused" : stateOf(this.status, this.stage);
  }

  #draw() {
    const state = this.#current();
    const focused = this.#state !== state && this.matches(":focus-within");
    const language = /** @type {HTMLElement|null} */ (this.closest("[lang]"))?.lang;
    for (const [name, block] of this.#blocks) {
      const said = { ...WORDS[name], ...this.#words[name] };
      for (const place of block.querySelectorAll("[data-says]"))
        write(place, phrase(said[saysOf(place)] ?? "", this.status, language));
      block.toggleAttribute("data-current", name === state);
      this.#headingOf(name).ariaLevel = this.getAttribute("heading-level") ?? "2";
    }
    this.#voucher.hidden = !showVoucher(this.#voucher, this.status?.processing?.voucher_url);
    // A Checkout Session that has changed at all was completed.
    const paid = this.#confirmed !== null || (this.hasAttribute("checkout") && (this.status?.version ?? 0) > 0);
    const marks = marksOf(state, paid);
    const labels = { ...WORDS.steps, ...this.#words.steps };
    this.#steps.forEach((step, index) => drawStep(step, STEPS[index], marks[index], labels));
    this.#screen.dataset.state = state;
    if (this.#state) this.#internals.states.delete(this.#state);
    this.#internals.states.add(state);
    this.#state = state;
    // The focused element is hidden now: focus the new heading.
    if (focused && !this.#root.activeElement?.closest("[data-current]")) this.focus({ preventScroll: true });
  }

  /** All states are laid out in the same grid cell, so that the layout does not shift between them. @param {State} state */
  #block(state) {
    const own = state === "delayed" || state === "awaiting_payment" ? [this.#again()] : state === "voucher" ? [this.#voucher] : [];
    const actions = element("div", { part: "actions", class: "actions" }, [element("slot", { name: `${state}-actions` }, own)]);
    return element("div", { part: `words words-${state}`, class: `block ${state}` }, [
      element("div", { part: "heading", class: "heading", role: "heading", tabindex: "-1" }, [
        element("slot", { name: `${state}-heading`, "data-says": "heading" }),
      ]),
      element("p", { part: "text", class: "text" }, [
        element("slot", { name: `${state}-text`, "data-says": "text" }),
      ]),
      actions,
    ]);
  }

  #again() {
    const button = element("button", { part: "button", class: "button", type: "button", "data-says": "again" });
    button.addEventListener("click", () => this.verify());
    return button;
  }

  /** @param {State} state */
  #headingOf(state) {
    return /** @type {HTMLElement} */ (this.#blocks.get(state)?.firstElementChild);
  }

  /** A property set before the element was defined would shadow the accessor: take it over. @param {string} name */
  #takeProperty(name) {
    const own = /** @type {any} */ (this);
    if (!Object.hasOwn(own, name)) return undefined;
    const value = own[name];
    delete own[name];
    return value;
  }
}

/** @param {Step} name @param {number} index */
function stepElement(name, index) {
  return element("li", { class: "step" }, [
    markElement(index === STEPS.length - 1),
    element("span", { part: "label", class: "label" }, [element("slot", { name: `step-${name}` })]),
    element("span", { class: "unseen" }),
  ]);
}

/** @param {HTMLElement} step @param {Step} name @param {Mark} mark @param {AllWords["steps"]} labels */
function drawStep(step, name, mark, labels) {
  const [sign, label, unseen] = step.children;
  step.dataset.mark = mark;
  step.setAttribute("part", `step step-${mark}`);
  drawMark(sign, mark);
  write(/** @type {Element} */ (label.firstElementChild), labels[name]);
  write(unseen, `(${labels[mark]})`);
}

/** Link to it, if it is an address of the web. @param {HTMLAnchorElement} link @param {string|null|undefined} address */
function showVoucher(link, address) {
  const known = /^https?:\/\//.test(address ?? "");
  if (known) link.href = /** @type {string} */ (address);
  return known;
}

/** @param {Element} place */
const saysOf = (place) => /** @type {"heading"|"text"|"again"|"show"} */ (/** @type {HTMLElement} */ (place).dataset.says);

/** Write only changes: a live region announces every assignment. @param {Element} place @param {string} text */
function write(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// Two bundles of one page may both have it: the first one counts.
if (globalThis.customElements && !customElements.get("paidup-activation"))
  customElements.define("paidup-activation", PaidupActivation);
