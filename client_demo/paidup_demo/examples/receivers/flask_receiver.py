"""Receives Paidup's events in Flask. Run it with: flask --app flask_receiver run."""

import os
import sqlite3

from flask import Flask, request
from standardwebhooks import Webhook, WebhookVerificationError

app, webhook = Flask(__name__), Webhook(os.environ["PAIDUP_EVENTS_SECRET"])
db = sqlite3.connect(os.environ.get("DATABASE", "app.db"), check_same_thread=False)  # use your own database
db.execute("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY)")
db.execute("CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, version INTEGER, balance INTEGER)")
NEWEST = """INSERT INTO accounts VALUES (:account, :version, :balance) ON CONFLICT (id) DO UPDATE
SET version = excluded.version, balance = excluded.balance WHERE excluded.version >= accounts.version"""


@app.post("/hooks/paidup")
def receive() -> tuple[str, int]:
    try:  # of the raw bytes: forged, or more than five minutes old
        event = webhook.verify(request.get_data(), dict(request.headers))
    except (WebhookVerificationError, ValueError):
        return "", 400
    with db:  # one transaction: what fails is not marked as seen, and is sent again
        seen = db.execute("INSERT OR IGNORE INTO events VALUES (?)", [request.headers["webhook-id"]])
        if seen.rowcount and event["data"]["account"]:
            db.execute(NEWEST, event["data"])
    return "", 204  # at once: mails and other slow work belong in a queue
