// @ts-check
/**
 * Paidup's browser client: watches one invoice until its payment is settled.
 *
 * Owns the socket, its reconnections, the fallback to GET, and the stage a screen should show.
 * Refuses to decide anything about money: it names an invoice and repeats what the server says.
 *
 *     const activation = activate({ invoice, ticket });
 *     activation.addEventListener("stage", (event) => show(event.detail));
 *     const status = await activation.finished;
 */

/** @typedef {"open"|"requires_action"|"processing"|"active"|"failed"|"void"|"reversed"} InvoiceStatus */
/** @typedef {"waiting"|"verifying"|"action_required"|"processing"|"delayed"|"active"|"failed"|"void"} Stage */
/** @typedef {"connecting"|"open"|"waiting"|"polling"|"closed"} Connection */
/** @typedef {{code: string, decline_code?: string|null, message: string}} PaymentError */
/**
 * What the server says of an invoice. `version` only grows; `at` is ISO 8601 in UTC.
 * @typedef {{type: "status", invoice: string, version: number, status: InvoiceStatus, stage: Stage,
 *   plan: string|null, credits_granted: number, balance: number,
 *   via: "verification"|"webhook"|"reconciliation"|null, at: string, error: PaymentError|null}} Status
 */
/**
 * Everything taken from the browser, so that a test can bring its own.
 * @typedef {{WebSocket: new (url: string, protocols: string[]) => WebSocket,
 *   fetch: (url: string, init: RequestInit) => Promise<Response>,
 *   setTimeout: (run: () => void, ms: number) => number, clearTimeout: (id: number) => void,
 *   now: () => number, random: () => number, window: EventTarget,
 *   document: EventTarget & {visibilityState: string}}} Seams
 */
/**
 * @typedef {object} Options
 * @property {string} invoice Stripe's `in_` id
 * @property {string} [ticket] for the first connection; each later one fetches its own
 * @property {string} [baseUrl] where Paidup's server is; default: this page's origin
 * @property {() => Promise<string>} [refreshTicket] instead of POST /api/invoices/{invoice}/ticket;
 *   throw something with an HTTP `status` to say why not
 * @property {HeadersInit|(() => HeadersInit|Promise<HeadersInit>)} [headers] e.g. Authorization
 * @property {AbortSignal} [signal] the same as calling close()
 * @property {Partial<Seams>} [seams]
 */
/**
 * How one connection ended. `after`: ms that the server asked for; `lived`: ms.
 * @typedef {{opened: boolean, code: number, after: number|null, lived: number}} Ending
 */

const SILENCE_MS = 35_000; // the server speaks every 15 s
const AFTER_WAKE_MS = 20_000; // so a socket that slept must speak within this
const HANDSHAKE_MS = 8_000;
const REQUEST_MS = 10_000;
const DELAYED_MS = 30_000;
const SLOW_MS = 30_000; // the pace of polling once the server has had enough of the socket
const LONGEST_WAIT_MS = 60_000;
const STABLE_MS = 5_000; // a connection that lived this long starts the backoff afresh

const WAITED_TOO_LONG = 4408;
const WOKEN = -1;
/** @type {Ending} */
const UNOPENED = { opened: false, code: 0, after: null, lived: 0 };
/** @type {Record<number, string>} */
const FINAL = { 401: "unauthorized", 403: "forbidden", 404: "unknown_invoice", 410: "gone" };

/** Ends the wait. @param {Status|null} status */
const isTerminal = (status) => !!status && ["active", "void", "reversed"].includes(status.status);

/**
 * Milliseconds before reconnection number `attempt` (from 0): full jitter under a ceiling of 0.5 s that doubles to 20 s.
 * @param {number} attempt @param {() => number} [random] from 0 up to 1
 */
export function backoff(attempt, random = Math.random) {
  return Math.round(random() * Math.min(20_000, 500 * 2 ** Math.max(0, attempt)));
}

/** Why an activation ended without a status. `code`: aborted, unauthorized, forbidden, unknown_invoice, gone. */
export class ActivationError extends Error {
  /** @param {string} code @param {string} message @param {number} [status] the HTTP status, if one said so */
  constructor(code, message, status) {
    super(message);
    this.name = "ActivationError";
    this.code = code;
    this.status = status;
  }
}

/** An HTTP answer that is not a success. */
class Refusal extends Error {
  /** @param {Response} response */
  constructor({ status, headers }) {
    super(`HTTP ${status}`);
    this.status = status;
    /** Milliseconds that the server asked to be left alone. */
    this.after = 1000 * Number(headers.get("Retry-After")) || null;
  }
}

/** Watch one invoice. @param {Options} options */
export function activate(options) {
  return new Activation(options);
}

/**
 * One invoice being watched. Events, each a CustomEvent with a `detail`: `status` (Status), `stage` (Stage),
 * `connection` (Connection), `error` (ActivationError: final, nothing follows).
 * Also an async iterator of statuses: a reader slower than the server skips to the newest.
 */
export class Activation extends EventTarget {
  /** The newest status heard. @type {Status|null} */
  status = null;
  /** What the screen should show. @type {Stage} */
  stage = "waiting";
  /** @type {Connection} */
  connection = "closed";
  /** The terminal status; rejects with an ActivationError. @type {Promise<Status>} */
  finished;

  #options;
  /** @type {Seams} */ #seams;
  /** @type {string|undefined} */ #ticket;
  /** @type {WebSocket|null} */ #socket = null;
  /** @type {AbortController|null} */ #request = null;
  /** @type {Map<string, number>} */ #timers = new Map();
  #heard = 0;
  #patience = SILENCE_MS;
  #late = false;
  #slow = false;
  #answered = -1; // a failure, or a check asked for, up to this version is of before the confirmation
  #over = false;
  /** Ends the connection of the moment. @type {(code: number) => void} */ #drop = () => {};
  /** Ends the pause of the moment. @type {() => void} */ #hurry = () => {};
  /** @type {(status: Status) => void} */ #resolve = () => {};
  /** @type {(error: ActivationError) => void} */ #reject = () => {};

  /** @param {Options} options */
  constructor(options) {
    super();
    this.#options = options;
    this.#ticket = options.ticket;
    this.#seams = { ...browser(), ...options.seams };
    this.finished = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.finished.catch(() => {}); // a page may listen to events alone
    const { window, document } = this.#seams;
    document.addEventListener("visibilitychange", this.#woken);
    window.addEventListener("pageshow", this.#woken);
    window.addEventListener("online", this.#woken);
    options.signal?.addEventListener("abort", this.#aborted);
    if (options.signal?.aborted) {
      this.close();
      return;
    }
    this.#countDown();
    void this.#run();
  }

  /** Ask the server to look at the payment again, now: after a second confirmation, or when the customer asks. */
  verify() {
    if (this.#over) return;
    this.#slow = false;
    this.#countDown();
    if (!this.#askAgain()) this.#hurry(); // a new connection is itself a question
  }

  /**
   * Stripe.js has just confirmed the payment: a failure, or a check by the bank, that the server still tells of was
   * before. Asks like `verify`. `intent` is the PaymentIntent's status: one that has succeeded cannot fail any more.
   * @param {string} intent
   */
  confirmed(intent) {
    this.#answered = intent === "succeeded" ? Infinity : (this.status?.version ?? -1);
    this.verify();
  }

  /** Stop watching. `finished` rejects with the code "aborted", unless it is settled. */
  close() {
    this.#end(() => this.#reject(new ActivationError("aborted", "Watching was stopped.")));
  }

  async *[Symbol.asyncIterator]() {
    /** @type {Status|null} */
    let told = null;
    while (!isTerminal(told)) {
      if (this.status === told) {
        if (this.#over) return void (await this.finished.catch(unlessAborted));
        const next = new Promise((resolve) => this.addEventListener("status", resolve, { once: true }));
        await Promise.race([next, this.finished.catch(unlessAborted)]);
      }
      if (this.status && this.status !== told) yield (told = this.status);
    }
  }

  /** The life of an activation: connect, listen, find out, pause, again. */
  async #run() {
    for (let attempt = 0; !this.#over;) {
      const ending = this.#slow ? UNOPENED : await this.#connect();
      if (this.#over) return;
      if (ending.code === WAITED_TOO_LONG) this.#waitedTooLong();
      if (ending.lived >= STABLE_MS || ending.code === WOKEN) attempt = 0;
      if (ending.code === WOKEN) continue;
      if (ending.code === 1000 || !(ending.opened || ending.after)) await this.#poll();
      if (this.#over) return;
      const jitter = backoff(attempt++, this.#seams.random);
      this.#connected(this.#slow || !ending.opened ? "polling" : "waiting");
      if (await this.#pause(this.#slow ? SLOW_MS + jitter : (ending.after ?? jitter))) attempt = 0;
    }
  }

  /** A ticket and a connection; whatever goes wrong is an ending too. @returns {Promise<Ending>} */
  async #connect() {
    this.#connected("connecting");
    try {
      return await this.#listen(await this.#nextTicket());
    } catch (error) {
      this.#endIfFinal(error);
      const after = error instanceof Refusal && error.after; // many were told the same: spread them
      return { ...UNOPENED, after: after ? after + backoff(1, this.#seams.random) : null };
    }
  }

  /** One connection, from the handshake to its end. @param {string} ticket @returns {Promise<Ending>} */
  #listen(ticket) {
    return new Promise((resolve) => {
      const socket = new this.#seams.WebSocket(this.#url("ws", "ws").href, ["paidup.v1", ticket]);
      const { now } = this.#seams;
      /** @type {number|null} */ let after = null;
      let since = 0;
      const end = (/** @type {number} */ code) => {
        this.#drop = () => {};
        this.#socket = socket.onopen = socket.onmessage = socket.onclose = null;
        this.#stop("silence");
        socket.close();
        resolve({ opened: since > 0, code, after, lived: since && now() - since });
      };
      this.#drop = end;
      this.#later("silence", HANDSHAKE_MS, () => end(0));
      socket.onclose = (event) => end(event.code);
      socket.onopen = () => {
        this.#socket = socket;
        this.#heard = since = now();
        this.#patience = SILENCE_MS;
        this.#watchSilence();
        this.#connected("open");
      };
      socket.onmessage = (event) => {
        this.#heard = now();
        this.#patience = SILENCE_MS;
        const message = parse(event.data);
        if (message?.type === "bye") after = Math.max(1, Number(message.reconnect_after_ms) || 0);
        else if (message?.type === "status") this.#hear(message);
      };
    });
  }

  /** Whatever the timer's own delay was (browsers slow them down in the background), only the clock decides. */
  #watchSilence() {
    const left = this.#heard + this.#patience - this.#seams.now();
    if (left <= 0) this.#drop(0);
    else this.#later("silence", left, () => this.#watchSilence());
  }

  #woken = (/** @type {Event} */ event) => {
    const { document, now } = this.#seams;
    if (event.type === "pageshow" && !(/** @type {PageTransitionEvent} */ (event).persisted)) return;
    if (event.type === "visibilitychange" && document.visibilityState !== "visible") return;
    this.#hurry();
    // Another network, or a page from the cache: the old socket may claim to be open for ever (iOS never closes it).
    if (event.type !== "visibilitychange" || (this.#socket && now() - this.#heard > SILENCE_MS))
      this.#drop(WOKEN);
    else if (this.#askAgain()) {
      this.#heard = now();
      this.#patience = AFTER_WAKE_MS;
      this.#watchSilence();
    }
  };

  #aborted = () => this.close();

  /** @returns {boolean} whether there was a socket to ask through */
  #askAgain() {
    this.#socket?.send('{"type":"verify"}');
    return !!this.#socket;
  }

  /** @param {Status} status */
  #hear(status) {
    const last = this.status;
    if (this.#over || status.invoice !== this.#options.invoice || typeof status.version !== "number") return;
    if (
      last &&
      (status.version < last.version || (status.version === last.version && status.stage === last.stage))
    )
      return;
    this.status = status;
    if (status.stage === "delayed") this.#late = true;
    this.#tell("status", status);
    this.#restage();
    if (isTerminal(status)) this.#end(() => this.#resolve(status));
  }

  /** A wait that the server still calls waiting is `delayed` once it has lasted; every other stage says more. */
  #restage() {
    let stage = this.status?.stage ?? "waiting";
    const past = !!this.status && this.status.version <= this.#answered;
    if (past && (stage === "failed" || stage === "action_required")) stage = "verifying";
    if (this.#late && (stage === "waiting" || stage === "verifying")) stage = "delayed";
    if (stage === this.stage) return;
    this.stage = stage;
    this.#tell("stage", stage);
  }

  #countDown() {
    this.#late = false;
    this.#restage();
    this.#later("delayed", DELAYED_MS, () => this.#delayed());
  }

  #delayed() {
    this.#late = true;
    this.#restage();
  }

  #waitedTooLong() {
    this.#slow = true;
    this.#delayed();
  }

  async #nextTicket() {
    const ticket = this.#ticket;
    this.#ticket = undefined;
    if (ticket) return ticket;
    const { refreshTicket } = this.#options;
    return refreshTicket ? refreshTicket() : (await this.#fetch("POST", "/ticket")).ticket;
  }

  async #poll() {
    this.#connected("polling");
    try {
      this.#hear(await this.#fetch("GET", ""));
    } catch (error) {
      // A page with a road of its own to tickets may not be allowed this one: while tickets are asked for, they have the last word.
      if (this.#slow) this.#endIfFinal(error);
    }
  }

  /** @param {string} method @param {string} path */
  async #fetch(method, path) {
    const request = (this.#request = new AbortController());
    this.#later("request", REQUEST_MS, () => request.abort());
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
      if (!response.ok) throw new Refusal(response);
      return await response.json();
    } finally {
      this.#stop("request");
    }
  }

  /** @param {any} error anything that was thrown: ours, fetch's, or refreshTicket's */
  #endIfFinal(error) {
    const code = FINAL[error?.status];
    if (!code || this.#over) return;
    const failure = new ActivationError(code, `The server refused: ${code.replace("_", " ")}.`, error.status);
    this.#tell("error", failure);
    this.#end(() => this.#reject(failure));
  }

  /** Nothing of ours is left behind: no socket, request, timer or listener. @param {() => void} settle */
  #end(settle) {
    if (this.#over) return;
    this.#over = true;
    const { window, document, clearTimeout } = this.#seams;
    document.removeEventListener("visibilitychange", this.#woken);
    window.removeEventListener("pageshow", this.#woken);
    window.removeEventListener("online", this.#woken);
    this.#options.signal?.removeEventListener("abort", this.#aborted);
    this.#request?.abort();
    this.#drop(0);
    this.#hurry();
    for (const id of this.#timers.values()) clearTimeout(id);
    this.#timers.clear();
    this.#connected("closed");
    settle();
  }

  /** @param {string} base @param {string} scheme */
  #url(base, scheme) {
    const root = (this.#options.baseUrl ?? location.origin).replace(/\/$/, "");
    const url = new URL(
      `${root}/${base}/invoices/${encodeURIComponent(this.#options.invoice)}`,
      location.href,
    );
    url.protocol = url.protocol.replace("http", scheme);
    return url;
  }

  /** @param {number} ms @returns {Promise<boolean>} whether it was cut short */
  #pause(ms) {
    return new Promise((resolve) => {
      const end = (/** @type {boolean} */ early) => {
        this.#stop("pause");
        this.#hurry = () => {};
        resolve(early);
      };
      this.#hurry = () => end(true);
      this.#later("pause", Math.min(ms, LONGEST_WAIT_MS), () => end(false));
    });
  }

  /** One timer of each name. @param {string} name @param {number} ms @param {() => void} run */
  #later(name, ms, run) {
    this.#stop(name);
    const { setTimeout } = this.#seams;
    this.#timers.set(
      name,
      setTimeout(() => (this.#timers.delete(name), run()), ms),
    );
  }

  /** @param {string} name */
  #stop(name) {
    const { clearTimeout } = this.#seams;
    const id = this.#timers.get(name);
    if (id !== undefined) clearTimeout(id);
    this.#timers.delete(name);
  }

  /** @param {Connection} connection */
  #connected(connection) {
    if (connection === this.connection) return;
    this.connection = connection;
    this.#tell("connection", connection);
  }

  /** @param {string} type @param {unknown} detail */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** @returns {Seams} */
function browser() {
  return {
    WebSocket: globalThis.WebSocket,
    fetch: (url, init) => fetch(url, init),
    setTimeout: (run, ms) => window.setTimeout(run, ms),
    clearTimeout: (id) => window.clearTimeout(id),
    now: Date.now, // the wall clock also runs while the machine sleeps
    random: Math.random,
    window,
    document,
  };
}

/** @param {unknown} text @returns {any} */
function parse(text) {
  try {
    return JSON.parse(String(text));
  } catch {
    return null; // a frame from a proxy, not from us
  }
}

/** @param {ActivationError} error */
function unlessAborted(error) {
  if (error.code !== "aborted") throw error;
}
