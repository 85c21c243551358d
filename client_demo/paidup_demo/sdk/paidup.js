// @ts-check
/**
 * Paidup's browser client: watches one invoice until its payment is settled, or the customer's balance.
 *
 * Owns the socket, its reconnections, the fallback to GET, and the stage a screen should show.
 * Refuses to decide anything about money: it names an invoice and repeats what the server says.
 *
 *     const activation = activate({ invoice, ticket });
 *     activation.addEventListener("stage", (event) => show(event.detail));
 *     const status = await activation.finished;
 *
 *     const watch = watchBalance();
 *     watch.addEventListener("balance", (event) => show(event.detail.balance));
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
 * What the server says of an account. `version` only grows; a `balance` below zero is a debt; `at` as above.
 * @typedef {{type: "balance", version: number, balance: number, at: string}} Balance
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
 * @typedef {object} LineOptions
 * @property {string} [ticket] for the first connection; each later one fetches its own
 * @property {string} [baseUrl] where Paidup's server is; default: this page's origin
 * @property {() => Promise<string>} [refreshTicket] instead of POST /api/invoices/{invoice}/ticket, or
 *   /api/account/ticket; throw something with an HTTP `status` to say why not
 * @property {HeadersInit|(() => HeadersInit|Promise<HeadersInit>)} [headers] e.g. Authorization
 * @property {AbortSignal} [signal] the same as calling close()
 * @property {Partial<Seams>} [seams]
 */
/** @typedef {LineOptions & {invoice: string}} Options `invoice` is Stripe's `in_` id */
/**
 * What a line is told by whoever uses it: the path under /ws and /api, and what to do with what comes.
 * With `poll`, it is called where no socket can be had; without, the line only goes on trying.
 * @typedef {object} Talk
 * @property {string} path
 * @property {string} unknown the code of an error where the server knows no such thing
 * @property {(message: any) => void} hear a frame that is not the line's own business
 * @property {(connection: Connection) => void} connected
 * @property {(error: ActivationError) => void} refused nothing follows
 * @property {() => void} aborted by the signal
 * @property {() => void} [woken] the page is looked at again, and there is a socket
 * @property {() => Promise<void>} [poll]
 * @property {() => void} [waitedTooLong] from now on it only polls
 */
/**
 * An EventTarget that says what its listeners are told: the `detail` of each of its events.
 * @template Events
 * @typedef {Omit<EventTarget, "addEventListener"|"removeEventListener"> & {
 *   addEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void,
 *     options?: AddEventListenerOptions|boolean): void,
 *   removeEventListener<T extends keyof Events>(type: T, listener: (event: CustomEvent<Events[T]>) => void,
 *     options?: EventListenerOptions|boolean): void}} Teller
 */
/** @typedef {{status: Status, stage: Stage, connection: Connection, error: ActivationError}} ActivationEvents */
/** @typedef {{balance: Balance, connection: Connection, error: ActivationError}} BalanceEvents */
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
const FINAL = { 401: "unauthorized", 403: "forbidden", 410: "gone" };

/** Ends the wait. @param {Status|null} status */
const isTerminal = (status) => !!status && ["active", "void", "reversed"].includes(status.status);

/**
 * Milliseconds before reconnection number `attempt` (from 0): full jitter under a ceiling of 0.5 s that doubles to 20 s.
 * @param {number} attempt @param {() => number} [random] from 0 up to 1
 */
export function backoff(attempt, random = Math.random) {
  return Math.round(random() * Math.min(20_000, 500 * 2 ** Math.max(0, attempt)));
}

/** Why watching has ended. `code`: aborted, unauthorized, forbidden, unknown_invoice, unknown_account, gone. */
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

/** Watch the balance of whomever the page's cookie, headers or ticket name. @param {LineOptions} [options] */
export function watchBalance(options = {}) {
  return new BalanceWatch(options);
}

/** The line to the server: tickets, connections, silence, pauses. What is said on it is for whoever uses it. */
class Line {
  /** The server has had enough of the socket: only polling is left. */
  slow = false;
  /** @type {Connection} */
  connection = "closed";

  #options;
  #talk;
  /** @type {Seams} */ #seams;
  /** @type {string|undefined} */ #ticket;
  /** @type {WebSocket|null} */ #socket = null;
  /** @type {AbortController|null} */ #request = null;
  /** @type {Map<string, number>} */ #timers = new Map();
  #heard = 0;
  #patience = SILENCE_MS;
  #over = false;
  /** Ends the connection of the moment. @type {(code: number) => void} */ #drop = () => {};
  /** Ends the pause of the moment. @type {() => void} */ #hurry = () => {};

  /** @param {LineOptions} options @param {Talk} talk */
  constructor(options, talk) {
    this.#options = options;
    this.#talk = talk;
    this.#ticket = options.ticket;
    this.#seams = { ...browser(), ...options.seams };
  }

  open() {
    const { window, document } = this.#seams;
    const { signal } = this.#options;
    document.addEventListener("visibilitychange", this.#woken);
    window.addEventListener("pageshow", this.#woken);
    window.addEventListener("online", this.#woken);
    signal?.addEventListener("abort", this.#talk.aborted);
    if (signal?.aborted) this.#talk.aborted();
    else void this.#run();
  }

  /**
   * Nothing of ours is left behind: no socket, request, timer or listener.
   * @returns {boolean} whether it was still open
   */
  close() {
    if (this.#over) return false;
    this.#over = true;
    const { window, document, clearTimeout } = this.#seams;
    document.removeEventListener("visibilitychange", this.#woken);
    window.removeEventListener("pageshow", this.#woken);
    window.removeEventListener("online", this.#woken);
    this.#options.signal?.removeEventListener("abort", this.#talk.aborted);
    this.#request?.abort();
    this.#drop(0);
    this.#hurry();
    for (const id of this.#timers.values()) clearTimeout(id);
    this.#timers.clear();
    this.#connected("closed");
    return true;
  }

  get over() {
    return this.#over;
  }

  /** @param {string} text @returns {boolean} whether there was a socket to say it through */
  say(text) {
    this.#socket?.send(text);
    return !!this.#socket;
  }

  /** Cut the pause of the moment short, and try a socket again. */
  hurry() {
    this.slow = false;
    this.#hurry();
  }

  /** One timer of each name. @param {string} name @param {number} ms @param {() => void} run */
  later(name, ms, run) {
    this.#stop(name);
    const { setTimeout } = this.#seams;
    this.#timers.set(
      name,
      setTimeout(() => (this.#timers.delete(name), run()), ms),
    );
  }

  /** @param {string} method @param {string} path */
  async fetch(method, path) {
    const request = (this.#request = new AbortController());
    this.later("request", REQUEST_MS, () => request.abort());
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

  /** The life of a line: connect, listen, find out, pause, again. */
  async #run() {
    for (let attempt = 0; !this.#over;) {
      const ending = this.slow ? UNOPENED : await this.#connect();
      if (this.#over) return;
      if (ending.code === WAITED_TOO_LONG) this.#waitedTooLong();
      if (ending.lived >= STABLE_MS || ending.code === WOKEN) attempt = 0;
      if (ending.code === WOKEN) continue;
      const polling = await this.#poll(ending);
      if (this.#over) return;
      const jitter = backoff(attempt++, this.#seams.random);
      this.#connected(polling ? "polling" : "waiting");
      if (await this.#pause(this.slow ? SLOW_MS + jitter : (ending.after ?? jitter))) attempt = 0;
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
      this.later("silence", HANDSHAKE_MS, () => end(0));
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
        else if (message && !this.#over) this.#talk.hear(message);
      };
    });
  }

  /** Whatever the timer's own delay was (browsers slow them down in the background), only the clock decides. */
  #watchSilence() {
    const left = this.#heard + this.#patience - this.#seams.now();
    if (left <= 0) this.#drop(0);
    else this.later("silence", left, () => this.#watchSilence());
  }

  #woken = (/** @type {Event} */ event) => {
    const { document, now } = this.#seams;
    if (event.type === "pageshow" && !(/** @type {PageTransitionEvent} */ (event).persisted)) return;
    if (event.type === "visibilitychange" && document.visibilityState !== "visible") return;
    this.#hurry();
    // Another network, or a page from the cache: the old socket may claim to be open for ever (iOS never closes it).
    if (event.type !== "visibilitychange" || (this.#socket && now() - this.#heard > SILENCE_MS))
      this.#drop(WOKEN);
    else if (this.#socket) {
      this.#talk.woken?.();
      this.#heard = now();
      this.#patience = AFTER_WAKE_MS;
      this.#watchSilence();
    }
  };

  #waitedTooLong() {
    if (!this.#talk.waitedTooLong) return;
    this.slow = true;
    this.#talk.waitedTooLong();
  }

  async #nextTicket() {
    const ticket = this.#ticket;
    this.#ticket = undefined;
    if (ticket) return ticket;
    const { refreshTicket } = this.#options;
    return refreshTicket ? refreshTicket() : (await this.fetch("POST", "/ticket")).ticket;
  }

  /** Ask by GET what no socket says. @param {Ending} ending @returns {Promise<boolean>} whether that is the way now */
  async #poll({ opened, code, after }) {
    const { poll } = this.#talk;
    if (!poll) return false;
    if (code === 1000 || !(opened || after)) {
      this.#connected("polling");
      try {
        await poll();
      } catch (error) {
        // A page with a road of its own to tickets may not be allowed this one: while tickets are asked for,
        // they have the last word.
        if (this.slow) this.#endIfFinal(error);
      }
    }
    return this.slow || !opened;
  }

  /** @param {any} error anything that was thrown: ours, fetch's, or refreshTicket's */
  #endIfFinal(error) {
    const code = error?.status === 404 ? this.#talk.unknown : FINAL[error?.status];
    if (!code || this.#over) return;
    const words = `The server refused: ${code.replace("_", " ")}.`;
    this.#talk.refused(new ActivationError(code, words, error.status));
  }

  /** @param {string} base @param {string} scheme */
  #url(base, scheme) {
    const root = (this.#options.baseUrl ?? location.origin).replace(/\/$/, "");
    const url = new URL(`${root}/${base}/${this.#talk.path}`, globalThis.location?.href);
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
      this.later("pause", Math.min(ms, LONGEST_WAIT_MS), () => end(false));
    });
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
    this.#talk.connected(connection);
  }
}

/**
 * One invoice being watched. Events, each a CustomEvent with a `detail`: `status` (Status), `stage` (Stage),
 * `connection` (Connection), `error` (ActivationError: final, nothing follows).
 * Also an async iterator of statuses: a reader slower than the server skips to the newest.
 */
export class Activation extends /** @type {new () => Teller<ActivationEvents>} */ (EventTarget) {
  /** The newest status heard. @type {Status|null} */
  status = null;
  /** What the screen should show. @type {Stage} */
  stage = "waiting";
  /** The terminal status; rejects with an ActivationError. @type {Promise<Status>} */
  finished;

  #invoice;
  /** @type {Line} */ #line;
  #late = false;
  #answered = -1; // a failure, or a check asked for, up to this version is of before the confirmation
  /** @type {(status: Status) => void} */ #resolve = () => {};
  /** @type {(error: ActivationError) => void} */ #reject = () => {};

  /** @param {Options} options */
  constructor(options) {
    super();
    this.#invoice = options.invoice;
    this.finished = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.finished.catch(() => {}); // a page may listen to events alone
    this.#line = new Line(options, {
      path: `invoices/${encodeURIComponent(options.invoice)}`,
      unknown: "unknown_invoice",
      hear: (message) => this.#hear(message),
      connected: (connection) => tell(this, "connection", connection),
      refused: (error) => {
        tell(this, "error", error);
        this.#end(() => this.#reject(error));
      },
      aborted: () => this.close(),
      woken: () => this.#askAgain(),
      poll: async () => this.#hear(await this.#line.fetch("GET", "")),
      waitedTooLong: () => this.#delayed(),
    });
    this.#line.open();
    if (!this.#line.over) this.#countDown();
  }

  get connection() {
    return this.#line.connection;
  }

  /** Ask the server to look at the payment again, now: after a second confirmation, or when the customer asks. */
  verify() {
    if (this.#line.over) return;
    this.#countDown();
    if (!this.#askAgain()) this.#line.hurry(); // a new connection is itself a question
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
        if (this.#line.over) return void (await this.finished.catch(unlessAborted));
        const next = new Promise((resolve) => this.addEventListener("status", resolve, { once: true }));
        await Promise.race([next, this.finished.catch(unlessAborted)]);
      }
      if (this.status && this.status !== told) yield (told = this.status);
    }
  }

  /** @returns {boolean} whether there was a socket to ask through */
  #askAgain() {
    return this.#line.say('{"type":"verify"}');
  }

  /** @param {Status} status */
  #hear(status) {
    const last = this.status;
    if (this.#line.over || status.type !== "status" || status.invoice !== this.#invoice) return;
    const restaged = !!last && status.version === last.version && status.stage !== last.stage;
    if (!restaged && !isNews(status, last)) return;
    this.status = status;
    if (status.stage === "delayed") this.#late = true;
    tell(this, "status", status);
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
    tell(this, "stage", stage);
  }

  #countDown() {
    this.#late = false;
    this.#restage();
    this.#line.later("delayed", DELAYED_MS, () => this.#delayed());
  }

  #delayed() {
    this.#late = true;
    this.#restage();
  }

  /** @param {() => void} settle */
  #end(settle) {
    if (this.#line.close()) settle();
  }
}

/**
 * An account's balance being watched, until it is closed. Events, each a CustomEvent with a `detail`: `balance`
 * (Balance: at first as it is, then each change), `connection` (Connection), `error` (ActivationError: final).
 */
export class BalanceWatch extends /** @type {new () => Teller<BalanceEvents>} */ (EventTarget) {
  /** The newest heard. @type {Balance|null} */
  latest = null;
  /** @type {Line} */ #line;

  /** @param {LineOptions} options */
  constructor(options) {
    super();
    this.#line = new Line(options, {
      path: "account",
      unknown: "unknown_account",
      hear: (message) => this.#hear(message),
      connected: (connection) => tell(this, "connection", connection),
      refused: (error) => {
        tell(this, "error", error);
        this.close();
      },
      aborted: () => this.close(),
    });
    this.#line.open();
  }

  get connection() {
    return this.#line.connection;
  }

  /** Stop watching; nothing follows. */
  close() {
    this.#line.close();
  }

  /** @param {Balance} balance */
  #hear(balance) {
    if (balance.type !== "balance" || !isNews(balance, this.latest)) return;
    this.latest = balance;
    tell(this, "balance", balance);
  }
}

/** @param {{version: unknown}} message @param {{version: number}|null} last */
function isNews({ version }, last) {
  return typeof version === "number" && (!last || version > last.version);
}

/** @param {{dispatchEvent(event: Event): boolean}} target @param {string} type @param {unknown} detail */
function tell(target, type, detail) {
  target.dispatchEvent(new CustomEvent(type, { detail }));
}

/** A worker, or Node.js, has neither window nor document: then nothing wakes us. @returns {Seams} */
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
    return null; // a frame from a proxy, not from us
  }
}

/** @param {ActivationError} error */
function unlessAborted(error) {
  if (error.code !== "aborted") throw error;
}
