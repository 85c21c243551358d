// @ts-check
/**
 * Paidup's browser client: watches one invoice or Checkout Session until its payment is settled, or the customer's balance.
 *
 * Handles the WebSocket, reconnection, the fallback to GET, and the stage that a screen should show.
 * It makes no decisions about money: every status comes from the server.
 *
 *     const activation = activate({ invoice, ticket });
 *     activation.addEventListener("stage", (event) => show(event.detail));
 *     const status = await activation.finished;
 *
 *     const watch = watchBalance();
 *     watch.addEventListener("balance", (event) => show(event.detail.balance));
 */

/** @typedef {"open"|"requires_action"|"processing"|"active"|"failed"|"void"|"reversed"} InvoiceStatus */
/** @typedef {"waiting"|"verifying"|"awaiting_payment"|"action_required"|"processing"|"delayed"|"active"|"failed"|"void"|"unclaimed"} Stage */
/** @typedef {"connecting"|"open"|"waiting"|"polling"|"closed"} Connection */
/** @typedef {{code: string, decline_code?: string|null, message: string}} PaymentError */
/**
 * A payment that takes days. `message` is for the customer; `expected_at` is by when the bank usually answers. Of a voucher,
 * which is still to be paid: until which day, and where its customer sees it. Servers of 0.1 send neither.
 * @typedef {{method: string, name: string, since: string, expected_at: string, credits_on_trust: number, message: string,
 *   kind?: "debit"|"voucher", pay_by?: string|null, voucher_url?: string|null}} ProcessingPayment
 */
/**
 * An invoice's status from the server. `version` only grows; `at` is ISO 8601 in UTC.
 * @typedef {{type: "status", invoice: string, version: number, status: InvoiceStatus, stage: Stage,
 *   plan: string|null, credits_granted: number, balance: number,
 *   via: "verification"|"webhook"|"reconciliation"|"operator"|null, at: string, error: PaymentError|null, checkout: string|null,
 *   processing?: ProcessingPayment|null, replaced_by: string|null}} Status
=======
 *   via: "verification"|"webhook"|"reconciliation"|null, at: string, error: PaymentError|null, checkout: string|null,
 *   processing?: ProcessingPayment|null, replaced_by: string|null, traceparent?: string}} Status
 *   processing?: ProcessingPayment|null, replaced_by: string|null, traceparent?: string}} Status
 */
/**
 * A Checkout Session's status: nothing of the account but the credits that the session gave. `return_to`: where the
 * customer goes on, once it is active.
 * @typedef {Omit<Status, "invoice"|"balance"|"checkout"|"replaced_by"|"traceparent"> & {checkout: string, return_to: string|null}} CheckoutStatus
 */
/**
 * An account's balance from the server. `version` only grows; a `balance` below zero is a debt; `at` as above.
 * @typedef {{type: "balance", version: number, balance: number, at: string}} Balance
 */
/** @typedef {Status & {status: "active"|"void"|"reversed"}} FinalStatus what ends the wait */
/** @typedef {"aborted"|"unauthorized"|"forbidden"|"unknown_invoice"|"unknown_checkout"|"unknown_account"|"gone"} ErrorCode */
/**
 * What is used of the browser, so that tests can replace it.
 * @typedef {{WebSocket: new (url: string, protocols: string[]) => WebSocket,
 *   fetch: (url: string, init: RequestInit) => Promise<Response>,
 *   setTimeout: (run: () => void, ms: number) => number, clearTimeout: (id: number) => void,
 *   now: () => number, random: () => number, window: EventTarget,
 *   document: EventTarget & {visibilityState: string}}} Seams
 */
/**
 * @typedef {object} ConnectionOptions
 * @property {string} [ticket] for the first connection; later connections fetch their own
 * @property {string} [baseUrl] where Paidup's server is; default: this page's origin
 * @property {() => Promise<string>} [refreshTicket] instead of POST /api/invoices/{invoice}/ticket, or
 *   /api/account/ticket; an error thrown with an HTTP `status` is treated as that response
 * @property {HeadersInit|(() => HeadersInit|Promise<HeadersInit>)} [headers] e.g. Authorization
 * @property {AbortSignal} [signal] the same as calling close()
 * @property {Partial<Seams>} [seams]
 */
/** @typedef {ConnectionOptions & {invoice: string}} Options `invoice` is Stripe's `in_` id */
/** @typedef {ConnectionOptions & {checkout: string}} CheckoutOptions `checkout` is Stripe's `cs_` id; needs no login */
/**
 * What a connection is for: its path under /ws and /api, and the callbacks for its events.
 * `poll` is called while no WebSocket can be opened; without it, the connection only keeps trying.
 * @typedef {object} Handlers
 * @property {string} path
 * @property {ErrorCode} unknown the error code for a 404
 * @property {(message: any) => void} onMessage a message from the server, except `bye`
 * @property {(connection: Connection) => void} onConnection
 * @property {(error: ActivationError) => void} onRefused final error
 * @property {() => void} onAborted the signal was aborted
 * @property {() => void} [onWake] the page became visible while a WebSocket is open
 * @property {() => Promise<void>} [poll]
 * @property {() => void} [onWaitLimit] from now on only polling is used
 */
/**
 * An EventTarget typed by the `detail` of each of its events.
 * @template Events
 * @typedef {Omit<EventTarget, "addEventListener"|"removeEventListener"> & {
 *   addEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void,
 *     options?: AddEventListenerOptions|boolean): void,
 *   removeEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void,
 *     options?: EventListenerOptions|boolean): void}} TypedEventTarget
 */
/** @typedef {{status: Status, stage: Stage, connection: Connection, error: ActivationError}} ActivationEvents */
/** @typedef {Omit<ActivationEvents, "status"> & {status: CheckoutStatus}} CheckoutEvents */
/**
 * An Activation of a Checkout Session.
 * @typedef {Pick<Activation, "stage"|"connection"|"verify"|"confirmed"|"close"|"dispatchEvent"> & TypedEventTarget<CheckoutEvents> & {
 *   status: CheckoutStatus|null, finished: Promise<CheckoutStatus & {status: FinalStatus["status"]}>,
 *   [Symbol.asyncIterator](): AsyncGenerator<CheckoutStatus, undefined, unknown>}} CheckoutActivation
 */
/** @typedef {{balance: Balance, connection: Connection, error: ActivationError}} BalanceEvents */
/**
 * How one connection ended. `after`: ms that the server asked for; `lived`: ms.
 * @typedef {{opened: boolean, code: number, after: number|null, lived: number}} Ending
 */

const SILENCE_MS = 35_000; // the server sends a heartbeat every 15 s
const AFTER_WAKE_MS = 20_000; // a WebSocket that was asleep must receive something within this
const HANDSHAKE_MS = 8_000;
const REQUEST_MS = 10_000;
const DELAYED_MS = 30_000; // after a confirmed payment
const FALLBACK_POLL_MS = 30_000; // polling interval after the server has ended the WebSocket for waiting too long
const LONGEST_WAIT_MS = 60_000;
const STABLE_MS = 5_000; // a connection that lasted this long resets the backoff

const WAITED_TOO_LONG = 4408;
const WOKE = -1;
/** @type {Ending} */
const UNOPENED = { opened: false, code: 0, after: null, lived: 0 };
/** @type {Record<number, ErrorCode>} */
const FINAL = { 401: "unauthorized", 403: "forbidden", 410: "gone" };
/** A PaymentIntent's statuses with which the customer has paid, or need do nothing more. */
const PAID = ["succeeded", "processing"];
/** @type {Stage[]} */
const STAGES = ["waiting", "verifying", "awaiting_payment", "action_required", "processing", "delayed", "active", "failed", "void", "unclaimed"];

/** Whether the wait is over. @param {Status|null} status */
const isTerminal = (status) => !!status && ["active", "void", "reversed"].includes(status.status);

/**
 * Milliseconds before reconnection number `attempt` (from 0): full jitter under a ceiling of 0.5 s that doubles to 20 s.
 * @param {number} attempt @param {() => number} [random] from 0 up to 1
 */
export function backoff(attempt, random = Math.random) {
  return Math.round(random() * Math.min(20_000, 500 * 2 ** Math.max(0, attempt)));
}

/** Why watching has ended: its `code` says it. */
export class ActivationError extends Error {
  /** @param {ErrorCode} code @param {string} message @param {number} [status] the HTTP status, if one said so */
  constructor(code, message, status) {
    super(message);
    this.name = "ActivationError";
    this.code = code;
    this.status = status;
  }
}

/** An HTTP response that is not a success. */
class HttpError extends Error {
  /** @param {Response} response */
  constructor({ status, headers }) {
    super(`HTTP ${status}`);
    this.status = status;
    /** Retry-After in milliseconds. */
    this.after = 1000 * Number(headers.get("Retry-After")) || null;
  }
}

/**
 * Watch one invoice, or one Checkout Session.
 * @overload @param {Options} options @returns {Activation}
 */
/**
 * @overload @param {CheckoutOptions} options @returns {CheckoutActivation}
 */
/** @param {Options|CheckoutOptions} options @returns {any} */
export function activate(options) {
  return new Activation(options);
}

/** Watch the balance of the customer identified by the page's cookie, headers or ticket. @param {ConnectionOptions} [options] */
export function watchBalance(options = {}) {
  return new BalanceWatch(options);
}

/** A reconnecting WebSocket with tickets, heartbeats and backoff. The handlers process its messages. */
class ServerConnection {
  /** The server ended the WebSocket for waiting too long: only polling is left. */
  slow = false;
  /** @type {Connection} */
  connection = "closed";

  #options;
  #handlers;
  /** @type {Seams} */ #seams;
  /** @type {string|undefined} */ #ticket;
  /** @type {WebSocket|null} */ #socket = null;
  /** @type {AbortController|null} */ #request = null;
  /** @type {Map<string, number>} */ #timers = new Map();
  #lastMessageAt = 0;
  #maxSilenceMs = SILENCE_MS;
  #closed = false;
  /** Ends the current connection. @type {(code: number) => void} */ #disconnect = () => {};
  /** Ends the current pause. @type {() => void} */ #endPause = () => {};

  /** @param {ConnectionOptions} options @param {Handlers} handlers */
  constructor(options, handlers) {
    this.#options = options;
    this.#handlers = handlers;
    this.#ticket = options.ticket;
    this.#seams = { ...browser(), ...options.seams };
  }

  open() {
    const { window, document } = this.#seams;
    const { signal } = this.#options;
    document.addEventListener("visibilitychange", this.#onWake);
    window.addEventListener("pageshow", this.#onWake);
    window.addEventListener("online", this.#onWake);
    signal?.addEventListener("abort", this.#handlers.onAborted);
    if (signal?.aborted) this.#handlers.onAborted();
    else void this.#run();
  }

  /**
   * Release everything: WebSocket, request, timers and listeners.
   * @returns {boolean} whether it was still open
   */
  close() {
    if (this.#closed) return false;
    this.#closed = true;
    const { window, document, clearTimeout } = this.#seams;
    document.removeEventListener("visibilitychange", this.#onWake);
    window.removeEventListener("pageshow", this.#onWake);
    window.removeEventListener("online", this.#onWake);
    this.#options.signal?.removeEventListener("abort", this.#handlers.onAborted);
    this.#request?.abort();
    this.#disconnect(0);
    this.#endPause();
    for (const id of this.#timers.values()) clearTimeout(id);
    this.#timers.clear();
    this.#setConnection("closed");
    return true;
  }

  get closed() {
    return this.#closed;
  }

  now() {
    return this.#seams.now();
  }

  /** @param {string} text @returns {boolean} whether a WebSocket was open */
  send(text) {
    this.#socket?.send(text);
    return !!this.#socket;
  }

  /** End the current pause and try a WebSocket again. */
  retryNow() {
    this.slow = false;
    this.#endPause();
  }

  /** Start a timer; replaces the one of the same name. @param {string} name @param {number} ms @param {() => void} run */
  setTimer(name, ms, run) {
    this.#clearTimer(name);
    const { setTimeout } = this.#seams;
    this.#timers.set(
      name,
      setTimeout(() => (this.#timers.delete(name), run()), ms),
    );
  }

  /** @param {string} method @param {string} path */
  async fetch(method, path) {
    const request = (this.#request = new AbortController());
    this.setTimer("request", REQUEST_MS, () => request.abort());
    try {
      const { headers: given } = this.#options;
      const headers = new Headers(typeof given === "function" ? await given() : given);
      const init = {
        method,
        headers,
        signal: request.signal,
        credentials: /** @type {const} */ ("same-origin"),
      };
      const { fetch } = this.#seams; // a browser's fetch must not be called as a method
      const response = await fetch(this.#url("api", "http").href + path, init);
      if (!response.ok) throw new HttpError(response);
      return await response.json();
    } finally {
      this.#clearTimer("request");
    }
  }

  /** Connect, receive, fall back to polling, pause, and repeat. */
  async #run() {
    for (let attempt = 0; !this.#closed;) {
      const ending = this.slow ? UNOPENED : await this.#connect();
      if (this.#closed) return;
      if (ending.code === WAITED_TOO_LONG) this.#onWaitLimit();
      if (ending.lived >= STABLE_MS || ending.code === WOKE) attempt = 0;
      if (ending.code === WOKE) continue;
      const polling = await this.#poll(ending);
      if (this.#closed) return;
      const jitter = backoff(attempt++, this.#seams.random);
      this.#setConnection(polling ? "polling" : "waiting");
      if (await this.#pause(this.slow ? FALLBACK_POLL_MS + jitter : (ending.after ?? jitter))) attempt = 0;
    }
  }

  /** Fetch a ticket and connect; a failure is returned as an ending too. @returns {Promise<Ending>} */
  async #connect() {
    this.#setConnection("connecting");
    try {
      return await this.#openSocket(await this.#nextTicket());
    } catch (error) {
      this.#endIfFinal(error);
      const after = error instanceof HttpError && error.after; // many clients got the same Retry-After: spread them
      return { ...UNOPENED, after: after ? after + backoff(1, this.#seams.random) : null };
    }
  }

  /** One connection, from the handshake to its end. @param {string} ticket @returns {Promise<Ending>} */
  #openSocket(ticket) {
    return new Promise((resolve) => {
      const socket = new this.#seams.WebSocket(this.#url("ws", "ws").href, ["paidup.v1", ticket]);
      const { now } = this.#seams;
      /** @type {number|null} */ let after = null;
      let since = 0;
      const end = (/** @type {number} */ code) => {
        this.#disconnect = () => {};
        this.#socket = socket.onopen = socket.onmessage = socket.onclose = null;
        this.#clearTimer("silence");
        socket.close();
        resolve({ opened: since > 0, code, after, lived: since && now() - since });
      };
      this.#disconnect = end;
      this.setTimer("silence", HANDSHAKE_MS, () => end(0));
      socket.onclose = (event) => end(event.code);
      socket.onopen = () => {
        this.#socket = socket;
        this.#lastMessageAt = since = now();
        this.#maxSilenceMs = SILENCE_MS;
        this.#watchSilence();
        this.#setConnection("open");
      };
      socket.onmessage = (event) => {
        this.#lastMessageAt = now();
        this.#maxSilenceMs = SILENCE_MS;
        const message = parse(event.data);
        if (message?.type === "bye") after = Math.max(1, Number(message.reconnect_after_ms) || 0);
        else if (message && !this.#closed) this.#handlers.onMessage(message);
      };
    });
  }

  /** Timers are throttled in the background, so the clock decides, not the timer. */
  #watchSilence() {
    const left = this.#lastMessageAt + this.#maxSilenceMs - this.#seams.now();
    if (left <= 0) this.#disconnect(0);
    else this.setTimer("silence", left, () => this.#watchSilence());
  }

  #onWake = (/** @type {Event} */ event) => {
    const { document, now } = this.#seams;
    if (event.type === "pageshow" && !(/** @type {PageTransitionEvent} */ (event).persisted)) return;
    if (event.type === "visibilitychange" && document.visibilityState !== "visible") return;
    this.#endPause();
    // New network, or restored from the page cache: the old WebSocket may never report that it is closed (iOS).
    if (event.type !== "visibilitychange" || (this.#socket && now() - this.#lastMessageAt > SILENCE_MS))
      this.#disconnect(WOKE);
    else if (this.#socket) {
      this.#handlers.onWake?.();
      this.#lastMessageAt = now();
      this.#maxSilenceMs = AFTER_WAKE_MS;
      this.#watchSilence();
    }
  };

  #onWaitLimit() {
    if (!this.#handlers.onWaitLimit) return;
    this.slow = true;
    this.#handlers.onWaitLimit();
  }

  async #nextTicket() {
    const ticket = this.#ticket;
    this.#ticket = undefined;
    if (ticket) return ticket;
    const { refreshTicket } = this.#options;
    return refreshTicket ? refreshTicket() : (await this.fetch("POST", "/ticket")).ticket;
  }

  /** Fetch the status by GET if no WebSocket delivers it. @param {Ending} ending @returns {Promise<boolean>} whether to keep polling */
  async #poll({ opened, code, after }) {
    const { poll } = this.#handlers;
    if (!poll) return false;
    if (code === 1000 || !(opened || after)) {
      this.#setConnection("polling");
      try {
        await poll();
      } catch (error) {
        // With `refreshTicket`, this GET may not be authorized: while tickets are fetched, only their errors count.
        if (this.slow) this.#endIfFinal(error);
      }
    }
    return this.slow || !opened;
  }

  /** @param {any} error from this module, fetch, or refreshTicket */
  #endIfFinal(error) {
    const code = error?.status === 404 ? this.#handlers.unknown : FINAL[error?.status];
    if (!code || this.#closed) return;
    const text = `The server refused: ${code.replace("_", " ")}.`;
    this.#handlers.onRefused(new ActivationError(code, text, error.status));
  }

  /** @param {string} base @param {string} scheme */
  #url(base, scheme) {
    const root = (this.#options.baseUrl ?? location.origin).replace(/\/$/, "");
    const url = new URL(`${root}/${base}/${this.#handlers.path}`, globalThis.location?.href);
    url.protocol = url.protocol.replace("http", scheme);
    return url;
  }

  /** @param {number} ms @returns {Promise<boolean>} whether it was ended early */
  #pause(ms) {
    return new Promise((resolve) => {
      const end = (/** @type {boolean} */ early) => {
        this.#clearTimer("pause");
        this.#endPause = () => {};
        resolve(early);
      };
      this.#endPause = () => end(true);
      this.setTimer("pause", Math.min(ms, LONGEST_WAIT_MS), () => end(false));
    });
  }

  /** @param {string} name */
  #clearTimer(name) {
    const { clearTimeout } = this.#seams;
    const id = this.#timers.get(name);
    if (id !== undefined) clearTimeout(id);
    this.#timers.delete(name);
  }

  /** @param {Connection} connection */
  #setConnection(connection) {
    if (connection === this.connection) return;
    this.connection = connection;
    this.#handlers.onConnection(connection);
  }
}

/**
 * Follows one invoice or Checkout Session. Events, each a CustomEvent with a `detail`: `status` (Status), `stage` (Stage),
 * `connection` (Connection), `error` (ActivationError: final, nothing follows).
 * Also an async iterator of statuses: a reader slower than the server skips to the newest.
 */
export class Activation extends /** @type {new () => TypedEventTarget<ActivationEvents>} */ (EventTarget) {
  /** The newest status. @type {Status|null} */
  status = null;
  /** What the screen should show. @type {Stage} */
  stage = "waiting";
  /** The terminal status; rejects with an ActivationError. @type {Promise<FinalStatus>} */
  finished;

  /** What is followed, as its statuses name it. @type {["invoice"|"checkout", string]} */ #subject;
  /** @type {ServerConnection} */ #server;
  #isDelayed = false; // the confirmed payment has been waited for too long
  #isPaid = false; // Stripe.js said so in this page
  #confirmedVersion = -1; // up to this version, what the server says of the payment is older than the confirmation
  /** @type {(status: FinalStatus) => void} */ #resolve = () => {};
  /** @type {(error: ActivationError) => void} */ #reject = () => {};

  /** @param {Options|CheckoutOptions} options */
  constructor(options) {
    super();
    this.#subject = "checkout" in options ? ["checkout", options.checkout] : ["invoice", options.invoice];
    const [kind, id] = this.#subject;
    this.finished = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.finished.catch(() => {}); // a page may use events only
    this.#server = new ServerConnection(options, {
      path: `${kind === "invoice" ? "invoices" : kind}/${encodeURIComponent(id)}`,
      unknown: `unknown_${kind}`,
      onMessage: (message) => this.#onMessage(message),
      onConnection: (connection) => dispatch(this, "connection", connection),
      onRefused: (error) => {
        dispatch(this, "error", error);
        this.#finish(() => this.#reject(error));
      },
      onAborted: () => this.close(),
      onWake: () => this.#requestVerification(),
      poll: async () => this.#onMessage(await this.#server.fetch("GET", "")),
      onWaitLimit: () => this.#markDelayed(),
    });
    this.#server.open();
  }

  get connection() {
    return this.#server.connection;
  }

  /** Ask the server to verify the payment again now, e.g. when the customer presses a button. */
  verify() {
    this.#verify(DELAYED_MS);
  }

  /**
   * Call after Stripe.js has confirmed the payment: what the server still reports of an earlier attempt is older.
   * Also verifies. `intent` is the PaymentIntent's status; `succeeded` cannot fail any more.
   * @param {string} intent
   * @param {number} [at] when, in ms since 1970, if that was before now, e.g. before the page was reloaded
   */
  confirmed(intent, at = this.#server.now()) {
    this.#isPaid = PAID.includes(intent);
    this.#confirmedVersion = intent === "succeeded" ? Infinity : (this.status?.version ?? -1);
    this.#verify(at + DELAYED_MS - this.#server.now());
  }

  /** Stop watching. `finished` rejects with the code "aborted" unless it is settled. */
  close() {
    this.#finish(() => this.#reject(new ActivationError("aborted", "Watching was stopped.")));
  }

  async *[Symbol.asyncIterator]() {
    /** @type {Status|null} */
    let last = null;
    while (!isTerminal(last)) {
      if (this.status === last) {
        if (this.#server.closed) return void (await this.finished.catch(unlessAborted));
        const next = new Promise((resolve) => this.addEventListener("status", resolve, { once: true }));
        await Promise.race([next, this.finished.catch(unlessAborted)]);
      }
      if (this.status && this.status !== last) yield (last = this.status);
    }
  }

  /** @returns {boolean} whether a WebSocket was open */
  #requestVerification() {
    return this.#server.send('{"type":"verify"}');
  }

  /** @param {Status} status */
  #onMessage(status) {
    const last = this.status;
    const [kind, id] = this.#subject;
    if (this.#server.closed || status.type !== "status" || status[kind] !== id) return;
    const restaged = !!last && status.version === last.version && status.stage !== last.stage;
    if (!restaged && !isNews(status, last)) return;
    this.status = status;
    dispatch(this, "status", status);
    this.#updateStage();
    if (isTerminal(status)) this.#finish(() => this.#resolve(/** @type {FinalStatus} */ (status)));
  }

  /**
   * The server's stage, except after `confirmed()`: then a status from before it is `verifying`, and `delayed` after a
   * while. Without it, only the server says `delayed`: nobody who has not paid is told that their payment is safe.
   */
  #updateStage() {
    let stage = stageOf(this.status);
    if (stage === "failed" || stage === "action_required") {
      if (this.status && this.status.version <= this.#confirmedVersion) stage = "verifying";
      else this.#isPaid = false;
    }
    if (this.#isPaid && (stage === "waiting" || stage === "awaiting_payment")) stage = "verifying";
    if (this.#isPaid && this.#isDelayed && stage === "verifying") stage = "delayed";
    if (stage === this.stage) return;
    this.stage = stage;
    dispatch(this, "stage", stage);
  }

  /** @param {number} ms until a paid invoice is delayed */
  #verify(ms) {
    if (this.#server.closed) return;
    this.#isDelayed = ms <= 0;
    this.#updateStage();
    this.#server.setTimer("delayed", ms, () => this.#markDelayed());
    if (!this.#requestVerification()) this.#server.retryNow(); // a new connection triggers a verification itself
  }

  #markDelayed() {
    this.#isDelayed = true;
    this.#updateStage();
  }

  /** @param {() => void} settle */
  #finish(settle) {
    if (this.#server.close()) settle();
  }
}

/**
 * Follows an account's balance until it is closed. Events, each a CustomEvent with a `detail`: `balance`
 * (Balance: at first as it is, then each change), `connection` (Connection), `error` (ActivationError: final).
 */
export class BalanceWatch extends /** @type {new () => TypedEventTarget<BalanceEvents>} */ (EventTarget) {
  /** The newest balance. @type {Balance|null} */
  latest = null;
  /** @type {ServerConnection} */ #server;

  /** @param {ConnectionOptions} options */
  constructor(options) {
    super();
    this.#server = new ServerConnection(options, {
      path: "account",
      unknown: "unknown_account",
      onMessage: (message) => this.#onMessage(message),
      onConnection: (connection) => dispatch(this, "connection", connection),
      onRefused: (error) => {
        dispatch(this, "error", error);
        this.close();
      },
      onAborted: () => this.close(),
    });
    this.#server.open();
  }

  get connection() {
    return this.#server.connection;
  }

  /** Stop watching; nothing follows. */
  close() {
    this.#server.close();
  }

  /** @param {Balance} balance */
  #onMessage(balance) {
    if (balance.type !== "balance" || !isNews(balance, this.latest)) return;
    this.latest = balance;
    dispatch(this, "balance", balance);
  }
}

/** The stage of a status; of a stage that only a later server knows, what its status says. @param {Status|null} status @returns {Stage} */
function stageOf(status) {
  if (!status || STAGES.includes(status.stage)) return status?.stage ?? "waiting";
  if (status.status === "requires_action") return "action_required";
  if (status.status === "reversed") return "void";
  return status.status === "open" ? "verifying" : status.status;
}

/** @param {{version: unknown}} message @param {{version: number}|null} last */
function isNews({ version }, last) {
  return typeof version === "number" && (!last || version > last.version);
}

/** @param {{dispatchEvent(event: Event): boolean}} target @param {string} type @param {unknown} detail */
function dispatch(target, type, detail) {
  target.dispatchEvent(new CustomEvent(type, { detail }));
}

/** A worker or Node.js has neither window nor document; wake-up events are not available there. @returns {Seams} */
function browser() {
  const { WebSocket, window = new EventTarget(), document = new EventTarget() } = globalThis;
  return {
    WebSocket,
    fetch: (url, init) => fetch(url, init),
    setTimeout: (run, ms) => setTimeout(run, ms),
    clearTimeout: (id) => clearTimeout(id),
    now: Date.now, // the wall clock also runs while the machine sleeps
    random: Math.random,
    window,
    document: /** @type {Document} */ (document),
  };
}

/** @param {unknown} text @returns {any} */
function parse(text) {
  try {
    return JSON.parse(String(text));
  } catch {
    return null; // not from Paidup, e.g. from a proxy
  }
}

/** @param {ActivationError} error */
function unlessAborted(error) {
  if (error.code !== "aborted") throw error;
}
