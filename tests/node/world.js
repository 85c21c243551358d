/**
 * The test environment of paidup.js: a socket, a server and a clock that the test controls.
 *
 * Doubles for the client's seams. `settle` runs all pending promises, without a real wait.
 */
import { activate, watchBalance } from "../../client_demo/paidup_demo/sdk/paidup.js";

export const NOTHING = { timers: 0, listeners: 0, open: 0 };

export async function settle() {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** A status frame of `in_1`. */
export const status = (version, status, more = {}) => ({
  type: "status", invoice: "in_1", version, status, plan: "pro", credits_granted: 0, balance: 0, via: null,
  stage: { open: "verifying", requires_action: "action_required" }[status] ?? status,
  at: "2026-11-23T09:00:00.000Z", error: null, ...more,
});

/** A balance frame. */
export const balance = (version, balance) => ({ type: "balance", version, balance, at: "2026-11-23T09:00:00.000Z" });

class Clock {
  time = 1_000_000;
  timers = new Map();
  last = 0;
  setTimeout = (run, ms) => (this.timers.set(++this.last, { at: this.time + ms, run }), this.last);
  clearTimeout = (id) => void this.timers.delete(id);
  async advance(ms) {
    const until = this.time + ms;
    for (;;) {
      const due = [...this.timers].filter(([, { at }]) => at <= until).sort(([, a], [, b]) => a.at - b.at)[0];
      if (!due) break;
      this.timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].run();
      await settle();
    }
    this.time = until;
    await settle();
  }
  sleep(ms) { this.time += ms; } // a suspended machine: time passes, no timer runs
}

class Target extends EventTarget {
  visibilityState = "visible";
  listeners = 0;
  addEventListener(...given) { this.listeners++; super.addEventListener(...given); }
  removeEventListener(...given) { this.listeners--; super.removeEventListener(...given); }
  fire(type, extra = {}) { this.dispatchEvent(Object.assign(new Event(type), extra)); return settle(); }
}

class Socket {
  sent = [];
  closed = false;
  constructor(url, protocols) { Object.assign(this, { url, protocols }); }
  send(text) { this.sent.push(JSON.parse(text).type); }
  close() { this.closed = true; }
  open() { this.onopen?.({}); return settle(); }
  say(message) { return this.sayText(JSON.stringify(message)); }
  sayText(data) { this.onmessage?.({ data }); return settle(); }
  end(code) { this.closed = true; this.onclose?.({ code }); return settle(); }
}

/** A stream of server-sent events. It is cut with an error, or ended. */
class Stream {
  closed = false;
  constructor(url, { headers, signal }) {
    const { pathname, search } = new URL(url);
    Object.assign(this, { path: pathname, query: search, ticket: headers["Paidup-Ticket"] });
    this.body = new ReadableStream({ start: (controller) => (this.controller = controller) });
    signal.addEventListener("abort", () => this.cut(signal.reason));
  }
  get response() { return new Response(this.body, { headers: { "Content-Type": "text/event-stream" } }); }
  open() { return this.text("retry: 1000\n: paidup.v1\n\n"); }
  say(message) { return this.text(`id: ${message.version}\ndata: ${JSON.stringify(message)}\n\n: ${" ".repeat(4096)}\n\n`); }
  text(text) { this.controller.enqueue(new TextEncoder().encode(text)); return settle(); }
  cut(reason = new TypeError("network error")) {
    if (!this.closed) this.controller.error(reason);
    this.closed = true;
    return settle();
  }
  end() { this.closed = true; this.controller.close(); return settle(); }
}

/**
 * The environment of one test. `get`, `ticket` and `events` are the server's responses: {status, body, headers}, "hang"
 * or "down"; `events` may be "stream". With `events` as it is, the server is one without streams.
 */
export class World {
  clock = new Clock();
  window = new Target();
  document = new Target();
  sockets = [];
  requests = [];
  told = [];
  jitter = 0.5;
  get = { status: 503 };
  ticket = null;
  events = { status: 404 };
  streams = [];
  waits = [];
  stored = new Map();

  get seams() {
    const { clock, sockets } = this;
    return {
      WebSocket: class extends Socket {
        constructor(...given) { super(...given); sockets.push(this); }
      },
      fetch: (url, init) => this.#fetch(url, init), window: this.window, document: this.document,
      random: () => this.jitter,
      storage: {
        getItem: (key) => this.stored.get(key) ?? null, setItem: (key, value) => void this.stored.set(key, value),
        removeItem: (key) => void this.stored.delete(key),
      },
      setTimeout: clock.setTimeout, clearTimeout: clock.clearTimeout, now: () => clock.time,
    };
  }
  get socket() { return this.sockets.at(-1); }
  get stream() { return this.streams.at(-1); }
  get tickets() { return this.sockets.map(({ protocols }) => protocols[1]); }
  /** What is still open or scheduled. */
  get left() {
    return {
      timers: this.clock.timers.size, listeners: this.window.listeners + this.document.listeners,
      open: [...this.sockets, ...this.streams].filter(({ closed }) => !closed).length,
    };
  }
  heard(type) { return this.told.filter(([kind]) => kind === type).map(([, detail]) => detail); }

  async start(options = {}) {
    const given = { invoice: "in_1", ticket: "first", baseUrl: "https://paidup.test", seams: this.seams, ...options };
    this.activation = this.#listen(activate(given));
    this.activation.finished.then(({ status }) => (this.ended = status), ({ code }) => (this.ended = code));
    await settle();
    return this;
  }
  async watch(options = {}) {
    this.watching = this.#listen(watchBalance({ baseUrl: "https://paidup.test", seams: this.seams, ...options }));
    await settle();
    return this;
  }
  /** How long the client pauses, in ms, until it has opened its next socket. */
  async pause() {
    const began = this.clock.time, before = this.sockets.length;
    while (this.sockets.length === before) await this.clock.advance(100);
    return this.clock.time - began;
  }
  /** Time passes until then. */
  async until(condition) {
    for (const began = this.clock.time; !condition(); await this.clock.advance(100)) {
      if (this.clock.time - began > 600_000) throw new Error(`never: ${condition}`);
    }
  }

  #listen(target) {
    for (const type of ["status", "stage", "balance", "connection", "transport", "error"]) {
      target.addEventListener(type, ({ detail }) =>
        this.told.push([type, detail?.version ?? detail?.code ?? detail]));
    }
    return target;
  }
  async #fetch(url, { method = "GET", headers, signal }) {
    if (new URL(url).pathname.endsWith("/events")) {
      const stream = new Stream(url, { headers, signal });
      if (this.events === "stream") return this.streams.push(stream), stream.response;
      return this.#answer(this.events, signal);
    }
    if (method === "GET") this.waits.push(new URL(url).search);
    this.requests.push(`${method} ${new URL(url).pathname}`);
    this.authorization = headers.get("Authorization");
    const count = this.requests.filter((request) => request.startsWith("POST")).length;
    const ticket = { status: 200, body: { ticket: `fresh-${count}` } };
    return this.#answer(method === "GET" ? this.get : this.ticket ?? ticket, signal);
  }
  async #answer(answer, signal) {
    if (answer === "hang")
      return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    if (answer === "down") throw new TypeError("Failed to fetch");
    return new Response(JSON.stringify(answer.body ?? {}), { status: answer.status, headers: answer.headers });
  }
}
