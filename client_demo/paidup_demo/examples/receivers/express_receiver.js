/** Receives Paidup's events in Express: app.post("/hooks/paidup", ...receive). */
import express from "express";
import { DatabaseSync } from "node:sqlite";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.PAIDUP_EVENTS_SECRET);
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

export const receive = [express.raw({ type: "*/*" }), (request, response) => {
  let event;
  try { // of the raw bytes: forged, or more than five minutes old
    event = webhook.verify(request.body, request.headers);
  } catch { return response.sendStatus(400); }
  save(request.get("webhook-id"), event.data);
  response.sendStatus(204); // at once: mails and other slow work belong in a queue
}];
