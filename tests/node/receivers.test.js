/** The receivers of events in JavaScript: Express on a real port, the route handler of Next.js as it is called. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { registerHooks } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, test } from "node:test";

import { Webhook } from "standardwebhooks";

const FOLDER = "../../client_demo/paidup_demo/examples/receivers/";
const secret = (text) => `whsec_${Buffer.from(text).toString("base64")}`;
const SECRET = secret("the secret of this endpoint 0001");
const OTHER = secret("the secret of somebody else 0002");
const folder = mkdtempSync(join(tmpdir(), "receivers-"));
let server, postToExpress, postToNext;

// The examples' packages are those of these tests.
registerHooks({
  resolve: (name, context, next) => next(name, name.startsWith(".") ? context : { ...context, parentURL: import.meta.url }),
});

before(async () => {
  process.env.PAIDUP_EVENTS_SECRET = SECRET;
  process.env.DATABASE = join(folder, "express.db");
  const { receive } = await import(`${FOLDER}express_receiver.js`);
  process.env.DATABASE = join(folder, "next.db");
  const { POST } = await import(`${FOLDER}nextjs_route.js`);
  const { default: express } = await import("express");
  const app = express();
  app.post("/hooks/paidup", ...receive);
  server = createServer(app);
  await once(server.listen(0, "127.0.0.1"), "listening");
  const url = `http://127.0.0.1:${server.address().port}/hooks/paidup`;
  const request = (body, headers) => ({ method: "POST", body, headers });
  postToExpress = async (body, headers) => (await fetch(url, request(body, headers))).status;
  postToNext = async (body, headers) => (await POST(new Request(url, request(body, headers)))).status;
});
after(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true });
});

function message(account, version, balance) {
  const data = { account, version, balance, invoice: "in_1", credits: 10 };
  return JSON.stringify({ type: "credits.granted", timestamp: "2026-11-27T10:00:00Z", data });
}

/** The headers of a message. The first of two signatures is that of a secret being rotated out. */
function signed(body, id, { by = SECRET, ageS = 0 } = {}) {
  const at = new Date(Date.now() - ageS * 1000);
  const signatures = [OTHER, by].map((it) => new Webhook(it).sign(id, at, body));
  return {
    "content-type": "application/json",
    "webhook-id": id,
    "webhook-timestamp": String(Math.floor(at / 1000)),
    "webhook-signature": signatures.join(" "),
  };
}

function accounts(name) {
  const db = new DatabaseSync(join(folder, name));
  const rows = db.prepare("SELECT id, version, balance FROM accounts").all();
  db.close();
  return rows.map(({ id, version, balance }) => [id, version, balance]);
}

for (const [name, database, post] of [
  ["Express", "express.db", (...it) => postToExpress(...it)],
  ["Next.js", "next.db", (...it) => postToNext(...it)],
]) {
  test(`${name} takes each genuine message once and keeps the newest version`, async () => {
    const first = message("ada", 7, 2000);
    assert.equal(await post(first, signed(first, "msg_1")), 204);
    assert.deepEqual(accounts(database), [["ada", 7, 2000]]);

    const forged = message("ada", 8, 999_999);
    const bad = { "content-type": "application/json" };
    assert.equal(await post(forged, signed(forged, "msg_2", { by: OTHER })), 400);
    assert.equal(await post(forged, signed(first, "msg_2")), 400, "signed for another body");
    assert.equal(await post(forged, { ...signed(forged, "msg_2"), "webhook-signature": "v1,?" }), 400);
    assert.equal(await post(forged, bad), 400);
    assert.equal(await post(forged, signed(forged, "msg_2", { ageS: 600 })), 400, "stale");
    assert.deepEqual(accounts(database), [["ada", 7, 2000]]);

    const [again, older] = [message("ada", 9, 1), message("ada", 6, 5)];
    assert.equal(await post(again, signed(again, "msg_1")), 204, "it was handled under this id");
    assert.equal(await post(older, signed(older, "msg_3")), 204);
    assert.deepEqual(accounts(database), [["ada", 7, 2000]]);

    const [newer, nobody] = [message("ada", 9, 1500), message(null, 0, 0)];
    assert.equal(await post(newer, signed(newer, "msg_4")), 204);
    assert.equal(await post(nobody, signed(nobody, "msg_5")), 204, "of no account: checkout.unclaimed");
    assert.deepEqual(accounts(database), [["ada", 9, 1500]]);
  });
}
