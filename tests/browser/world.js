// What a test of paidup.js plays in: a socket, a server and a clock that it holds in its hand.
//
// Owns the doubles of the client's seams. `settle` lets every promise that can go on go on, without a real wait.
import { activate, backoff, watchBalance } from "/paidup.js";

const settle = async () => {
  for (let turn = 0; turn < 5; turn++) {
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => { port1.close(); resolve(); };
      port2.postMessage(null);
    });
  }
};

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
  sleep(ms) { this.time += ms; } // a machine asleep: time passes, no timer runs
}

class Target extends EventTarget {
  visibilityState = "visible";
  listeners = 0;
  addEventListener(...given) { this.listeners++; super.addEventListener(...given); }
  removeEventListener(...given) { this.listeners--; super.removeEventListener(...given); }
  fire(type, extra = {}) { this.dispatchEvent(Object.assign(new Event(type), extra)); return settle(); }
}

const world = window.world = {
  settle, backoff,
  clock: new Clock(), window: new Target(), document: new Target(),
  sockets: [], requests: [], told: [], jitter: 0.5,
  get: { status: 503 }, ticket: null,
  status: (version, status, more = {}) => ({
    type: "status", invoice: "in_1", version, status, plan: "pro", credits_granted: 0, balance: 0, via: null,
    stage: status === "open" ? "verifying" : status, at: "2026-11-23T09:00:00.000Z", error: null, ...more,
  }),
  balance: (version, balance) => ({ type: "balance", version, balance, at: "2026-11-23T09:00:00.000Z" }),
  seams() {
    const { clock } = world;
    return {
      WebSocket: Socket, fetch, window: world.window, document: world.document, random: () => world.jitter,
      setTimeout: clock.setTimeout, clearTimeout: clock.clearTimeout, now: () => clock.time,
    };
  },
  listen(target) {
    for (const type of ["status", "stage", "balance", "connection", "error"]) {
      target.addEventListener(type, ({ detail }) =>
        world.told.push([type, detail?.version ?? detail?.code ?? detail]));
    }
    return target;
  },
  watch(options = {}) {
    world.watching = world.listen(watchBalance({ seams: world.seams(), ...options }));
    return settle();
  },
  start(options = {}) {
    const given = { invoice: "in_1", ticket: "first", seams: world.seams(), ...options };
    const activation = world.activation = world.listen(activate(given));
    activation.finished.then(({ status }) => (world.ended = status), ({ code }) => (world.ended = code));
    return settle();
  },
  heard: (type) => world.told.filter(([kind]) => kind === type).map(([, detail]) => detail),
  socket: () => world.sockets.at(-1),
  left: () => ({
    timers: world.clock.timers.size, listeners: world.window.listeners + world.document.listeners,
    open: world.sockets.filter((socket) => !socket.closed).length,
  }),
};

class Socket {
  sent = [];
  closed = false;
  constructor(url, protocols) { Object.assign(this, { url, protocols }); world.sockets.push(this); }
  send(text) { this.sent.push(JSON.parse(text).type); }
  close() { this.closed = true; }
  open() { this.onopen?.({}); return settle(); }
  say(message) { return this.sayText(JSON.stringify(message)); }
  sayText(data) { this.onmessage?.({ data }); return settle(); }
  end(code) { this.closed = true; this.onclose?.({ code }); return settle(); }
}

async function fetch(url, { method, headers, signal }) {
  const { pathname } = new URL(url);
  world.requests.push(`${method} ${pathname}`);
  world.authorization = headers.get("Authorization");
  const count = world.requests.filter((request) => request.startsWith("POST")).length;
  const ticket = { status: 200, body: { ticket: `fresh-${count}` } };
  const answer = method === "GET" ? world.get : world.ticket ?? ticket;
  if (answer === "hang") {
    return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  }
  if (answer === "down") throw new TypeError("Failed to fetch");
  return new Response(JSON.stringify(answer.body ?? {}), { status: answer.status, headers: answer.headers });
}
window.ready = true;
