"""Alarms: what is wrong although the customers are served, so that nobody would notice.

`webhooks_silent`: verification and the reconciler keep winning, and no webhook comes (S35); one of
three roads is gone. `events_given_up`: what Stripe told could not be handled, and waits for a
person (S15). `reconciler_behind`: what is due is not done, since no worker runs or it cannot
follow. All are read from the tables, so any process can say them. docs/operations.md has what to do.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import msgspec
from tortoise.queryset import QuerySet

from paidup.clock import now
from paidup.db.connection import storage_errors
from paidup.db.models import EventSource, Invoice, StripeEvent
from paidup.domain.payment_facts import Source
from paidup.metrics import Metrics

ALARMS = ("webhooks_silent", "events_given_up", "reconciler_behind")

SETTLED_WITHOUT = 3
"""So many credited in a row with no webhook after any of them."""
GRACE = timedelta(minutes=5)
"""How late a webhook may be before its absence counts."""
REMEMBERED_S = 15.0
LOOK_BACK = timedelta(days=7)
OVERDUE = timedelta(minutes=10)
"""So long after its time anything due is taken up by a worker that runs and follows."""


class Alarm(msgspec.Struct, frozen=True):
    """`name` is stable, for metrics; `text` says what is wrong and what to do."""

    name: str
    text: str


class Queue(msgspec.Struct, frozen=True):
    """Rows whose time has come, for the reconciler; `oldest` is the earliest of those times."""

    name: str
    due: int
    oldest: datetime | None


class AlarmSnapshot(msgspec.Struct, frozen=True):
    """The alarms that are on, and what the reconciler has to do."""

    alarms: list[Alarm]
    queues: list[Queue]

    def show(self, metrics: Metrics) -> None:
        on = {alarm.name for alarm in self.alarms}
        for name in ALARMS:
            metrics.alarm.labels(name).set(name in on)
        for queue in self.queues:
            metrics.due.labels(queue.name).set(queue.due)


class Alarms:
    """Looks anew every `REMEMBERED_S` at most: /readyz and /metrics ask all the time."""

    def __init__(self) -> None:
        self._look = AlarmSnapshot([], [])
        self._looked_at = float("-inf")

    async def current(self) -> list[Alarm]:
        """Raises StorageUnavailable."""
        return (await self.look()).alarms

    async def look(self) -> AlarmSnapshot:
        """Raises StorageUnavailable."""
        if time.monotonic() - self._looked_at > REMEMBERED_S:
            self._look = await look()
            self._looked_at = time.monotonic()
        return self._look


async def look() -> AlarmSnapshot:
    """Raises StorageUnavailable."""
    queues = await due_queues()
    found = (await webhook_silence(), await events_given_up(), reconciler_behind(queues))
    return AlarmSnapshot([alarm for alarm in found if alarm], queues)


async def due_queues() -> list[Queue]:
    """What is due here, by queue. Costs as much as is due. Raises StorageUnavailable."""
    at = now()
    with storage_errors():
        return [
            await _queue("events", StripeEvent.filter(next_attempt_at__lte=at), "next_attempt_at"),
            await _queue("invoices", Invoice.filter(next_check_at__lte=at), "next_check_at"),
            await _queue("versions", Invoice.filter(publish_due_at__lte=at), "publish_due_at"),
        ]


async def _queue(name: str, due: QuerySet[Any], column: str) -> Queue:
    first = await due.order_by(column).only("id", column).first()
    return Queue(name, await due.count(), getattr(first, column)) if first else Queue(name, 0, None)


def reconciler_behind(queues: list[Queue]) -> Alarm | None:
    """The alarm that what is due is not done, or None."""
    at = now()
    late = [queue for queue in queues if queue.oldest and at - queue.oldest > OVERDUE]
    if not late:
        return None
    oldest = min(queue.oldest for queue in late if queue.oldest)
    what = ", ".join(f"{queue.due} {queue.name}" for queue in late)
    text = f"Due and not done: {what}; the oldest for {(at - oldest) // timedelta(minutes=1)} minutes. "
    return Alarm("reconciler_behind", text + "Does `paidup work` run (or RECONCILER_IN_SERVER=true)?")


async def events_given_up() -> Alarm | None:
    """The alarm that stored events were given up, or None. Raises StorageUnavailable."""
    with storage_errors():
        given_up = await StripeEvent.filter(
            handled_at__isnull=True, next_attempt_at__isnull=True, attempts__gt=0
        ).count()
    if not given_up:
        return None
    text = f"{given_up} events could not be handled and were given up: see /operators, or `paidup doctor`."
    return Alarm("events_given_up", text)


async def webhook_silence() -> Alarm | None:
    """The alarm that webhooks do not come, or None. Raises StorageUnavailable."""
    at = now()
    with storage_errors():
        last = (
            await StripeEvent.filter(source=EventSource.WEBHOOK)
            .order_by("-received_at")
            .only("id", "received_at")
            .first()
        )
        since = max(last.received_at if last else at - LOOK_BACK, at - LOOK_BACK)
        settled = await Invoice.filter(
            settled_at__gt=since,
            settled_at__lte=at - GRACE,
            settled_via__in=[Source.VERIFICATION, Source.RECONCILIATION],
        ).count()
    if settled < SETTLED_WITHOUT:
        return None
    return Alarm("webhooks_silent", _text(settled, last.received_at if last else None))


def _text(settled: int, last: datetime | None) -> str:
    when = f"the last one came at {last:%Y-%m-%d %H:%M} UTC" if last else "none has ever come"
    return (
        f"{settled} payments were credited without their webhooks; {when}. "
        "Check the endpoint's address, secret and state in Stripe (`paidup doctor`)."
    )
