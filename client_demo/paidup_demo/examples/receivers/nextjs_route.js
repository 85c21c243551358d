/** Receives Paidup's events in Next.js: app/hooks/paidup/route.js. */
import { DatabaseSync } from "node:sqlite";
import { Webhook } from "standardwebhooks";

const db = new DatabaseSync(process.env.DATABASE ?? "app.db"); // use your own database
db.exec("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY)");
db.exec("CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, version INTEGER, balance INTEGER)");
const seen = db.prepare("INSERT INTO events VALUES (?) ON CONFLICT DO NOTHING");
const newest = db.prepare(`INSERT INTO accounts VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE
  SET version = excluded.version, balance = excluded.balance WHERE excluded.version >= accounts.version`);

function save(id, { account, version, balance }) {
  db.exec("BEGIN"); // one transaction: what fails is not marked as seen, and is sent again
  try {
    if (seen.run(id).changes && account) newest.run(account, version, balance);
    db.exec("COMMIT");
  } finally { if (db.isTransaction) db.exec("ROLLBACK"); }
}

export async function POST(request) {
  let event, body = await request.text();
  try { // of the raw body: forged, or more than five minutes old
    event = new Webhook(process.env.PAIDUP_EVENTS_SECRET).verify(body, Object.fromEntries(request.headers));
  } catch { return new Response(null, { status: 400 }); }
  save(request.headers.get("webhook-id"), event.data);
  return new Response(null, { status: 204 }); // at once: mails and other slow work belong in a queue
}
