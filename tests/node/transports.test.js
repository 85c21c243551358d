/** Networks that let no WebSocket through: which transport the client uses, when it changes it, and what it remembers. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { NOTHING, World, balance, status } from "./world.js";

const same = assert.deepEqual;
const KEY = "paidup:transport:https://paidup.test";
const MEMORY_MS = 15 * 60_000;

/** A world whose proxy refuses upgrades, with a stream open. */
async function streaming(options) {
  const world = new World();
  world.events = "stream";
  await world.start(options);
  await world.socket.end(1006);
  await world.stream.open();
  return world;
}

test("a refused upgrade is followed by a stream at once, with the same ticket in a header (S60)", async () => {
  const world = await streaming();
  const { stream, activation } = world;
  same([stream.path, stream.query, stream.ticket], ["/api/invoices/in_1/events", "?padding=1", "first"]);
  same([activation.transport, activation.connection, world.requests], ["sse", "open", []]);
  await stream.say(status(2, "open"));
  await stream.text(": heartb");
  await stream.text("eat\n\ndata: ");
  await stream.text(JSON.stringify(status(3, "active")) + "\n\n");
  same([world.ended, world.heard("status"), world.heard("transport")], ["active", [2, 3], ["sse"]]);
  same(world.left, NOTHING);
  await world.clock.advance(600_000);
  same([world.sockets.length, world.streams.length], [1, 1]);
});

test("what worked is remembered in all pages of the origin, and a better one is tried again later (S60)", async () => {
  const first = await streaming();
  same(first.stored.get(KEY), `sse ${first.clock.time + MEMORY_MS}`);
  const second = new World();
  Object.assign(second, { stored: first.stored, events: "stream" });
  await second.start();
  same([second.sockets.length, second.streams.length], [0, 1]);
  second.clock.sleep(MEMORY_MS);
  await second.stream.cut();
  await second.clock.advance(500);
  same(second.sockets.length, 1);
  await second.socket.open();
  await second.socket.say(status(2, "open"));
  same([second.activation.transport, second.stored.size], ["websocket", 0]);
});

for (const [trouble, storage] of [
  ["nonsense", { getItem: () => "pigeon 99", setItem() {}, removeItem() {} }],
  ["of a clock that was wrong", { getItem: () => "sse 99999999999999", setItem() {}, removeItem() {} }],
  ["forbidden", { getItem: () => { throw new Error("no"); }, setItem: () => { throw new Error("no"); } }],
]) {
  test(`a memory that cannot be used changes nothing: ${trouble}`, async () => {
    const world = new World();
    world.events = "stream";
    await world.start({ seams: { ...world.seams, storage } });
    same(world.sockets.length, 1);
    await world.socket.end(1006);
    await world.stream.open();
    same(world.activation.transport, "sse");
  });
}

test("a socket that opens and stays silent is given up for a stream (S60)", async () => {
  const world = new World();
  world.events = "stream";
  await world.start();
  await world.socket.open();
  await world.clock.advance(9_999);
  same(world.left.open, 1);
  await world.clock.advance(1);
  await world.stream.open();
  same([world.sockets[0].closed, world.left.open, world.activation.transport], [true, 1, "sse"]);
});

test("sockets that are cut at once three times are given up, not those that lived or were told to go (S60)", async () => {
  const world = new World();
  world.events = "stream";
  await world.start();
  const cut = async (lived, bye) => {
    const { socket } = world;
    await socket.open();
    await socket.say(status(1, "open"));
    world.clock.sleep(lived);
    if (bye) await socket.say({ type: "bye", reason: "restarting", reconnect_after_ms: 1 });
    await socket.end(bye ? 1012 : 1006);
    await world.until(() => world.left.open);
  };
  for (const [lived, bye] of [[0], [0], [6_000], [0], [0], [0, true], [0], [0]]) await cut(lived, bye);
  same([world.sockets.length, world.streams.length], [9, 0]);
  await cut(0);
  same([world.sockets.length, world.streams.length], [9, 1]);
});

for (const [what, events] of [
  ["an older server", { status: 404 }],
  ["a page of a proxy's", { status: 200, body: "<html>", headers: { "Content-Type": "text/html" } }],
  ["a proxy that refuses", { status: 403, headers: { "Content-Type": "text/html" } }],
  ["a connection that is cut", "down"],
  ["a response that never begins", "hang"],
]) {
  test(`no stream either: a long poll, each with the version that is known: ${what} (S60)`, async () => {
    const world = new World();
    world.events = events;
    world.get = { status: 200, body: status(1, "open") };
    await world.start();
    await world.socket.end(1006);
    if (events === "hang") {
      await world.clock.advance(7_999);
      same(world.waits, []);
      world.get = { status: 200, body: status(1, "open") };
      await world.clock.advance(1);
    }
    same(world.waits, ["", "?wait=25&version=1"]);
    same([world.activation.transport, world.activation.connection], ["long_poll", "polling"]);
    world.get = { status: 200, body: status(2, "active") };
    await world.clock.advance(1_000);
    same([world.ended, world.left, world.sockets.length], ["active", NOTHING, 1]);
  });
}

test("a response that begins and is held back is given up after eight seconds (S60)", async () => {
  const world = new World();
  world.events = "stream";
  world.get = "hang";
  await world.start();
  await world.socket.end(1006);
  await world.clock.advance(8_000);
  same([world.stream.closed, world.requests, world.activation.connection], [true, ["GET /api/invoices/in_1"], "polling"]);
});

test("long polls follow each other at once while each waits, and there is one at a time (S60)", async () => {
  const world = new World();
  world.get = { status: 200, body: status(1, "open") };
  await world.start();
  await world.socket.end(1006);
  world.get = "hang";
  await world.clock.advance(1_000);
  same(world.waits.length, 3, "the second was answered at once, without news: a pause");
  await world.clock.advance(30_000);
  same([world.waits.length, world.left], [3, { timers: 1, listeners: 3, open: 0 }]);
  await world.document.fire("visibilitychange");
  same(world.waits.length, 4, "a page that is visible again asks again");
});

test("long polls that are cut three times are given up for a GET now and then (S60)", async () => {
  const world = new World();
  world.get = { status: 200, body: status(1, "open") };
  world.jitter = 1;
  await world.start();
  await world.socket.end(1006);
  world.get = "down";
  await world.until(() => world.stored.get(KEY)?.startsWith("poll "));
  same(new Set(world.waits.slice(1)).size, 1);
  const waits = world.waits.length;
  world.get = { status: 200, body: status(1, "open") };
  await world.clock.advance(60_000);
  same([world.activation.transport, new Set(world.waits.slice(waits))], ["poll", new Set([""])]);
  assert(world.waits.length - waits < 8, "with growing pauses");
});

test("while nothing gets through, nothing is remembered (S29)", async () => {
  const world = new World();
  Object.assign(world, { events: "down", get: "down" });
  await world.start();
  for (let n = 0; n < 4; n++) {
    await world.socket.end(1006);
    await world.until(() => world.left.open);
  }
  same([world.stored.size, world.sockets.length, world.activation.transport], [0, 5, null]);
});

test("a ticket that is not valid any more is replaced, and says nothing of the network (S28)", async () => {
  const world = new World();
  world.events = { status: 401, headers: { "Content-Type": "application/problem+json" } };
  await world.start();
  await world.socket.end(1006);
  await world.clock.advance(500);
  same([world.tickets, world.stored.size], [["first", "fresh-1"], 0]);
});

test("a limit is respected: the stream's Retry-After, and no request before (S34)", async () => {
  const world = new World();
  world.events = { status: 429, headers: { "Retry-After": "7", "Content-Type": "application/problem+json" } };
  await world.start();
  await world.socket.end(1006);
  await world.clock.advance(6_999);
  same([world.requests, world.sockets.length], [[], 1]);
  await world.clock.advance(1);
  same([world.requests.length, world.sockets.length], [1, 2]);
});

test("a stream's bye sets the time of reconnection; the version that is known goes with it (S30)", async () => {
  const world = await streaming();
  await world.stream.say(status(4, "processing"));
  await world.stream.text('retry: 1200\ndata: {"type":"bye","reason":"restarting","reconnect_after_ms":1200}\n\n');
  await world.stream.end();
  same(world.activation.connection, "waiting");
  await world.clock.advance(1_199);
  same(world.streams.length, 1);
  await world.clock.advance(1);
  same([world.streams.length, world.stream.query, world.stream.ticket], [2, "?padding=1&version=4", "fresh-1"]);
});

test("a stream that waited too long is followed by GET (S06)", async () => {
  const world = await streaming();
  world.get = { status: 200, body: status(7, "active") };
  await world.stream.text('data: {"type":"bye","reason":"waited too long","reconnect_after_ms":5000}\n\n');
  await world.stream.end();
  await world.clock.advance(31_000);
  same([world.ended, world.requests, world.waits], ["active", ["GET /api/invoices/in_1"], [""]]);
});

test("heartbeats keep a stream open; 35 s of silence close it (S29)", async () => {
  const world = await streaming();
  for (let n = 0; n < 4; n++) {
    await world.clock.advance(15_000);
    await world.stream.text(": heartbeat\n\n");
  }
  await world.clock.advance(34_999);
  same([world.streams.length, world.left.open], [1, 1]);
  await world.clock.advance(1_000);
  same([world.streams.length, world.left.open, world.streams[0].closed], [2, 1, true]);
});

test("verify() and a visible page reconnect a stream, at most once a second (S31)", async () => {
  const world = await streaming();
  world.activation.verify();
  same(world.streams.length, 1, "it was verified when it was opened");
  await world.clock.advance(1_000);
  world.activation.confirmed("succeeded");
  world.activation.verify();
  await world.until(() => world.streams.length === 2);
  await world.stream.open();
  await world.document.fire("visibilitychange");
  same(world.streams.length, 2);
  await world.clock.advance(1_000);
  await world.document.fire("visibilitychange");
  same([world.streams.length, world.left.open], [3, 1]);
});

test("another network forgets what worked in the last one (S31)", async () => {
  const world = await streaming();
  await world.window.fire("online");
  same([world.streams[0].closed, world.sockets.length, world.stored.size], [true, 2, 0]);
});

test("where the page itself may not read the status, tickets decide (S28)", async () => {
  const world = new World();
  world.get = { status: 401 };
  await world.start({ refreshTicket: async () => "own" });
  await world.socket.end(1006);
  await world.clock.advance(1_000);
  same([world.ended, world.tickets], [undefined, ["first", "own"]]);
});

test("a balance is streamed too, and never polled (S60)", async () => {
  const world = new World();
  world.events = "stream";
  await world.watch();
  await world.socket.end(1006);
  await world.stream.open();
  await world.stream.say(balance(4, 120));
  await world.stream.cut();
  await world.clock.advance(500);
  await world.stream.open();
  await world.stream.say(balance(4, 120));
  await world.stream.say(balance(5, 110));
  same([world.heard("balance"), world.heard("transport"), world.waits], [[4, 5], ["sse"], []]);
  same(world.stream.path, "/api/account/events");
  world.watching.close();
  same(world.left, NOTHING);
});

test("closing ends a stream, and a request that is under way", async () => {
  const streams = await streaming();
  streams.activation.close();
  const polls = new World();
  polls.get = "hang";
  await polls.start();
  await polls.socket.end(1006);
  polls.activation.close();
  await polls.clock.advance(60_000);
  same([streams.left, polls.left, polls.requests.length], [NOTHING, NOTHING, 1]);
});
