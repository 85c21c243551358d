// @ts-check
/**
 * Paidup's browser client: watches one invoice or Checkout Session until its payment is settled, or the customer's balance.
 *
 * Handles the connection, reconnection, other transports where no WebSocket gets through (server-sent events, long polls,
 * GET), and the stage that a screen should show.
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
/** @typedef {"waiting"|"verifying"|"awaiting_payment"|"action_required"|"processing"|"delayed"|"provisioning"|"active"|"failed"|"void"|"unclaimed"} Stage */
/** @typedef {"connecting"|"open"|"waiting"|"polling"|"closed"} Connection */
/** @typedef {"websocket"|"sse"|"long_poll"|"poll"} Transport how the server's messages come, best first */
/** @typedef {{code: string, decline_code?: string|null, message: string}} PaymentError */
/**
 * A payment that takes days. `message` is for the customer; `expected_at` is by when the bank usually answers. Of a voucher,
 * which is still to be paid: until which day, and where its customer sees it. Servers of 0.1 send neither.
 * @typedef {{method: string, name: string, since: string, expected_at: string, credits_on_trust: number, message: string,
 *   kind?: "debit"|"voucher", pay_by?: string|null, voucher_url?: string|null}} ProcessingPayment
 */
/**
 * An invoice's status from the server. `version` only grows; `at` is ISO 8601 in UTC. `units_granted`: what it has granted
 * of other units than the default one.
 * @typedef {{type: "status", invoice: string, version: number, status: InvoiceStatus, stage: Stage,
 *   plan: string|null, credits_granted: number, balance: number,
 *   via: "verification"|"webhook"|"reconciliation"|"operator"|null, at: string, error: PaymentError|null, checkout: string|null,
 *   processing?: ProcessingPayment|null, replaced_by: string|null, traceparent?: string,
 *   units_granted?: {[unit: string]: number}}} Status
 */
/**
 * A Checkout Session's status: nothing of the account but the credits that the session gave. `return_to`: where the
 * customer goes on, once it is active.
 * @typedef {Omit<Status, "invoice"|"balance"|"checkout"|"replaced_by"|"traceparent"> & {checkout: string, return_to: string|null}} CheckoutStatus
 */
/**
 * An account's balance from the server. `version` only grows; a `balance` below zero is a debt; `at` as above.
 * `units`: the same of other units, where the plans file names several.
 * @typedef {{type: "balance", version: number, balance: number, held: number, at: string,
 *   units?: {[unit: string]: {balance: number, held: number}}}} Balance
 */
/** @typedef {Status & {status: "active"|"void"|"reversed"}} FinalStatus what ends the wait */
/** @typedef {"aborted"|"unauthorized"|"forbidden"|"unknown_invoice"|"unknown_checkout"|"unknown_account"|"gone"} ErrorCode */
/**
 * What is used of the browser, so that tests can replace it.
 * @typedef {{WebSocket: new (url: string, protocols: string[]) => WebSocket,
 *   fetch: (url: string, init: RequestInit) => Promise<Response>,
 *   setTimeout: (run: () => void, ms: number) => number, clearTimeout: (id: number) => void,
 *   now: () => number, random: () => number, window: EventTarget,
 *   document: EventTarget & {visibilityState: string}, storage?: Pick<Storage, "getItem"|"setItem"|"removeItem">}} Seams
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
 * Without `poll`, there are neither long polls nor polls: the connection only keeps trying.
 * @typedef {object} Handlers
 * @property {string} path
 * @property {ErrorCode} unknown the error code for a 404
 * @property {(message: any) => void} onMessage a message from the server, except `bye`
 * @property {() => {version: number}|null} latest the newest message
 * @property {(connection: Connection) => void} onConnection
 * @property {(transport: Transport) => void} onTransport
 * @property {(error: ActivationError) => void} onRefused final error
 * @property {() => void} onAborted the signal was aborted
 * @property {() => void} [onWake] the page became visible while a WebSocket is open
 * @property {boolean} [poll] whether GET has the message
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
/** @typedef {{status: Status, stage: Stage, connection: Connection, transport: Transport, error: ActivationError}} ActivationEvents */
/** @typedef {Omit<ActivationEvents, "status"> & {status: CheckoutStatus}} CheckoutEvents */
/**
 * An Activation of a Checkout Session.
 * @typedef {Pick<Activation, "stage"|"connection"|"transport"|"verify"|"confirmed"|"close"|"dispatchEvent"> & TypedEventTarget<CheckoutEvents> & {
 *   status: CheckoutStatus|null, finished: Promise<CheckoutStatus & {status: FinalStatus["status"]}>,
 *   [Symbol.asyncIterator](): AsyncGenerator<CheckoutStatus, undefined, unknown>}} CheckoutActivation
 */
/** @typedef {{balance: Balance, connection: Connection, transport: Transport, error: ActivationError}} BalanceEvents */
/**
 * How one connection ended. `after`: ms that the server asked for; `lived`: ms; `blocked`: this transport does not get
 * through; `answered`: a long poll was, so that the next one follows at once.
 * @typedef {{opened: boolean, code: number, after: number|null, lived: number, blocked?: boolean, answered?: boolean}} Ending
 */

const SILENCE_MS = 35_000; // the server sends a heartbeat every 15 s
const AFTER_WAKE_MS = 20_000; // a WebSocket that was asleep must receive something within this
const HANDSHAKE_MS = 8_000;
const FIRST_MESSAGE_MS = 10_000; // after a handshake: the server sends one at once
const REQUEST_MS = 10_000;
const DELAYED_MS = 30_000; // after a confirmed payment
const FALLBACK_POLL_MS = 30_000; // polling interval after the server has ended the WebSocket for waiting too long
const LONGEST_WAIT_MS = 60_000;
const STABLE_MS = 5_000; // a connection that lasted this long resets the backoff
const MAX_CUTS = 3; // connections in a row that were cut before that: the next transport is tried
const WAIT_S = 25; // of a long poll
const REMEMBER_MS = 15 * 60_000; // how long a better transport is not tried again
const VERIFY_AGAIN_MS = 1_000; // between reconnections that have the payment verified
/** @type {Transport[]} */
const TRANSPORTS = ["websocket", "sse", "long_poll", "poll"];
const [WEBSOCKET, SSE, LONG_POLL, POLL] = [0, 1, 2, 3];

const WAITED_TOO_LONG = 4408;
const CLOSED_BY_SERVER = [1000, 1008, 1012, 1013, WAITED_TOO_LONG];
const WOKE = -1;
/** @type {Ending} */
const UNOPENED = { opened: false, code: 0, after: null, lived: 0 };
/** @type {Record<number, ErrorCode>} */
const FINAL = { 401: "unauthorized", 403: "forbidden", 410: "gone" };
/** A PaymentIntent's statuses with which the customer has paid, or need do nothing more. */
const PAID = ["succeeded", "processing"];
/** @type {Stage[]} */
const STAGES = ["waiting", "verifying", "awaiting_payment", "action_required", "processing", "delayed", "provisioning", "active", "failed", "void", "unclaimed"];

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
    /** Whether Paidup said it, and no proxy. */
    this.problem = !!headers.get("Content-Type")?.startsWith("application/problem+json");
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

/**
 * One connection at a time, with tickets, heartbeats and backoff; the handlers process its messages. What happens to a
 * connection decides which transport is next: one that does not get through is followed by the next one, and what worked
 * is remembered for a while.
 */
class ServerConnection {
  /** The server ended the connection for waiting too long: only polling is left. */
  slow = false;
  /** What the last message came by. @type {Transport|null} */
  transport = null;
  /** @type {Connection} */
  connection = "closed";

  #options;
  #handlers;
  /** @type {Seams} */ #seams;
  /** @type {string|undefined} */ #ticket;
  /** @type {WebSocket|null} */ #socket = null;
  /** @type {AbortController|null} */ #request = null;
  /** @type {Map<string, number>} */ #timers = new Map();
  /** The transport to begin with, and until when. */
  #first = { level: WEBSOCKET, until: 0 };
  #cuts = 0; // in a row
  /** Has the payment verified where nothing can be sent: by another connection. @type {(() => void)|null} */ #reopen = null;
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
    this.#recall();
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

  /** Have the payment verified: on the WebSocket, or by another connection, since opening one does it. */
  verify() {
    if (this.#socket) return this.#socket.send('{"type":"verify"}');
    this.slow = false;
    this.#endPause();
    this.#reopen?.();
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

  /** @param {string} method @param {string} path @param {number} [ms] */
  async #fetch(method, path, ms = REQUEST_MS) {
    const request = (this.#request = new AbortController());
    this.setTimer("request", ms, () => request.abort());
    try {
      const { headers: given } = this.#options;
      const headers = new Headers(typeof given === "function" ? await given() : given);
      const response = await this.#send(path, { method, headers, signal: request.signal });
      return await response.json();
    } finally {
      this.#clearTimer("request");
    }
  }

  /** @param {string} path @param {RequestInit} init */
  async #send(path, init) {
    const { fetch } = this.#seams; // a browser's fetch must not be called as a method
    const response = await fetch(this.#url("api", "http").href + path, { credentials: "same-origin", ...init });
    if (!response.ok) throw new HttpError(response);
    return response;
  }

  /** Connect, receive, pause, and repeat. */
  async #run() {
    for (let attempt = 0; !this.#closed;) {
      const ending = this.slow ? await this.#poll() : await this.#round();
      if (this.#closed) return;
      if (ending.code === WAITED_TOO_LONG) this.#onWaitLimit();
      if (ending.lived >= STABLE_MS || ending.code === WOKE) attempt = 0;
      if (ending.code === WOKE || ending.answered) continue;
      const jitter = backoff(attempt++, this.#seams.random);
      this.#setConnection(this.slow || (this.#handlers.poll && !ending.opened) ? "polling" : "waiting");
      if (await this.#pause(this.slow ? FALLBACK_POLL_MS + jitter : (ending.after ?? jitter))) attempt = 0;
    }
  }

  /** One connection by the first transport that gets through. A failure is returned as an ending too. @returns {Promise<Ending>} */
  async #round() {
    const last = this.#handlers.poll ? POLL : SSE;
    let level = Math.min(this.#level, last);
    try {
      if (level < LONG_POLL) this.#setConnection("connecting");
      const ticket = level < LONG_POLL ? await this.#nextTicket() : "";
      let ending = UNOPENED;
      for (; ; level++) {
        if (level === WEBSOCKET) ending = await this.#openSocket(ticket);
        else ending = await (level === SSE ? this.#openStream(ticket) : this.#poll(level, true));
        if (this.#closed || !ending.blocked) break;
        if (level === last || level === LONG_POLL) {
          this.#begin(WEBSOCKET); // the network or the server is away, which says nothing of any transport
          return ending;
        }
      }
      if (this.#closed) return ending;
      this.#count(level, ending, last);
      // Finished, or a ticket that is not valid any more: GET tells the status without one.
      if (ending.code === 1000 || (level === SSE && !ending.opened && !ending.after && ending.code !== WOKE)) await this.#poll();
      return ending;
    } catch (error) {
      this.#endIfFinal(error);
      const after = error instanceof HttpError && error.after; // many clients got the same Retry-After: spread them
      if (!after && !this.#closed) await this.#poll();
      return { ...UNOPENED, after: after ? after + backoff(1, this.#seams.random) : null };
    }
  }

  /** After connections that were cut at once, the next transport is tried. @param {number} level @param {Ending} ending @param {number} last */
  #count(level, { opened, code, after, lived }, last) {
    if (lived >= STABLE_MS || after || CLOSED_BY_SERVER.includes(code)) this.#cuts = 0;
    else if (code !== WOKE && (opened || level === LONG_POLL) && ++this.#cuts >= MAX_CUTS)
      this.#begin(level < last ? level + 1 : WEBSOCKET);
  }

  /** One WebSocket, from the handshake to its end. @param {string} ticket @returns {Promise<Ending>} */
  #openSocket(ticket) {
    return new Promise((resolve) => {
      const { WebSocket, now } = this.#seams;
      /** @type {WebSocket} */ let socket;
      try {
        socket = new WebSocket(this.#url("ws", "ws").href, ["paidup.v1", ticket]);
      } catch {
        return resolve({ ...UNOPENED, blocked: true }); // there is none, or the page's policy forbids it
      }
      /** @type {number|null} */ let after = null;
      let since = 0;
      let heard = false;
      const end = (/** @type {number} */ code) => {
        this.#disconnect = () => {};
        this.#socket = socket.onopen = socket.onmessage = socket.onclose = null;
        this.#clearTimer("silence");
        socket.close();
        const blocked = code !== WOKE && (!since || (!heard && code === 0));
        resolve({ opened: since > 0, code, after, lived: since && now() - since, blocked });
      };
      this.#disconnect = end;
      this.setTimer("silence", HANDSHAKE_MS, () => end(0));
      socket.onclose = (event) => end(event.code);
      socket.onopen = () => {
        this.#socket = socket;
        since = now();
        this.#expect(FIRST_MESSAGE_MS);
        this.#setConnection("open");
      };
      socket.onmessage = (event) => {
        if (!heard) this.#works(WEBSOCKET);
        heard = true;
        this.#expect(SILENCE_MS);
        after = this.#take(event.data)?.after ?? after;
      };
    });
  }

  /** One stream of server-sent events, to its end. @param {string} ticket @returns {Promise<Ending>} */
  async #openStream(ticket) {
    const { now } = this.#seams;
    const request = new AbortController();
    /** @type {Ending} */ const ending = { ...UNOPENED };
    let since = 0;
    let refused = false;
    this.#disconnect = (code) => {
      ending.code = code;
      request.abort();
    };
    this.setTimer("silence", HANDSHAKE_MS, () => request.abort());
    try {
      const known = this.#handlers.latest();
      const path = `/events?padding=1${known ? `&version=${known.version}` : ""}`; // with padding, for proxies that buffer
      const response = await this.#send(path, { headers: { "Paidup-Ticket": ticket }, signal: request.signal });
      if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new TypeError("no stream");
      const decoder = new TextDecoder();
      const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done || this.#closed) break;
        if (!since) {
          since = now();
          this.#works(SSE);
          this.#reopen = () => now() - since < VERIFY_AGAIN_MS || this.#disconnect(WOKE);
          this.#setConnection("open");
        }
        this.#expect(SILENCE_MS);
        const lines = (text + decoder.decode(value, { stream: true })).split("\n");
        text = lines.pop() ?? "";
        for (const line of lines) {
          const bye = line.startsWith("data:") && this.#take(line.slice(5));
          if (bye) Object.assign(ending, bye);
        }
      }
    } catch (error) {
      if (error instanceof HttpError) {
        ending.after = error.after;
        refused = !!error.after || (error.problem && error.status < 404); // about the ticket: says nothing of the network
      }
    }
    request.abort();
    this.#disconnect = () => {};
    this.#reopen = null;
    this.#clearTimer("silence");
    const blocked = !since && !refused && ending.code !== WOKE;
    return Object.assign(ending, { opened: since > 0, lived: since && now() - since, blocked });
  }

  /**
   * One GET of the message: a long poll, once its version is known. `chosen`: by what was tried.
   * @param {number} [level] @param {boolean} [chosen] @returns {Promise<Ending>}
   */
  async #poll(level = POLL, chosen = false) {
    const { poll, latest, onMessage } = this.#handlers;
    if (!poll) return UNOPENED;
    const { now } = this.#seams;
    const known = latest();
    const wait = level === LONG_POLL && known;
    const began = now();
    let code = 0;
    this.#setConnection("polling");
    this.#disconnect = (reason) => {
      code = reason;
      this.#request?.abort();
    };
    if (wait) this.#reopen = () => now() - began < VERIFY_AGAIN_MS || this.#disconnect(WOKE);
    try {
      const query = wait ? `?wait=${WAIT_S}&version=${known.version}` : "";
      const message = await this.#fetch("GET", query, wait ? WAIT_S * 1000 + REQUEST_MS : REQUEST_MS);
      this.#works(level, chosen);
      const lived = now() - began;
      if (!this.#closed) onMessage(message);
      // An answer without news that came at once is no long poll's.
      return { ...UNOPENED, lived, answered: level === LONG_POLL && (lived >= VERIFY_AGAIN_MS || latest()?.version !== known?.version) };
    } catch (error) {
      // With `refreshTicket`, this GET may not be authorized: while tickets are fetched, only their errors count.
      if (this.slow || (chosen && this.#level === level && !this.#options.refreshTicket)) this.#endIfFinal(error);
      const after = error instanceof HttpError ? error.after : null;
      return { ...UNOPENED, code, after, lived: now() - began, blocked: !wait && !after && code !== WOKE };
    } finally {
      this.#disconnect = () => {};
      this.#reopen = null;
    }
  }

  /** Handle a message. @param {unknown} text @returns {{after: number, code: number}|null} what a `bye` says */
  #take(text) {
    const message = parse(text);
    if (message?.type === "bye") {
      const code = message.reason === "waited too long" ? WAITED_TOO_LONG : 1012;
      return { after: Math.max(1, Number(message.reconnect_after_ms) || 0), code };
    }
    if (message && !this.#closed) this.#handlers.onMessage(message);
    return null;
  }

  /** A message came by this transport. @param {number} level @param {boolean} [chosen] whether to begin with it from now on */
  #works(level, chosen = true) {
    if (this.#closed) return;
    if (chosen && level !== this.#level) this.#begin(level);
    const transport = TRANSPORTS[level];
    if (transport === this.transport) return;
    this.transport = transport;
    this.#handlers.onTransport(transport);
  }

  get #level() {
    return this.#seams.now() < this.#first.until ? this.#first.level : WEBSOCKET;
  }

  /** Begin with this transport for a while, also in other pages of this origin. @param {number} level */
  #begin(level) {
    this.#cuts = 0;
    const until = this.#seams.now() + REMEMBER_MS;
    this.#first = { level, until };
    try {
      if (level) this.#seams.storage?.setItem(this.#key, `${TRANSPORTS[level]} ${until}`);
      else this.#seams.storage?.removeItem(this.#key);
    } catch {} // storage may be full, or forbidden
  }

  #recall() {
    try {
      const [transport, until] = this.#seams.storage?.getItem(this.#key)?.split(" ") ?? [];
      const level = TRANSPORTS.indexOf(/** @type {Transport} */ (transport));
      if (level > 0 && Number(until) <= this.#seams.now() + REMEMBER_MS) this.#first = { level, until: Number(until) };
    } catch {}
  }

  get #key() {
    return `paidup:transport:${this.#url("", "http").origin}`;
  }

  /** A message is due within so many ms. @param {number} ms */
  #expect(ms) {
    this.#lastMessageAt = this.#seams.now();
    this.#maxSilenceMs = ms;
    this.#watchSilence();
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
    if (event.type === "online") this.#begin(WEBSOCKET); // perhaps another network
    this.#endPause();
    // New network, or restored from the page cache: the old connection may never report that it is closed (iOS).
    if (event.type !== "visibilitychange" || (this.#socket && now() - this.#lastMessageAt > SILENCE_MS))
      this.#disconnect(WOKE);
    else if (this.#socket) {
      this.#handlers.onWake?.();
      this.#expect(AFTER_WAKE_MS);
    } else this.#reopen?.();
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
    return refreshTicket ? refreshTicket() : (await this.#fetch("POST", "/ticket")).ticket;
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
 * `connection` (Connection), `transport` (Transport), `error` (ActivationError: final, nothing follows).
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
      latest: () => this.status,
      onConnection: (connection) => dispatch(this, "connection", connection),
      onTransport: (transport) => dispatch(this, "transport", transport),
      onRefused: (error) => {
        dispatch(this, "error", error);
        this.#finish(() => this.#reject(error));
      },
      onAborted: () => this.close(),
      onWake: () => this.#server.verify(),
      poll: true,
      onWaitLimit: () => this.#markDelayed(),
    });
    this.#server.open();
  }

  get connection() {
    return this.#server.connection;
  }

  /** How the last message came. @returns {Transport|null} */
  get transport() {
    return this.#server.transport;
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
    this.#server.verify();
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
 * (Balance: at first as it is, then each change), `connection` (Connection), `transport` (Transport), `error` (ActivationError: final).
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
      latest: () => this.latest,
      onConnection: (connection) => dispatch(this, "connection", connection),
      onTransport: (transport) => dispatch(this, "transport", transport),
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

  /** How the last message came. @returns {Transport|null} */
  get transport() {
    return this.#server.transport;
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
  let storage;
  try {
    storage = globalThis.window?.localStorage;
  } catch {} // a page may not have any
  return {
    WebSocket,
    storage,
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
