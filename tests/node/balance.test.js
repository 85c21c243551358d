/** An account's balance being watched, by the same line as an invoice, but with no end of its own. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { NOTHING, World, balance, settle, status } from "./world.js";

const TICKET = "POST /api/account/ticket";
const same = assert.deepEqual;

test("the ticket names the customer; the current balance comes first, then each change, once", async () => {
  const world = await new World().watch({ headers: { Authorization: "Bearer jwt" } });
  const { socket } = world;
  same([socket.url, socket.protocols], ["wss://paidup.test/ws/account", ["paidup.v1", "fresh-1"]]);
  same([world.requests, world.authorization], [[TICKET], "Bearer jwt"]);
  await socket.open();
  for (const [version, credits] of [[4, 120], [4, 120], [6, -5], [5, 90]]) await socket.say(balance(version, credits));
  await socket.say(status(9, "active"));
  await socket.say({ type: "balance" });
  await socket.sayText("<html>a proxy's page</html>");
  same(world.heard("balance"), [4, 6]);
  same([world.watching.latest.balance, world.watching.connection], [-5, "open"]);
});

test("version zero is a balance too, of an account that has no entry yet", async () => {
  const world = await new World().watch();
  await world.socket.open();
  await world.socket.say(balance(0, 0));
  same(world.heard("balance"), [0]);
});

for (const code of [4408, 1012, 1006, 1000]) {
  test(`after ${code} it reconnects with a fresh ticket, and never polls (S30)`, async () => {
    const world = await new World().watch({ ticket: "first" });
    await world.socket.open();
    await world.socket.say(balance(4, 120));
    await world.socket.say({ type: "bye", reason: "?", reconnect_after_ms: 1200 });
    await world.socket.end(code);
    await world.clock.advance(1199);
    same(world.sockets.length, 1);
    await world.clock.advance(1);
    await world.socket.open();
    await world.socket.say(balance(4, 120));
    await world.socket.say(balance(5, 110));
    same([world.tickets, world.requests], [["first", "fresh-1"], [TICKET]]);
    same(world.heard("balance"), [4, 5]);
    same(world.heard("connection"), ["open", "waiting", "connecting", "open"]);
  });
}

test("a refused handshake is retried with a fresh ticket, after growing pauses (S28)", async () => {
  const world = new World();
  world.jitter = 1;
  await world.watch({ ticket: "expired" });
  const pauses = [];
  for (let n = 0; n < 3; n++) {
    await world.socket.end(1006);
    pauses.push(await world.pause());
  }
  same(pauses, [500, 1000, 2000]);
  same(world.tickets, ["expired", "fresh-1", "fresh-2", "fresh-3"]);
  same(new Set(world.requests).size, 1);
});

for (const [http, code] of [[401, "unauthorized"], [403, "forbidden"], [404, "unknown_account"], [410, "gone"]]) {
  test(`a ticket refused by ${http} reports the reason (S28)`, async () => {
    const world = new World();
    world.ticket = { status: http };
    await world.watch();
    await world.clock.advance(60_000);
    same([world.heard("error"), world.watching.connection], [[code], "closed"]);
    same([world.requests.length, world.left], [1, NOTHING]);
  });
}

for (const trouble of ["down", "hang", { status: 503 }, { status: 429 }]) {
  test(`the balance is requested again while the server is down: ${JSON.stringify(trouble)} (S33)`, async () => {
    const world = new World();
    world.ticket = trouble;
    await world.watch();
    await world.clock.advance(90_000);
    same([world.heard("error"), world.sockets.length], [[], 0]);
    world.ticket = null;
    await world.clock.advance(60_000);
    await world.socket.open();
    await world.socket.say(balance(4, 120));
    same(world.heard("balance"), [4]);
  });
}

for (const [type, extra] of [["online", {}], ["pageshow", { persisted: true }]]) {
  test(`${type}: the balance reconnects on another network (S31)`, async () => {
    const world = await new World().watch();
    await world.socket.open();
    await world.window.fire(type, extra);
    same([world.sockets[0].closed, world.sockets.length, world.left.open], [true, 2, 1]);
  });
}

test("a visible balance expects a heartbeat within 20 s, and requests nothing (S31)", async () => {
  const world = await new World().watch();
  const [first] = world.sockets;
  await first.open();
  world.clock.sleep(10_000);
  await world.document.fire("visibilitychange");
  await world.clock.advance(19_999);
  same(first.closed, false);
  await world.clock.advance(1);
  same([first.closed, first.sent], [true, []]);
});

const CLOSING_POINTS = {
  connecting: () => {},
  open: ({ socket }) => socket.open(),
  pausing: ({ socket }) => socket.end(1006),
  asking: async (world) => {
    world.ticket = "hang";
    await world.socket.end(1006);
    await world.clock.advance(500);
  },
};
for (const [name, point] of Object.entries(CLOSING_POINTS)) {
  for (const how of ["close", "abort"]) {
    test(`a balance closed by ${how} while ${name} leaves nothing behind`, async () => {
      const control = new AbortController();
      const world = await new World().watch({ signal: control.signal });
      await point(world);
      how === "close" ? world.watching.close() : control.abort();
      await settle();
      same(world.left, NOTHING);
      const sockets = world.sockets.length;
      await world.clock.advance(600_000);
      same([world.sockets.length - sockets, world.watching.connection, world.heard("error")], [0, "closed", []]);
    });
  }
}
