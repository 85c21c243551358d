"""Alarms: faults that customers do not notice yet, since another source still credits them.

`webhooks_silent`: payments are credited by verification and the reconciler, and no webhook arrives
(S35). `events_given_up`: events could not be handled, and need an operator (S15). `unknown_currency`:
payments wait for an amount of their price in their currency.
`paid_twice`: Stripe has taken a second payment for one purchase (S39). `unclaimed_payments`: money was
taken by Checkout Sessions that belong to nobody (S41).
`reconciler_behind`: due work is not done, since no worker runs or it is too slow.
`stripe_reads_high`: most of the month's reads from Stripe are used up.
`event_endpoint_disabled`: no outbound events are sent to one of the SaaS's own endpoints. All are
computed from the tables, so any process can report them. What to do: docs/operations.md.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timedelta

import msgspec
from tortoise import Model
from tortoise.queryset import QuerySet

from paidup.db.connection import storage_errors
from paidup.db.models import CheckoutSession, EventSource, Invoice, StripeEvent
from paidup.db.outbound_models import EndpointState, EventEndpoint
from paidup.db.unit_of_work import count_up_to
from paidup.domain.payment_facts import Source
from paidup.outbound.endpoints import DISABLED_BY_OPERATOR
from paidup.outbound.left import COUNTED, LEFT, count_left
from paidup.payments.outcomes import EventOutcome
from paidup.payments.unclaimed import unclaimed_payments
from paidup.reconciliation.read_budget import DEFAULT_READS_PER_MONTH, ReadUse, read_use
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics

ALARMS = (
    *("webhooks_silent", "events_given_up", "unknown_currency", "reconciler_behind"),
    *("stripe_reads_high", "paid_twice", "unclaimed_payments", "event_endpoint_disabled"),
)

PARKED_FOR_CURRENCY = f"parked: {EventOutcome.UNKNOWN_CURRENCY}"
SETTLED_WITHOUT_WEBHOOK = 3
"""So many payments credited in a row, and no webhook since."""
MOST_COUNTED = 1_000
"""Of them. All are read again every few seconds while webhooks are silent."""
GRACE = timedelta(minutes=5)
"""How late a webhook may be before its absence counts."""
CACHED_S = 15.0
MAX_NAMED = 5
UNCLAIMED_AFTER_H = 24
"""Who pays before signing up may take a while."""
LOOKBACK = timedelta(days=7)
OVERDUE = timedelta(minutes=10)
"""A worker that keeps up has handled anything due by then."""


class Alarm(msgspec.Struct, frozen=True):
    """`name` is stable, for metrics; `text` says what is wrong and what to do."""

    name: str
    text: str


class Queue(msgspec.Struct, frozen=True):
    """Rows that are due for the reconciler, `COUNTED` at most; `oldest` is the earliest due time."""

    name: str
    due: int
    oldest: datetime | None


class AlarmSnapshot(msgspec.Struct, frozen=True):
    """The alarms that are on, the reconciler's queues, and the reads from Stripe this month."""

    alarms: list[Alarm]
    queues: list[Queue]
    reads: int = 0
    unclaimed: int = 0
    """Paid Checkout Sessions that belong to nobody yet."""
    deliveries: dict[str, int] = {}
    """How many deliveries of outbound events are pending, and dead."""

    def export(self, metrics: Metrics) -> None:
        """Set the metrics of alarms and queues."""
        on = {alarm.name for alarm in self.alarms}
        for name in ALARMS:
            metrics.alarm.labels(name).set(name in on)
        metrics.stripe_reads.set(self.reads)
        metrics.unclaimed.set(self.unclaimed)
        for state, number in self.deliveries.items():
            metrics.outbound_deliveries.labels(state).set(number)
        for queue in self.queues:
            metrics.due.labels(queue.name).set(queue.due)


class Alarms:
    """Takes a snapshot every `CACHED_S` at most, since /readyz and /metrics ask often."""

    def __init__(
        self, reads_per_month: int = DEFAULT_READS_PER_MONTH, unclaimed_after_h: int = UNCLAIMED_AFTER_H
    ) -> None:
        self._reads_per_month = reads_per_month
        self._unclaimed_after_h = unclaimed_after_h
        self._snapshot = AlarmSnapshot([], [])
        self._taken_at = float("-inf")

    async def current(self) -> list[Alarm]:
        """Raises StorageUnavailable."""
        return (await self.snapshot()).alarms

    async def snapshot(self) -> AlarmSnapshot:
        """Raises StorageUnavailable."""
        if time.monotonic() - self._taken_at > CACHED_S:
            self._snapshot = await take_snapshot(self._reads_per_month, self._unclaimed_after_h)
            self._taken_at = time.monotonic()
        return self._snapshot


async def take_snapshot(
    reads_per_month: int = DEFAULT_READS_PER_MONTH, unclaimed_after_h: int = UNCLAIMED_AFTER_H
) -> AlarmSnapshot:
    """Compute the alarms and queues from the tables. Raises StorageUnavailable."""
    queues, use = await due_queues(), await read_use(reads_per_month, now())
    found = (
        await webhook_silence(),
        await events_given_up(),
        await unknown_currency(),
        reconciler_behind(queues),
        stripe_reads_high(use),
        await paid_twice(),
        await unclaimed_too_long(timedelta(hours=unclaimed_after_h)),
        await endpoint_disabled(),
    )
    with storage_errors():
        unclaimed = await unclaimed_payments().count()
        left = Counter[str]()
        for (_, state), number in (await count_left()).items():
            left[state.value] += number
        open_deliveries = {state.value: left[state.value] for state in LEFT}
    alarms = [alarm for alarm in found if alarm]
    return AlarmSnapshot(alarms, queues, use.reads, unclaimed, open_deliveries)


async def due_queues() -> list[Queue]:
    """What is due, by queue. Raises StorageUnavailable."""
    with storage_errors():
        return [
            await _queue("events", StripeEvent, "next_attempt_at"),
            await _queue("invoices", Invoice, "next_check_at"),
            await _queue("sessions", CheckoutSession, "next_check_at"),
            await _queue("versions", Invoice, "publish_due_at"),
        ]


async def _queue(name: str, model: type[Model], column: str) -> Queue:
    at = now()
    due = model.filter(**{f"{column}__lte": at})
    first = await due.order_by(column).only("id", column).first()
    if first is None:
        return Queue(name, 0, None)
    return Queue(name, await count_up_to(COUNTED, model, f"{column} <= $1", at), getattr(first, column))


def reconciler_behind(queues: list[Queue]) -> Alarm | None:
    """The alarm that due work is not done, or None."""
    at = now()
    late = [queue for queue in queues if queue.oldest and at - queue.oldest > OVERDUE]
    if not late:
        return None
    oldest = min(queue.oldest for queue in late if queue.oldest)
    more = {COUNTED: " or more"}
    what = ", ".join(f"{queue.due}{more.get(queue.due, '')} {queue.name}" for queue in late)
    text = f"Due and not done: {what}; the oldest for {(at - oldest) // timedelta(minutes=1)} minutes. "
    return Alarm("reconciler_behind", text + "Does `paidup work` run (or RECONCILER_IN_SERVER=true)?")


async def unknown_currency() -> Alarm | None:
    """The alarm that payments wait for a price's amount in their currency, or None."""
    with storage_errors():
        waiting = await StripeEvent.filter(
            handled_at__isnull=True, attempts__gt=0, error=PARKED_FOR_CURRENCY
        ).count()
    if not waiting:
        return None
    text = (
        f"{waiting} events of payments in a currency for which their price has no amount, so nothing is"
        " granted: give the price that currency in Stripe (currency_options), then `paidup replay` them."
    )
    return Alarm("unknown_currency", text)


async def paid_twice() -> Alarm | None:
    """The alarm that customers have paid twice for one purchase, or None. Raises StorageUnavailable."""
    with storage_errors():
        waiting = await unresolved().limit(MAX_NAMED)
        count = await unresolved().count() if waiting else 0
    if not waiting:
        return None
    named = ", ".join(f"{row.id} (beside {row.duplicate_of})" for row in waiting)
    text = f"{count} purchases were paid twice: {named}. Both are credited. "
    return Alarm("paid_twice", text + "`paidup resolve` refunds the second payment, or keeps its credits.")


def unresolved() -> QuerySet[CheckoutSession]:
    """Second payments about which nothing was done yet, newest first."""
    flagged = CheckoutSession.filter(duplicate_of__not_isnull=True, resolution__isnull=True)
    return flagged.order_by("-completed_at")


async def unclaimed_too_long(after: timedelta) -> Alarm | None:
    """The alarm that payments have belonged to nobody for too long, or None. Raises StorageUnavailable."""
    with storage_errors():
        waiting = unclaimed_payments().filter(completed_at__lte=now() - after)
        rows = await waiting.order_by("completed_at").limit(MAX_NAMED).only("id")
        count = await waiting.count() if rows else 0
    if not rows:
        return None
    named = ", ".join(row.id for row in rows)
    text = f"{count} payments have belonged to nobody for {after // timedelta(hours=1)} hours: {named}. "
    return Alarm(
        "unclaimed_payments", text + "`paidup explain` shows each, `paidup claim-link` makes a link to it."
    )


async def endpoint_disabled() -> Alarm | None:
    """The alarm that an endpoint was disabled since it fails, or None. An operator's own doing is none."""
    with storage_errors():
        rows = await EventEndpoint.filter(state=EndpointState.DISABLED).order_by("id")
    failing = [row for row in rows if row.disabled_because != DISABLED_BY_OPERATOR]
    if not failing:
        return None
    named = "; ".join(f"{row.name}: {row.disabled_because}" for row in failing[:MAX_NAMED])
    text = f"No events are sent to {len(failing)} endpoints ({named}). Correct it, then `paidup endpoints"
    return Alarm("event_endpoint_disabled", text + " enable` and `paidup replay --endpoint` what it missed.")


def stripe_reads_high(use: ReadUse) -> Alarm | None:
    """The alarm that the month's reads are nearly used up, or None."""
    if not use.alarming:
        return None
    stopped = "Scans of Stripe's lists have stopped" if use.used_up else "Scans of Stripe's lists stop then"
    text = f"{use.reads} of {use.allowed} reads of {use.month} are used up. {stopped}; customers go on."
    return Alarm("stripe_reads_high", text + " See PaidupStripeReadsHigh in docs/operations.md.")


async def events_given_up() -> Alarm | None:
    """The alarm that stored events were given up, or None. Raises StorageUnavailable."""
    with storage_errors():
        given_up = await StripeEvent.filter(
            handled_at__isnull=True, next_attempt_at__isnull=True, attempts__gt=0
        ).count()
    if not given_up:
        return None
    text = (
        f"{given_up} events could not be handled and were given up: see /operators. Fix the cause"
        " and `paidup replay` them, or `paidup dismiss` them."
    )
    return Alarm("events_given_up", text)


async def webhook_silence() -> Alarm | None:
    """The alarm that webhooks do not arrive, or None. Raises StorageUnavailable."""
    at = now()
    with storage_errors():
        recent = StripeEvent.filter(source=EventSource.WEBHOOK, received_at__gt=at - LOOKBACK)
        last = await recent.order_by("-received_at").only("id", "received_at").first()
        since = last.received_at if last else at - LOOKBACK
        settled = await count_up_to(MOST_COUNTED, Invoice, _WITHOUT_WEBHOOK, since, at - GRACE)
    if settled < SETTLED_WITHOUT_WEBHOOK:
        return None
    return Alarm("webhooks_silent", _text(settled, last.received_at if last else None))


_WITHOUT_WEBHOOK = (
    "settled_at > $1 AND settled_at <= $2"
    f" AND settled_via IN ('{Source.VERIFICATION.value}', '{Source.RECONCILIATION.value}')"
)


def _text(settled: int, last: datetime | None) -> str:
    when = f"the last one arrived at {last:%Y-%m-%d %H:%M} UTC" if last else "none has arrived for 7 days"
    number = f"{settled} payments" if settled < MOST_COUNTED else f"{settled} payments or more"
    return (
        f"{number} were credited without their webhooks; {when}. "
        "Check the endpoint's address, secret and state in Stripe (`paidup doctor`)."
    )
