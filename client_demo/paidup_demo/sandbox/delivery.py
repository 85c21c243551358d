"""Webhook delivery: real HTTP POSTs, signed at each attempt and retried until answered 2xx.

Applies the webhook conditions (delay, drop, duplicate, shuffle). Anyone with a test key can register an
endpoint, so requests go only to this machine and to the hosts configured at the start. Pending deliveries,
concurrent requests, attempts and their duration are all limited.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import secrets
import socket
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.connector import AddrInfoType

from paidup_demo.sandbox.agenda import Agenda
from paidup_demo.sandbox.conditions import Conditions
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.guard import is_loopback
from paidup_demo.sandbox.old_shape import event_at
from paidup_demo.sandbox.settings import API_VERSION, SandboxSettings
from paidup_demo.sandbox.state import Store, new_id

MAX_PENDING = 10_000
HOURS = (600, 3600, 3 * 3600)
"""When a delivery is retried, by the sandbox's clock: three times over a few hours, as with test keys.
https://docs.stripe.com/webhooks#retries"""
CHANCE = secrets.SystemRandom()
MAX_CONCURRENT = 16
SHUFFLE_MS = 400


def signature_header(body: bytes, secret: str, moment: int) -> str:
    """The Stripe-Signature of these bytes at this time."""
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def wants(endpoint: Json, kind: str) -> bool:
    """Whether the endpoint is subscribed to this type of event."""
    return endpoint["status"] == "enabled" and bool({"*", kind} & set(endpoint["enabled_events"]))


class WebhookSender:
    """Delivers events to the webhook endpoints."""

    def __init__(
        self,
        store: Store,
        agenda: Agenda,
        settings: SandboxSettings,
        conditions: Callable[[], Conditions],
        clock: Callable[[], int],
    ) -> None:
        self._store = store
        self._agenda = agenda
        self._settings = settings
        self._conditions = conditions
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._tasks: set[asyncio.Task[None]] = set()
        self._anywhere: aiohttp.ClientSession | None = None
        self._here: aiohttp.ClientSession | None = None
        self._pending = 0

    async def start(self) -> None:
        """Open the HTTP sessions and resume deliveries left by an earlier run."""
        timeout = aiohttp.ClientTimeout(total=self._settings.webhook_timeout_s)
        self._anywhere = aiohttp.ClientSession(timeout=timeout)
        connector = aiohttp.TCPConnector(socket_factory=_loopback_socket)
        self._here = aiohttp.ClientSession(timeout=timeout, connector=connector)
        scheduled = self._agenda.waiting("deliver") | self._store.table("retry").keys()
        for delivery in list(self._store.newest("delivery", status="pending")):
            self._pending += 1
            if delivery["id"] not in scheduled:
                self.send(delivery["id"])

    async def stop(self) -> None:
        """Stop the running deliveries, which stay pending in the store, and close the sessions."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in (self._anywhere, self._here):
            if session is not None:
                await session.close()

    def forget(self) -> None:
        """Cancel every delivery; the store deletes them with everything else."""
        for task in self._tasks:
            task.cancel()
        self._pending = 0

    def dispatch(self, event: Json) -> int:
        """Schedule the deliveries of a new event; returns the number of endpoints."""
        endpoints = [e for e in self._store.table("webhook_endpoint").values() if wants(e, event["type"])]
        for endpoint in endpoints:
            self._plan(event, endpoint)
        return len(endpoints)

    def resend(self, event: Json) -> int:
        """Deliver the event again now, ignoring the conditions; returns the number of endpoints."""
        endpoints = [e for e in self._store.table("webhook_endpoint").values() if wants(e, event["type"])]
        for endpoint in endpoints:
            self._agenda.after(0, "deliver", self._new(event, endpoint)["id"])
        return len(endpoints)

    def send(self, delivery_id: str) -> None:
        """Start one attempt now."""
        task = asyncio.get_running_loop().create_task(self._try(delivery_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _plan(self, event: Json, endpoint: Json) -> None:
        conditions = self._conditions()
        first = self._new(event, endpoint)
        if self._pending > MAX_PENDING:
            self._finish(first, "failed", "the sandbox's delivery queue is full")
        elif event["type"] in conditions.webhook_drop_types or CHANCE.random() < float(
            conditions.webhook_drop
        ):
            self._finish(first, "dropped", "dropped by the conditions")
        else:
            self._agenda.after(_delay_ms(conditions), "deliver", first["id"])
            for _ in range(conditions.webhook_duplicates):
                self._agenda.after(_delay_ms(conditions), "deliver", self._new(event, endpoint)["id"])

    def _new(self, event: Json, endpoint: Json) -> Json:
        self._pending += 1
        return self._store.add(
            {
                "id": new_id("dlv"),
                "event": event["id"],
                "type": event["type"],
                "endpoint": endpoint["id"],
                "url": endpoint["url"],
                "status": "pending",
                "attempts": [],
            },
            "delivery",
        )

    async def _try(self, delivery_id: str) -> None:
        delivery = self._store.find("delivery", delivery_id)
        if delivery is None or delivery["status"] != "pending":
            return
        event = self._store.find("event", delivery["event"])
        endpoint = self._store.find("webhook_endpoint", delivery["endpoint"])
        if event is None or endpoint is None or endpoint["status"] != "enabled":
            self._finish(delivery, "failed", "the endpoint or the event was deleted")
            return
        async with self._slots:
            attempt = await self._post(event, endpoint)
        delivery["attempts"].append(attempt)
        self._store.touch()
        self._judge(delivery, event, attempt)

    async def _post(self, event: Json, endpoint: Json) -> Json:
        conditions = self._conditions()
        version = conditions.webhook_api_version or endpoint["api_version"] or conditions.account_api_version
        rendered = event_at(self._store, event, version or API_VERSION)
        if conditions.webhook_account:  # as Connect shows a connected account's events
            rendered = rendered | {"account": conditions.webhook_account}
        body = msgspec.json.encode(rendered)
        secret = self._store.note(endpoint["id"])["secret"]
        begun = time.time()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": signature_header(body, secret, int(begun)),
        }
        status, error = await self._answer(endpoint["url"], body, headers)
        return {"at": begun, "status": status, "error": error, "ms": round((time.time() - begun) * 1000)}

    async def _answer(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int | None, str | None]:
        named = self._settings.delivers_to((urlsplit(url).hostname or "").lower())
        session = self._anywhere if named else self._here
        assert session is not None, "the webhook sender was not started"
        try:
            async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                await response.content.read(1000)
                return response.status, None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return None, f"{type(error).__name__}: {error}"[:300]

    def _judge(self, delivery: Json, event: Json, attempt: Json) -> None:
        in_hours = self._conditions().webhook_retries == "hours"
        delays = HOURS if in_hours else self._settings.webhook_retry_delays_s
        tries = len(delivery["attempts"])
        if attempt["status"] is not None and 200 <= attempt["status"] < 300:
            self._finish(delivery, "delivered")
            self._receipt(delivery, event)
        elif tries > len(delays):
            self._finish(delivery, "failed")
        elif in_hours:
            self._store.add({"id": delivery["id"], "at": self._clock() + delays[tries - 1]}, "retry")
        else:
            self._agenda.after(delays[tries - 1] * 1000, "deliver", delivery["id"])

    def retry(self, delivery_id: str) -> None:
        """A retry whose hour has come."""
        self._store.table("retry").pop(delivery_id, None)
        self.send(delivery_id)

    def retry_now(self) -> int:
        """Retry all that waits for its hour; returns how many."""
        waiting = list(self._store.table("retry"))
        for delivery_id in waiting:
            self.retry(delivery_id)
        return len(waiting)

    def _receipt(self, delivery: Json, event: Json) -> None:
        """Count an endpoint's first success only; duplicates and resends are ignored."""
        receipt_id = f"{delivery['event']}:{delivery['endpoint']}"
        if self._store.find("receipt", receipt_id) is None:
            self._store.add({"id": receipt_id}, "receipt")
            event["pending_webhooks"] = max(0, event["pending_webhooks"] - 1)

    def _finish(self, delivery: Json, status: str, reason: str | None = None) -> None:
        delivery["status"] = status
        if reason:
            delivery["attempts"].append({"at": time.time(), "status": None, "error": reason, "ms": 0})
        self._pending -= 1
        self._store.touch()


def _loopback_socket(address: AddrInfoType) -> socket.socket:
    """Open a socket to a loopback address. Names are already resolved, so this is the real destination."""
    family, kind, protocol, _, (host, *_) = address
    if not is_loopback(str(host)):
        raise OSError(
            errno.EACCES, f"{host} is not this machine: add the endpoint's host to SANDBOX_WEBHOOK_HOSTS"
        )
    return socket.socket(family, kind, protocol)


def _delay_ms(conditions: Conditions) -> float:
    jitter = CHANCE.uniform(0, conditions.webhook_jitter_ms)
    return (
        conditions.webhook_delay_ms
        + jitter
        + (CHANCE.uniform(0, SHUFFLE_MS) if conditions.webhook_shuffle else 0)
    )
