/** One invoice being watched: when the client connects, what it believes, when it stops. Nothing waits for real time. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { backoff } from "../../client_demo/paidup_demo/sdk/paidup.js";
import { NOTHING, World, settle, status } from "./world.js";

const TICKET = "POST /api/invoices/in_1/ticket";
const same = assert.deepEqual;

test("backoff has full jitter under a growing ceiling (S30)", () => {
  same([0, 1, 2, 5, 6, 50, 5000].map((n) => backoff(n, () => 1)), [500, 1000, 2000, 16000, 20000, 20000, 20000]);
  same(backoff(9, () => 0), 0);
  const drawn = Array.from({ length: 500 }, () => backoff(3));
  assert(Math.min(...drawn) >= 0 && Math.min(...drawn) < 1000);
  assert(Math.max(...drawn) > 3000 && Math.max(...drawn) <= 4000);
});

test("the first connection uses the given ticket, which is never in the URL (S01)", async () => {
  const { socket, requests } = await new World().start();
  same(socket.url, "wss://paidup.test/ws/invoices/in_1");
  same(socket.protocols, ["paidup.v1", "first"]);
  same(requests, []);
});

test("active resolves, and leaves no timer, listener or socket, and does not reconnect (S01)", async () => {
  const world = await new World().start();
  await world.socket.open();
  await world.socket.say(status(2, "open"));
  await world.socket.say(status(3, "active"));
  same(world.left, NOTHING);
  await world.socket.end(1000);
  await world.window.fire("online");
  await world.clock.advance(600_000);
  world.activation.verify();
  world.activation.close();
  same([world.ended, world.sockets.length, world.requests], ["active", 1, []]);
  same(world.heard("stage"), ["verifying", "active"]);
  same(world.heard("connection"), ["open", "closed"]);
});

test("a Checkout Session is watched by its id, and without a ticket of its own at first (S38)", async () => {
  const world = await new World().start({ invoice: undefined, checkout: "cs_test_1", ticket: undefined });
  same(world.requests, ["POST /api/checkout/cs_test_1/ticket"]);
  same(world.socket.url, "wss://paidup.test/ws/checkout/cs_test_1");
  await world.socket.open();
  const told = (version, state, more) => ({ ...status(version, state, more), invoice: undefined, checkout: "cs_test_1" });
  await world.socket.say(told(0, "open", { stage: "awaiting_payment" }));
  await world.socket.say({ ...told(1, "active"), checkout: "cs_test_2" });
  await world.socket.say(told(2, "open", { stage: "unclaimed" }));
  await world.socket.say(told(3, "active", { return_to: "https://shop.test/start" }));
  same(world.heard("stage"), ["awaiting_payment", "unclaimed", "active"]);
  same([world.ended, world.left], ["active", NOTHING]);
});

test("an id that Stripe does not know ends the wait (S49)", async () => {
  const world = new World();
  world.ticket = { status: 404 };
  await world.start({ invoice: undefined, checkout: "cs_test_1", ticket: undefined });
  same([world.ended, world.left], ["unknown_checkout", NOTHING]);
});

test("an older version is ignored; the same version may have a new stage, once (S05)", async () => {
  const world = await new World().start();
  const { socket } = world;
  await socket.open();
  await socket.say(status(4, "processing"));
  await socket.say(status(3, "open"));
  await socket.say(status(4, "processing"));
  await socket.say(status(4, "processing", { stage: "delayed" }));
  await socket.say(status(9, "active", { invoice: "in_2" }));
  await socket.sayText("<html>a proxy's page</html>");
  await socket.say({ type: "something new" });
  same(world.heard("status"), [4, 4]);
  same(world.heard("stage"), ["processing", "delayed"]);
  same(world.activation.status.status, "processing");
});

test("a late success follows a failure: after a failed attempt the socket stays open (S07)", async () => {
  const world = await new World().start();
  await world.socket.open();
  await world.socket.say(status(2, "failed", { error: { code: "card_declined", message: "No." } }));
  same([world.ended, world.left.open], [undefined, 1]);
  await world.socket.say(status(3, "active"));
  same([world.ended, world.heard("stage")], ["active", ["failed", "active"]]);
});

for (const last of ["void", "reversed"]) {
  test(`${last} is final as well`, async () => {
    const world = await new World().start();
    await world.socket.open();
    await world.socket.say(status(2, last));
    same([world.ended, world.left], [last, NOTHING]);
  });
}

test("a bye sets the time of reconnection, which uses a fresh ticket (S30)", async () => {
  const world = await new World().start();
  await world.socket.open();
  await world.socket.say({ type: "bye", reason: "restarting", reconnect_after_ms: 1200 });
  await world.socket.end(1012);
  await world.clock.advance(1199);
  same(world.sockets.length, 1);
  await world.clock.advance(1);
  same([world.tickets, world.requests], [["first", "fresh-1"], [TICKET]]);
});

test("a bye's delay is limited to a minute", async () => {
  const world = await new World().start();
  await world.socket.open();
  await world.socket.say({ type: "bye", reason: "?", reconnect_after_ms: 86_400_000 });
  await world.socket.end(1012);
  await world.clock.advance(60_000);
  same(world.sockets.length, 2);
});

test("each connection has its own ticket; a page can fetch them itself (S28)", async () => {
  let minted = 0;
  const world = await new World().start({ refreshTicket: async () => `own-${++minted}` });
  for (let n = 0; n < 3; n++) {
    await world.socket.open();
    world.clock.sleep(6_000);
    await world.socket.end(1006);
    await world.clock.advance(7_000);
  }
  same([world.tickets, world.requests], [["first", "own-1", "own-2", "own-3"], []]);
});

test("without a ticket one is fetched with the page's headers", async () => {
  const headers = async () => ({ Authorization: "Bearer jwt" });
  const world = await new World().start({ ticket: undefined, headers });
  same([world.requests, world.authorization, world.tickets], [[TICKET], "Bearer jwt", ["fresh-1"]]);
});

test("delays grow while connections are short, and reset after a longer one (S29)", async () => {
  const world = new World();
  world.jitter = 1;
  await world.start();
  const pauses = [];
  for (const lived of [0, 0, 10_000, 0]) {
    await world.socket.open();
    world.clock.sleep(lived);
    await world.socket.end(1006);
    pauses.push(await world.pause());
  }
  same(pauses, [500, 1000, 500, 1000]);
});

test("heartbeats keep a socket open; 35 s of silence close it (S29)", async () => {
  const world = await new World().start();
  const [first] = world.sockets;
  await first.open();
  await first.say(status(1, "open"));
  for (let n = 0; n < 6; n++) {
    await world.clock.advance(15_000);
    await first.say({ type: "heartbeat" });
  }
  same(world.sockets.length, 1);
  await world.clock.advance(34_999);
  same(first.closed, false);
  await world.clock.advance(1);
  same(first.closed, true);
  await world.clock.advance(500);
  same(world.sockets.length, 2);
});

test("a handshake that hangs is aborted, and the status fetched instead", async () => {
  const world = new World();
  world.get = { status: 200, body: status(2, "processing") };
  await world.start();
  await world.clock.advance(8_000);
  const { stage, connection } = world.activation;
  same([world.socket.closed, stage, connection], [true, "processing", "polling"]);
});

for (const trouble of ["down", "hang", { status: 503, headers: { "Retry-After": "7" } }, { status: 429 }]) {
  test(`a failed request is retried: ${JSON.stringify(trouble)} (S33)`, async () => {
    const world = new World();
    world.get = world.ticket = trouble;
    await world.start();
    await world.socket.end(1006);
    await world.clock.advance(90_000);
    same([world.ended, world.heard("error"), world.sockets.length], [undefined, [], 1]);
    world.get = { status: 503 };
    world.ticket = null;
    await world.until(() => world.left.open);
    await world.socket.open();
    await world.socket.say(status(2, "active"));
    same(world.ended, "active");
  });
}

test("Retry-After is respected: no status request before (S34)", async () => {
  const world = new World();
  world.ticket = { status: 503, headers: { "Retry-After": "7" } };
  await world.start({ ticket: undefined });
  await world.clock.advance(7_000);
  same(world.requests, [TICKET]);
  await world.clock.advance(1_000);
  same(world.requests.slice(0, 2), [TICKET, TICKET]);
  same(new Set(world.requests).size, 1);
});

for (const [http, code] of [[401, "unauthorized"], [403, "forbidden"], [404, "unknown_invoice"], [410, "gone"]]) {
  test(`a ${http} is final, and its reason is reported (S28)`, async () => {
    const world = new World();
    world.ticket = { status: http };
    await world.start();
    await world.socket.end(1006);
    await world.clock.advance(60_000);
    const error = await world.activation.finished.catch((it) => it);
    same([error.name, error.code, error.status], ["ActivationError", code, http]);
    same([world.heard("error"), world.left], [[code], NOTHING]);
  });
}

for (const [type, extra] of [["online", {}], ["pageshow", { persisted: true }]]) {
  test(`${type}: a new network or a cached page reconnects immediately (S31)`, async () => {
    const world = await new World().start();
    await world.socket.open();
    await world.window.fire(type, extra);
    same([world.tickets, world.sockets[0].closed, world.left.open], [["first", "fresh-1"], true, 1]);
  });
}

test("a visible tab verifies at once, and expects a frame within 20 s (S31)", async () => {
  const world = await new World().start();
  const { socket } = world;
  await socket.open();
  world.clock.sleep(10_000);
  world.document.visibilityState = "hidden";
  await world.document.fire("visibilitychange");
  same(socket.sent, []);
  world.document.visibilityState = "visible";
  await world.document.fire("visibilitychange");
  same(socket.sent, ["verify"]);
  await world.window.fire("pageshow", { persisted: false });
  await world.clock.advance(20_000);
  same(socket.closed, true);
});

test("a tab that was suspended for long replaces its socket (S31)", async () => {
  const world = await new World().start();
  await world.socket.open();
  world.clock.sleep(3_600_000);
  await world.document.fire("visibilitychange");
  const [first, second] = world.sockets;
  await second.open();
  await second.say(status(2, "active"));
  same([first.closed, first.sent, world.sockets.length, world.ended], [true, [], 2, "active"]);
});

test("a wake-up ends the pause early (S31)", async () => {
  const world = new World();
  world.jitter = 1;
  await world.start();
  await world.socket.open();
  await world.socket.end(1006);
  same([world.sockets.length, world.activation.connection], [1, "waiting"]);
  await world.document.fire("visibilitychange");
  same([world.sockets.length, world.activation.connection], [2, "connecting"]);
});

test("thirty seconds after the confirmation the stage is delayed, until a new status arrives (S06)", async () => {
  const world = await new World().start();
  const { activation, clock, socket } = world;
  await socket.open();
  await socket.say(status(2, "open"));
  await clock.advance(2_000);
  activation.confirmed("succeeded");
  await clock.advance(29_999);
  same(activation.stage, "verifying");
  await clock.advance(1);
  same(activation.stage, "delayed");
  await socket.say(status(2, "open", { stage: "awaiting_payment" }));
  await socket.say(status(3, "open", { stage: "verifying" }));
  same(activation.stage, "delayed");
  activation.verify();
  same(activation.stage, "verifying");
  await clock.advance(30_000);
  await socket.say(status(4, "active"));
  same(world.heard("stage"), ["verifying", "delayed", "verifying", "delayed", "active"]);
  same(socket.sent, ["verify", "verify"]);
});

for (const intent of [null, "requires_payment_method", "canceled"]) {
  test(`nobody who has not paid is told that their payment is safe: ${intent} (S06)`, async () => {
    const world = await new World().start();
    const { activation, clock, socket } = world;
    await socket.open();
    await socket.say(status(1, "open", { stage: "verifying" }));
    if (intent) activation.confirmed(intent);
    await clock.advance(30_000);
    same(activation.stage, "verifying");
    await socket.say(status(1, "open", { stage: "awaiting_payment" }));
    for (let check = 0; check < 6; check++) {
      await clock.advance(20_000);
      await socket.say({ type: "heartbeat" });
      await socket.say(status(1, "open", { stage: "awaiting_payment" }));
    }
    await socket.end(4408);
    same(world.heard("stage"), ["verifying", "awaiting_payment"]);
  });
}

test("after confirmed() what the server has not seen yet is verifying, from the card to the credits", async () => {
  const world = await new World().start();
  const { activation, socket } = world;
  await socket.open();
  await socket.say(status(1, "open", { stage: "verifying" }));
  await socket.say(status(1, "open", { stage: "awaiting_payment" }));
  activation.confirmed("succeeded");
  await socket.say(status(1, "open", { stage: "verifying" }));
  await socket.say(status(1, "open", { stage: "awaiting_payment" }));
  await socket.say(status(2, "active"));
  same(world.heard("stage"), ["verifying", "awaiting_payment", "verifying", "active"]);
});

test("a confirmation fifty seconds ago, before a reload, is delayed at once", async () => {
  const world = await new World().start();
  world.activation.confirmed("succeeded", world.clock.time - 50_000);
  await settle();
  same(world.heard("stage"), ["delayed"]);
});

test("an attempt that failed after confirmed() ends its claim", async () => {
  const world = await new World().start();
  const { activation, clock, socket } = world;
  await socket.open();
  await socket.say(status(1, "open", { stage: "awaiting_payment" }));
  activation.confirmed("processing");
  await socket.say(status(2, "failed"));
  await socket.say(status(3, "open", { stage: "awaiting_payment" }));
  await clock.advance(30_000);
  same(activation.stage, "awaiting_payment");
});

test("a stage of a later server is shown by its status", async () => {
  const { activation, socket } = await new World().start();
  await socket.open();
  for (const [name, stage] of [
    ["open", "verifying"],
    ["requires_action", "action_required"],
    ["processing", "processing"],
    ["reversed", "void"],
  ]) {
    await socket.say(status((activation.status?.version ?? 0) + 1, name, { stage: "something_new" }));
    same(activation.stage, stage);
  }
});

test("the stage becomes delayed even without any response (S06)", async () => {
  const world = new World();
  world.get = world.ticket = "down";
  await world.start();
  await world.socket.end(1006);
  world.activation.confirmed("succeeded");
  await world.clock.advance(30_000);
  same(world.activation.stage, "delayed");
});

test("after 4408 the client polls slowly, and gets the status days later (S24)", async () => {
  const world = new World();
  world.get = { status: 200, body: status(1, "open") };
  await world.start();
  await world.socket.open();
  world.activation.confirmed("succeeded");
  await world.socket.end(4408);
  same(world.activation.stage, "delayed");
  await world.clock.advance(600_000);
  assert(world.requests.length >= 10 && world.requests.length <= 21);
  same(world.sockets.length, 1);
  world.get = { status: 200, body: status(2, "active") };
  await world.clock.advance(60_000);
  same(world.ended, "active");
});

test("verify() after 4408 opens a socket (S07)", async () => {
  const world = new World();
  world.get = { status: 200, body: status(1, "open") };
  await world.start();
  await world.socket.open();
  await world.socket.end(4408);
  world.activation.verify();
  await settle();
  same(world.tickets, ["first", "fresh-1"]);
});

test("a failure after confirmed() belongs to the earlier attempt (S06)", async () => {
  const world = await new World().start();
  const { activation, socket } = world;
  activation.confirmed("succeeded");
  await socket.open();
  await socket.say(status(2, "failed"));
  same(activation.stage, "verifying");
  await socket.say(status(3, "requires_action"));
  same(activation.stage, "verifying");
  await world.clock.advance(30_000);
  same(activation.stage, "delayed");
  await socket.say(status(4, "active"));
  same(world.ended, "active");
});

test("a processing payment may still fail: earlier failures are hidden, later ones are not (S24)", async () => {
  const { activation, socket } = await new World().start();
  await socket.open();
  await socket.say(status(2, "failed"));
  same(activation.stage, "failed");
  activation.confirmed("processing");
  same(activation.stage, "verifying");
  await socket.say(status(3, "processing"));
  await socket.say(status(4, "failed"));
  same([activation.stage, socket.sent], ["failed", ["verify"]]);
});

test("a clean close without a final status fetches it (S05)", async () => {
  const world = new World();
  world.get = { status: 200, body: status(5, "active") };
  await world.start();
  await world.socket.open();
  await world.socket.end(1000);
  same([world.ended, world.requests], ["active", ["GET /api/invoices/in_1"]]);
});

const CLOSING_POINTS = {
  connecting: () => {},
  open: ({ socket }) => socket.open(),
  pausing: ({ socket }) => socket.end(1006),
  asking: (world) => ((world.get = "hang"), world.socket.end(1006)),
};
for (const [name, point] of Object.entries(CLOSING_POINTS)) {
  test(`aborting while ${name} leaves nothing behind`, async () => {
    const control = new AbortController();
    const world = await new World().start({ signal: control.signal });
    await point(world);
    control.abort();
    await settle();
    same(world.left, NOTHING);
    await world.clock.advance(600_000);
    same([world.ended, world.sockets.length, world.heard("error")], ["aborted", 1, []]);
  });
}

test("a signal aborted before the start opens nothing", async () => {
  const world = await new World().start({ signal: AbortSignal.abort() });
  same([world.ended, world.left], ["aborted", NOTHING]);
});

test("iterating yields each status and ends; a slow reader sees the newest", async () => {
  const { activation, socket } = await new World().start();
  const versions = [];
  const reading = (async () => {
    for await (const { version } of activation) versions.push(version);
  })();
  await socket.open();
  await socket.say(status(1, "open"));
  await socket.say(status(2, "processing"));
  socket.say(status(3, "open"));
  socket.say(status(4, "failed"));
  await settle();
  await socket.say(status(5, "active"));
  await reading;
  same(versions, [1, 2, 4, 5]);
});

test("iterating throws a final error, and ends on close", async () => {
  const read = async ({ activation }) => {
    for await (const _ of activation);
    return "left";
  };
  const closed = await new World().start();
  const reading = read(closed);
  closed.activation.close();
  same(await reading, "left");
  const refused = new World();
  refused.ticket = { status: 410 };
  await assert.rejects(read(await refused.start({ ticket: undefined })), { code: "gone" });
});

test("an address with a path keeps it, with or without a slash at its end", async () => {
  for (const baseUrl of ["http://paidup.test/pay", "http://paidup.test/pay/"])
    same((await new World().start({ baseUrl })).socket.url, "ws://paidup.test/pay/ws/invoices/in_1");
});
