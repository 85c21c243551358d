"""Receives Paidup's events in FastAPI. Run it with: uvicorn fastapi_receiver:app."""

import os
import sqlite3

from fastapi import FastAPI, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

app, webhook = FastAPI(), Webhook(os.environ["PAIDUP_EVENTS_SECRET"])
db = sqlite3.connect(os.environ.get("DATABASE", "app.db"), check_same_thread=False)  # use your own database
db.execute("CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY)")
db.execute("CREATE TABLE IF NOT EXISTS accounts (id TEXT PRIMARY KEY, version INTEGER, balance INTEGER)")
NEWEST = """INSERT INTO accounts VALUES (:account, :version, :balance) ON CONFLICT (id) DO UPDATE
SET version = excluded.version, balance = excluded.balance WHERE excluded.version >= accounts.version"""


@app.post("/hooks/paidup")
async def receive(request: Request) -> Response:
    try:  # of the raw bytes: forged, or more than five minutes old
        event = webhook.verify(await request.body(), dict(request.headers))
    except (WebhookVerificationError, ValueError):
        return Response(status_code=400)
    with db:  # one transaction: what fails is not marked as seen, and is sent again
        seen = db.execute("INSERT OR IGNORE INTO events VALUES (?)", [request.headers["webhook-id"]])
        if seen.rowcount and event["data"]["account"]:
            db.execute(NEWEST, event["data"])
    return Response(status_code=204)  # at once: mails and other slow work belong in a queue
