/** What a customer may use, kept by the page: asked for once, and again when something has changed. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { EntitlementsCache, EntitlementsError, allows, has } from "../../client_demo/paidup_demo/sdk/entitlements.js";

const same = assert.deepEqual;

/** A server with one customer, and a clock. */
class Server {
  version = 1;
  time = 0;
  status = 200;
  hidesEtag = false;
  sent = [];

  cache(options = {}) {
    return new EntitlementsCache({ baseUrl: "http://paidup.test/", fetch: this.fetch, now: () => this.time, ...options });
  }

  fetch = async (url, { headers }) => {
    const etag = `"${this.version}"`;
    const known = headers.get("If-None-Match");
    this.sent.push([url, known, headers.get("Authorization")]);
    if (this.status === 0) throw new TypeError("Failed to fetch");
    if (this.status !== 200) return new Response("", { status: this.status });
    if (known === etag) return new Response(null, { status: 304, headers: { ETag: etag } });
    const body = { plan: "pro", features: ["api"], limits: { seats: 5, projects: "unlimited" }, version: this.version };
    return Response.json(body, { headers: this.hidesEtag ? {} : { ETag: etag } });
  };
}

test("they are asked for once, by callers at the same time as well, and after a minute by their ETag", async () => {
  const server = new Server();
  const cache = server.cache({ headers: async () => ({ Authorization: "Bearer jwt" }) });
  const [first, second] = await Promise.all([cache.get(), cache.get()]);
  same([first, await cache.get(), server.sent.length], [second, first, 1]);
  server.time = 60_000;
  same(await cache.get(), first);
  const url = "http://paidup.test/api/entitlements";
  same(server.sent, [[url, null, "Bearer jwt"], [url, '"1"', "Bearer jwt"]]);
});

test("a page of another origin, which may not read the ETag, sends none", async () => {
  const server = new Server();
  server.hidesEtag = true;
  const cache = server.cache();
  const first = await cache.get();
  server.time = 60_000;
  same(await cache.get(), first);
  same(server.sent.map(([, known]) => known), [null, null]);
});

test("a balance frame, or an event of the backend, drops them if it is newer", async () => {
  const server = new Server();
  const watch = new EventTarget();
  const cache = server.cache({ watch });
  await cache.get();
  watch.dispatchEvent(new CustomEvent("balance", { detail: { version: 1 } }));
  await cache.get();
  same(server.sent.length, 1);
  server.version = 2;
  watch.dispatchEvent(new CustomEvent("balance", { detail: { version: 2 } }));
  same((await cache.get()).version, 2);
  cache.onEvent({ type: "subscription.changed", data: { account: "ada", version: 3 } });
  await cache.get();
  await cache.get();
  same(server.sent.length, 4, "an answer that is older than the event is not kept");
});

test("without a policy an outage refuses; with one, the last ones are used for a while", async () => {
  const server = new Server();
  const [strict, lenient] = [server.cache(), server.cache({ staleMs: 1000 })];
  await Promise.all([strict.get(), lenient.get()]);
  for (const status of [0, 503]) {
    server.status = status;
    server.time = 60_999;
    await assert.rejects(strict.get(), (error) => error instanceof EntitlementsError && error.status === status);
    same((await lenient.get()).version, 1);
  }
  server.time = 61_000;
  await assert.rejects(lenient.get(), EntitlementsError);
  server.status = 401;
  server.time = 60_500;
  await assert.rejects(lenient.get(), EntitlementsError, "a refusal is no outage");
  server.status = 200;
  same((await lenient.get()).version, 1);
});

test("features and limits are asked for by name", async () => {
  const found = await new Server().cache().get();
  same([has(found, "api"), has(found, "export")], [true, false]);
  const asked = [allows(found, "seats", 5), allows(found, "seats", 6), allows(found, "projects", 1e9), allows(found, "files", 0)];
  same(asked, [true, false, true, false]);
});
