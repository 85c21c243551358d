/**
 * The client, with the platform's own WebSocket and fetch, against a server on a real port (package `ws`).
 *
 * Shows that the doubles of world.js tell the truth: subprotocols, close codes, refused handshakes, byes. The clock
 * and the dice are still the test's.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, afterEach, before, beforeEach, test } from "node:test";

import { WebSocketServer } from "ws";

import { activate, watchBalance } from "../../client_demo/paidup_demo/sdk/paidup.js";
import { World, balance, status } from "./world.js";

const same = assert.deepEqual;
const sockets = new WebSocketServer({ noServer: true, handleProtocols: (offered) => [...offered][0] });
const http = createServer();
/** What the server was asked; how it answers a GET; whether it refuses sockets. */
let asked, answer, refusing, blocked, streaming, baseUrl, world, visit;

http.on("request", (request, response) => {
  asked.push(`${request.method} ${request.url}`);
  if (request.url.includes("/events")) {
    streaming = [request.headers["paidup-ticket"], response];
    if (!refusing) return void response.writeHead(200, { "Content-Type": "text/event-stream" }).flushHeaders();
    return void response.writeHead(401, { "Content-Type": "application/problem+json" }).end("{}");
  }
  const [code, body] = request.method === "POST" ? [200, { ticket: `fresh-${asked.length}` }] : answer;
  response.writeHead(code, { "Content-Type": "application/json" }).end(JSON.stringify(body));
});
http.on("upgrade", (request, socket, head) => {
  asked.push(`WS ${request.url} ${request.headers["sec-websocket-protocol"]}`);
  if (refusing || blocked) return void socket.end("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
  sockets.handleUpgrade(request, socket, head, (accepted) => sockets.emit("connection", accepted));
});

before(async () => {
  await once(http.listen(0, "127.0.0.1"), "listening");
  baseUrl = `http://127.0.0.1:${http.address().port}`;
});
beforeEach(() => {
  [asked, answer, world, visit] = [[], [503, {}], new World(), new AbortController()];
  refusing = blocked = false;
  streaming = undefined;
});
afterEach(() => visit.abort());
after(() => {
  http.closeAllConnections();
  http.close();
});

/** The platform's own network, the test's own clock and dice. */
function options() {
  const { setTimeout, clearTimeout, now, random, window, document } = world.seams;
  const seams = { setTimeout, clearTimeout, now, random, window, document };
  return { invoice: "in_1", ticket: "first", baseUrl, signal: visit.signal, seams };
}
const accepted = async () => (await once(sockets, "connection"))[0];
const say = (socket, message) => socket.send(JSON.stringify(message));
/** Time passes once the client has begun to wait. */
async function pause(watching, ms, waiting = "waiting") {
  while (watching.connection !== waiting) await told(watching, "connection");
  await world.clock.advance(ms);
}
const told = (target, type) => new Promise((resolve) => target.addEventListener(type, resolve, { once: true }));

test("the ticket is sent as a subprotocol, and the client closes after the final status", async () => {
  const arriving = accepted();
  const activation = activate(options());
  const socket = await arriving;
  same(asked, ["WS /ws/invoices/in_1 paidup.v1, first"]);
  const verify = once(socket, "message");
  await told(activation, "connection");
  activation.confirmed("succeeded");
  same(JSON.parse((await verify)[0]), { type: "verify" });
  const gone = once(socket, "close");
  say(socket, status(2, "open"));
  say(socket, { type: "heartbeat" });
  say(socket, status(3, "active", { credits_granted: 2000 }));
  same((await activation.finished).credits_granted, 2000);
  await gone;
});

test("a deploy: bye, 1012, and a reconnection with a fresh ticket at the given time", async () => {
  let arriving = accepted();
  const activation = activate(options());
  const first = await arriving;
  arriving = accepted();
  say(first, { type: "bye", reason: "restarting", reconnect_after_ms: 1200 });
  first.close(1012);
  await pause(activation, 1199);
  same(asked.length, 1);
  await world.clock.advance(1);
  const second = await arriving;
  same(asked.slice(1), ["POST /api/invoices/in_1/ticket", "WS /ws/invoices/in_1 paidup.v1, fresh-2"]);
  say(second, status(2, "active"));
  same((await activation.finished).status, "active");
});

test("4408: no new socket, the status is fetched", async () => {
  const arriving = accepted();
  const activation = activate(options());
  answer = [200, status(7, "active")];
  (await arriving).close(4408);
  await pause(activation, 31_000, "polling");
  same((await activation.finished).version, 7);
  same(asked.slice(1), ["GET /api/invoices/in_1"]);
});

test("a handshake that is refused: the status is fetched, then a fresh ticket", async () => {
  refusing = true;
  const arriving = accepted();
  const activation = activate(options());
  while (!asked.includes("GET /api/invoices/in_1")) await once(http, "request");
  refusing = false;
  while (activation.connection === "polling") {
    await world.clock.advance(10); // the answer comes in real time, the pause after it does not
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  say(await arriving, status(2, "active"));
  await activation.finished;
  same(asked.filter((it) => !it.startsWith("WS")), [
    "GET /api/invoices/in_1/events?padding=1", "GET /api/invoices/in_1", "POST /api/invoices/in_1/ticket",
  ]);
});

test("a killed server: 1006 and reconnections, until the final status", async () => {
  let arriving = accepted();
  const activation = activate(options());
  for (let n = 0; n < 2; n++) {
    const socket = await arriving;
    arriving = accepted();
    socket.terminate();
    await pause(activation, 1_000);
  }
  say(await arriving, status(2, "active"));
  same((await activation.finished).status, "active");
});

test("a stream of events, with the ticket that the handshake was refused with (S60)", async () => {
  blocked = true;
  const activation = activate(options());
  while (!streaming) await once(http, "request");
  const [ticket, response] = streaming;
  const event = (message) => `id: ${message.version}\ndata: ${JSON.stringify(message)}\n\n`;
  const all = `retry: 1\n: paidup.v1\n\n${event(status(2, "open"))}: heartbeat\n\n${event(status(3, "active"))}`;
  for (const cut of [40, 60, 200, all.length]) response.write(all.slice(0, cut).slice(response.sent ?? 0)) && (response.sent = cut);
  same([(await activation.finished).status, activation.transport, ticket], ["active", "sse", "first"]);
});

test("a balance without an initial ticket", async () => {
  const arriving = accepted();
  const { invoice: _, ticket: __, ...rest } = options();
  const watch = watchBalance(rest);
  const socket = await arriving;
  const heard = told(watch, "balance");
  say(socket, balance(4, 120));
  same((await heard).detail.balance, 120);
  const gone = once(socket, "close");
  watch.close();
  await gone;
  same(asked, ["POST /api/account/ticket", "WS /ws/account paidup.v1, fresh-1"]);
});
