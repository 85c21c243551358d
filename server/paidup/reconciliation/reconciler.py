"""The reconciler: the third road. Finds what the browser and the webhook left open.

Owns the sweeps of `paidup work`, each bounded, each at its own pace, each going on where it
stopped. Any number of reconcilers may run: what one works on it has claimed by moving its due
time, in a transaction that passes over rows which another is claiming. The cost of a round
follows what is due, not what exists: every sweep reads an index of due times, or a watermark.
Refuses to credit: it asks, and the settlement settles; and to repair books: it reports.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import msgspec
import structlog

from paidup.clock import Clock, now
from paidup.credits import ledger, reservations
from paidup.credits.audit import audit_slice
from paidup.db.connection import OUTAGES, locked, storage_errors, write_transaction
from paidup.db.models import (
    CreditGrant,
    EventSource,
    GrantState,
    Invoice,
    Reservation,
    ReservationState,
    Reversal,
    ReversalKind,
    StripeEvent,
    Subscription,
)
from paidup.domain.backoff import reconciler_delay_s
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import PaidupError, StripeRefused, StripeUnavailable
from paidup.metrics import Metrics
from paidup.payments.outcomes import Outcome
from paidup.payments.refunds import REVERSAL_STRUCTS, ReversalHandler, StripeReversal
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.realtime.status_queries import read_statuses
from paidup.reconciliation.alarms import look
from paidup.reconciliation.list_scanner import Scan, scan
from paidup.reconciliation.pruning import DEFAULT_RETENTION, Retention, prune
from paidup.reconciliation.stripe_events import PAYMENT_TYPES, REVERSAL_TYPES, Events, store
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.schemas import Event, decode
from paidup.stripe_api.schemas import Invoice as StripeInvoice
from paidup.subscriptions.sync import SubscriptionSync

log = structlog.get_logger(__name__)

BATCH = 50
AT_ONCE = 5
CLAIM = timedelta(seconds=60)
"""How long the work on a claimed row may take before another reconciler may try."""
STRIPE_PATIENCE_S = 1.0
"""The reconciler yields the budget to customers who wait: see `RateLimiter.take`."""
DAY_S = 24 * 3600
MAX_IGNORED_REVERSALS = 10_000
"""How many refunds and disputes of payments that are not ours are remembered."""
FAILURES: tuple[type[BaseException], ...] = (PaidupError, msgspec.DecodeError, *OUTAGES)
"""What may go wrong with one row without stopping the reconciler."""


Row = TypeVar("Row")
Done = TypeVar("Done")


class Reconciler:
    def __init__(
        self,
        settlement: Settlement,
        verification: Verification,
        events: Events,
        reversals: ReversalHandler,
        subscriptions: SubscriptionSync,
        gateway: StripeGateway,
        metrics: Metrics,
        clock: Clock,
        retention: Retention = DEFAULT_RETENTION,
    ) -> None:
        self._retention = retention
        self._reversal_handler = reversals
        self._subscriptions = subscriptions
        self._clock = clock
        self._settlement = settlement
        self._verification = verification
        self._events = events
        self._gateway = gateway
        self._metrics = metrics
        self._audited_to = 0
        self._strangers: set[str] = set()
        self._sweeps: dict[str, tuple[Callable[[], Awaitable[int]], float]] = {
            "unhandled_events": (self.unhandled_events, 0),
            "due_invoices": (self.due_invoices, 0),
            "unpublished_versions": (self.unpublished_versions, 0),
            "due_installments": (self.due_installments, 0),
            "due_subscriptions": (self.due_subscriptions, 0),
            "expired_reservations": (self.expired_reservations, 0),
            "prune": (self.prune, 0),
            "undelivered_events": (self.undelivered_events, 10),
            "paid_invoices": (self.paid_invoices, 10),
            "reversals": (self.reversals, 10),
            "audit": (self.audit, 10),
            "alarms": (self.alarms, 30),
        }
        # Stripe lists at most twenty types of events at a time.
        self._undelivered = [
            Scan(name, 60, 3 * DAY_S, 30 * DAY_S, partial(self._take_events, types))
            for name, types in (
                ("undelivered_events", PAYMENT_TYPES),
                ("undelivered_reversals", tuple(REVERSAL_TYPES)),
            )
        ]
        self._reversals = [
            Scan(f"{kind}s", 300, DAY_S, 30 * DAY_S, partial(self._take_reversals, kind))
            for kind in ReversalKind
        ]
        self._paid = Scan("paid_invoices", 300, DAY_S + 3600, 30 * DAY_S, self._take_invoices)

    async def run_forever(self, pace_s: float) -> None:
        """Sweep every `pace_s` seconds, or at once again while there is much to do. Until cancelled.

        Each sweep goes by itself: one that waits for Stripe keeps none from what needs no Stripe.
        """
        await asyncio.gather(*(self._keep_sweeping(name, pace_s) for name in self._sweeps))

    async def sweep(self) -> dict[str, int]:
        """One round of every sweep, all at once. How many things each took up."""
        counts = await asyncio.gather(*(self._sweep(name) for name in self._sweeps))
        return dict(zip(self._sweeps, counts, strict=True))

    async def _keep_sweeping(self, name: str, pace_s: float) -> None:
        _, every_s = self._sweeps[name]
        while True:
            done = await self._sweep(name)
            if every_s or done < BATCH:  # what has a pace of its own never hurries
                await asyncio.sleep(max(every_s, pace_s))

    async def _sweep(self, name: str) -> int:
        """One round of one sweep. An outage ends this round and no other."""
        sweep, _ = self._sweeps[name]
        began = time.perf_counter()
        try:
            return await sweep()
        except FAILURES as error:
            log.warning("sweep_interrupted", sweep=name, error=f"{type(error).__name__}: {error}")
        except Exception:
            # A bug in one sweep must not take the others down with it.
            log.exception("sweep_failed", sweep=name)
        finally:
            self._metrics.sweep_seconds.labels(name).observe(time.perf_counter() - began)
        return 0

    # What is due here

    async def unhandled_events(self) -> int:
        """Events stored but not handled, once their time has come."""
        async with write_transaction():
            due = StripeEvent.filter(next_attempt_at__lte=now()).order_by("next_attempt_at")
            rows = await locked(due.limit(BATCH), skip=True)
            await StripeEvent.filter(id__in=[row.id for row in rows]).update(next_attempt_at=now() + CLAIM)
        await _each(rows, self._handle)
        return len(rows)

    async def _handle(self, row: StripeEvent) -> None:
        try:
            await self._events.handle(decode(Event, row.payload), row.source)
        except Exception as error:
            # Whatever the reason: it is noted on the event, which comes again later or is parked.
            log.warning("event_failed_again", stripe_event=row.id, error=str(error), exc_info=True)

    async def due_invoices(self) -> int:
        """Open invoices whose time has come: ask Stripe, within what the budget leaves."""
        async with write_transaction():
            due = Invoice.filter(next_check_at__lte=now()).order_by("next_check_at")
            rows = await locked(due.limit(BATCH), skip=True)
            for row in rows:
                row.next_check_at = _next_check(row, now())
            if rows:
                await Invoice.bulk_update(rows, fields=["next_check_at"])
        await _each(rows, self._verify)
        return len(rows)

    async def _verify(self, row: Invoice) -> None:
        try:
            await self._verification.verify(row.id, Source.RECONCILIATION, STRIPE_PATIENCE_S)
        except StripeUnavailable as error:
            # Not this invoice's fault: its turn comes again soon, however old it is.
            log.info("reconciliation_postponed", invoice=row.id, error=str(error))
            with storage_errors():
                await Invoice.filter(id=row.id, next_check_at__isnull=False).update(
                    next_check_at=now() + timedelta(seconds=reconciler_delay_s(0))
                )
        except FAILURES as error:
            log.warning("reconciliation_failed", invoice=row.id, error=str(error))

    async def due_installments(self) -> int:
        """The monthly parts of yearly plans whose time has come. Each is given once, whoever else tries."""
        due = CreditGrant.filter(
            state=GrantState.PLANNED, due_at__lte=self._clock(), invoice__status=InvoiceStatus.ACTIVE
        )
        rows = await due.order_by("due_at").limit(BATCH).only("id")
        return sum(await _each(rows, self._make_installment))

    async def _make_installment(self, row: CreditGrant) -> bool:
        try:
            return await self._settlement.make_installment(row.id)
        except FAILURES as error:
            log.warning("installment_failed", grant=row.id, error=str(error))
            return False

    async def due_subscriptions(self) -> int:
        """Subscriptions of which something was heard, or should have been: what are they now?"""
        async with write_transaction():
            due = Subscription.filter(refresh_at__lte=self._clock()).order_by("refresh_at")
            rows = await locked(due.limit(BATCH), skip=True)
            claimed = self._clock() + CLAIM
            await Subscription.filter(id__in=[row.id for row in rows]).update(refresh_at=claimed)
        await _each(rows, self._read_subscription)
        return len(rows)

    async def _read_subscription(self, row: Subscription) -> None:
        try:
            await self._subscriptions.read(row.id, STRIPE_PATIENCE_S)
        except StripeUnavailable as error:
            log.info("subscription_postponed", subscription=row.id, error=str(error))
            soon = self._clock() + timedelta(seconds=reconciler_delay_s(0))
            with storage_errors():
                await Subscription.filter(id=row.id, refresh_at__gt=soon).update(refresh_at=soon)
        except FAILURES as error:
            log.info("subscription_postponed", subscription=row.id, error=str(error))

    async def expired_reservations(self) -> int:
        """Reservations past their time: what they hold goes back. Each ends once, whoever else tries."""
        due = Reservation.filter(state=ReservationState.HELD, expires_at__lte=self._clock())
        rows = await due.order_by("expires_at").limit(BATCH).only("account_id")
        return sum(await _each(sorted({row.account_id for row in rows}), self._lapse))

    async def _lapse(self, account_id: int) -> int:
        try:
            async with write_transaction():
                account = await ledger.lock_account(account_id)
                lapsed = await reservations.expire_due(account, self._clock())
            if lapsed:
                await self._settlement.publish_balance(account)
            return lapsed
        except FAILURES as error:
            log.warning("reservation_not_ended", account=account_id, error=str(error))
            return 0

    async def unpublished_versions(self) -> int:
        """Changes that were committed, and whose publisher died or found Redis away."""
        async with write_transaction():
            due = Invoice.filter(publish_due_at__lte=now()).order_by("publish_due_at")
            rows = await locked(due.limit(BATCH), skip=True)
            await Invoice.filter(id__in=[row.id for row in rows]).update(publish_due_at=now() + CLAIM)
        for status in await read_statuses(row.id for row in rows):
            await self._settlement.publish(status)
        return len(rows)

    async def prune(self) -> int:
        """What nobody needs any more: payloads of old events, the old end of the timeline."""
        return await prune(self._retention)

    # What Stripe's lists show

    async def undelivered_events(self) -> int:
        """Events that Stripe could not deliver, up to 30 days back: stored and handled here."""
        return sum([await scan(each) for each in self._undelivered])

    async def _take_events(
        self, types: Sequence[str], since: int, after: str | None
    ) -> tuple[int, str | None, bool]:
        page = await self._gateway.list_undelivered_events(types, since, after, STRIPE_PATIENCE_S)
        last, found = None, 0
        for raw in page.data:
            event = decode(Event, raw)
            last = event.id
            # An event that was stored before is left to whoever stored it.
            if not await StripeEvent.exists(id=event.id) and await store(
                event, bytes(raw).decode(), EventSource.LIST
            ):
                found += 1
                await self._handle(await StripeEvent.get(id=event.id))
        return found, last, page.has_more

    async def paid_invoices(self) -> int:
        """Paid invoices by creation: for what was answered 200 and lost, or never sent."""
        return await scan(self._paid)

    async def _take_invoices(self, since: int, after: str | None) -> tuple[int, str | None, bool]:
        page = await self._gateway.list_paid_invoices(since, after, STRIPE_PATIENCE_S)
        settled = Invoice.filter(id__in=[shape.id for shape in page.data], settled_at__not_isnull=True)
        known = {row.id for row in await settled.only("id")}
        missing = [shape for shape in page.data if shape.id not in known]
        outcomes = [await self.settle_paid(shape) for shape in missing]
        return (
            outcomes.count(Outcome.SETTLED),
            page.data[-1].id if page.data else None,
            page.has_more,
        )

    async def settle_paid(self, shape: StripeInvoice) -> Outcome:
        """Settle an invoice that a list showed as paid; read it whole where the list cut it off."""
        return (await self._verification.settle_paid(shape, Source.RECONCILIATION)).outcome

    async def reversals(self) -> int:
        """Refunds, disputes and credit notes by creation: what was answered 200 and lost, or never sent."""
        return sum([await scan(each) for each in self._reversals])

    async def _take_reversals(
        self, kind: ReversalKind, since: int, after: str | None
    ) -> tuple[int, str | None, bool]:
        page = await self._gateway.list_reversals(REVERSAL_STRUCTS[kind], since, after, STRIPE_PATIENCE_S)
        rows = await Reversal.filter(id__in=[shape.id for shape in page.data]).only("id", "status")
        known = {(row.id, row.status) for row in rows}
        news = [
            shape
            for shape in page.data
            if (shape.id, shape.status) not in known and shape.id not in self._strangers
        ]
        outcomes = [await self._take_reversal(shape) for shape in news]
        return outcomes.count(Outcome.SETTLED), page.data[-1].id if page.data else None, page.has_more

    async def _take_reversal(self, shape: StripeReversal) -> Outcome | None:
        try:
            outcome = await self._reversal_handler.handle(shape, Source.RECONCILIATION)
        except StripeRefused as error:
            # This one's own fault: the others are not to wait for it.
            log.warning("reversal_failed", reversal=shape.id, error=str(error))
            return None
        if outcome is Outcome.IRRELEVANT and len(self._strangers) < MAX_IGNORED_REVERSALS:
            self._strangers.add(shape.id)  # a call to Stripe each time it is listed, otherwise
        return outcome

    # What is watched over

    async def audit(self) -> int:
        """The books of the next accounts, round and round. A difference is an alarm, never a repair."""
        part = await audit_slice(self._audited_to)
        self._audited_to = part.last or 0
        for finding in part.findings:
            self._metrics.audit_differences.inc()
            log.error("audit_difference", subject=finding.subject, what=finding.what)
        return part.accounts

    async def alarms(self) -> int:
        seen = await look()
        seen.show(self._metrics)
        for alarm in seen.alarms:
            log.error("alarm", name=alarm.name, text=alarm.text)
        return len(seen.alarms)


async def _each(rows: Sequence[Row], work: Callable[[Row], Awaitable[Done]]) -> list[Done]:
    """`work` on each row, a few at once; what it answered for each."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(row: Row) -> Done:
        async with places:
            return await work(row)

    return await asyncio.gather(*(one(row) for row in rows))


def _next_check(row: Invoice, at: datetime) -> datetime:
    return at + timedelta(seconds=reconciler_delay_s((at - row.created_at).total_seconds()))
