"""The rows whose time has come: events, invoices, installments, subscriptions, reservations and so on.

Each method is one bounded sweep. A row is claimed by moving its due time on, in a transaction that
skips rows which another reconciler is claiming. So any number of reconcilers may run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from paidup.credits import ledger
from paidup.credits import reservations as held_credits
from paidup.db.connection import connection, is_sqlite, locked, storage_errors, write_transaction
from paidup.db.models import (
    PLANNED,
    SPENDABLE,
    Invoice,
    Reservation,
    ReservationState,
    StripeEvent,
    Subscription,
)
from paidup.db.unit_accounts import in_all_units
from paidup.domain.backoff import FIRST_CHECK_S, reconciler_delay_s
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.delayed_methods import DELAYED_METHODS, VOUCHER_METHODS
from paidup.domain.entitlements import ENDED
from paidup.domain.payment_facts import Source
from paidup.errors import StripeUnavailable
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.realtime.status_queries import read_statuses
from paidup.reconciliation.abandoned_purchases import AbandonedPurchases
from paidup.reconciliation.failures import FAILURES
from paidup.reconciliation.stripe_events import Events
from paidup.runtime.clock import Clock, now
from paidup.stripe_api.rate_limiter import BACKGROUND_MAX_WAIT_S
from paidup.subscriptions.sync import SubscriptionSync

log = structlog.get_logger(__name__)

BATCH = 50
MAX_CONCURRENT = 5
CLAIM = timedelta(seconds=60)
"""How long the work on a claimed row may take before another reconciler may try."""

Row = TypeVar("Row")
Result = TypeVar("Result")


def ended_grants() -> str:
    """The statement that finds grants whose time is over at $1, by the index on those with credits to spend.

    No database uses such an index for a condition that has a parameter in place of 'live'. SQLite, which
    takes any condition on one state for a rare one, needs to be told that it is not.
    """
    text = f"""SELECT account_id FROM credit_grants WHERE {SPENDABLE} AND expires_at <= $1
AND (usable_until IS NULL OR usable_until <= $1) ORDER BY expires_at LIMIT {BATCH}"""  # noqa: S608
    return text.replace("state = 'live'", "likely(state = 'live')").replace("$", "?") if is_sqlite() else text


def _due_installments() -> str:
    """The statement that finds planned installments that are due at $1, by the index on these."""
    active = f"JOIN invoices ON invoices.id = invoice_id AND invoices.status = '{InvoiceStatus.ACTIVE.value}'"
    text = f"""SELECT credit_grants.id AS id FROM credit_grants {active}
WHERE {PLANNED} AND due_at <= $1 ORDER BY due_at LIMIT {BATCH}"""  # noqa: S608
    return text.replace("$", "?") if is_sqlite() else text


class DueRows:
    def __init__(
        self,
        settlement: Settlement,
        verification: Verification,
        events: Events,
        subscriptions: SubscriptionSync,
        abandoned: AbandonedPurchases,
        clock: Clock,
    ) -> None:
        self._settlement = settlement
        self._verification = verification
        self._events = events
        self._subscriptions = subscriptions
        self._abandoned = abandoned
        self._clock = clock

    async def events(self) -> int:
        """Handle stored events that are due."""
        async with write_transaction():
            due = StripeEvent.filter(next_attempt_at__lte=now()).order_by("next_attempt_at")
            rows = await locked(due.limit(BATCH), skip=True)
            await StripeEvent.filter(id__in=[row.id for row in rows]).update(next_attempt_at=now() + CLAIM)
        await for_each(rows, self._events.retry)
        return len(rows)

    async def invoices(self) -> int:
        """Verify open invoices that are due, as far as the rate limiter leaves slots."""
        async with write_transaction():
            due = Invoice.filter(next_check_at__lte=now()).order_by("next_check_at")
            rows = await locked(due.limit(BATCH), skip=True)
            for row in rows:
                row.next_check_at = _next_check(row, now())
            if rows:
                await Invoice.bulk_update(rows, fields=["next_check_at"])
        await for_each(rows, self._verify)
        return len(rows)

    async def _verify(self, row: Invoice) -> None:
        try:
            if self._abandoned.may_include(row):
                await self._abandoned.end(row)
            else:
                await self._verification.verify(row.id, Source.RECONCILIATION, BACKGROUND_MAX_WAIT_S)
            await self._stop_if_over(row)
        except StripeUnavailable as error:
            # No failure of this invoice: it is due again soon, however old it is.
            log.info("reconciliation_postponed", invoice=row.id, error=str(error))
            with storage_errors():
                await Invoice.filter(id=row.id, next_check_at__isnull=False).update(
                    next_check_at=now() + timedelta(seconds=FIRST_CHECK_S)
                )
        except FAILURES as error:
            log.warning("reconciliation_failed", invoice=row.id, error=str(error))

    async def _stop_if_over(self, row: Invoice) -> None:
        """Verify it no more if its subscription has ended: Stripe tries no other payment of it."""
        if row.subscription is None or row.status is InvoiceStatus.PROCESSING:
            return
        with storage_errors():
            if await Subscription.exists(id=row.subscription, status__in=ENDED):
                await (
                    Invoice.filter(id=row.id)
                    .exclude(status=InvoiceStatus.PROCESSING)
                    .update(next_check_at=None)
                )

    async def installments(self) -> int:
        """Grant due installments of yearly plans. Each is granted once, even by several at a time."""
        _, rows = await connection().execute_query(_due_installments(), [self._clock()])
        return sum(await for_each([row["id"] for row in rows], self._make_installment))

    async def _make_installment(self, grant: int) -> bool:
        try:
            return await self._settlement.make_installment(grant)
        except FAILURES as error:
            log.warning("installment_failed", grant=grant, error=str(error))
            return False

    async def subscriptions(self) -> int:
        """Read subscriptions that an event was about, or of which an event should have arrived."""
        async with write_transaction():
            due = Subscription.filter(refresh_at__lte=self._clock()).order_by("refresh_at")
            rows = await locked(due.limit(BATCH), skip=True)
            claimed = self._clock() + CLAIM
            await Subscription.filter(id__in=[row.id for row in rows]).update(refresh_at=claimed)
        await for_each(rows, self._read_subscription)
        return len(rows)

    async def _read_subscription(self, row: Subscription) -> None:
        try:
            await self._subscriptions.read(row.id, BACKGROUND_MAX_WAIT_S)
        except StripeUnavailable as error:
            log.info("subscription_postponed", subscription=row.id, error=str(error))
            soon = self._clock() + timedelta(seconds=FIRST_CHECK_S)
            with storage_errors():
                await Subscription.filter(id=row.id, refresh_at__gt=soon).update(refresh_at=soon)
        except FAILURES as error:
            log.info("subscription_postponed", subscription=row.id, error=str(error))

    async def reservations(self) -> int:
        """Expire reservations and return their credits. Each expires once, even by several at a time."""
        due = Reservation.filter(state=ReservationState.HELD, expires_at__lte=self._clock())
        rows = await due.order_by("expires_at").limit(BATCH).only("account_id")
        return sum(await for_each(sorted({row.account_id for row in rows}), self._expire))

    async def _expire(self, account_id: int) -> int:
        try:
            async with write_transaction():
                account = await ledger.lock_account(account_id)
                units = in_all_units(account)
                expired = sum([await held_credits.expire_due(each, self._clock()) for each in units])
            if expired:
                await self._settlement.publish_balance(account)
            return expired
        except FAILURES as error:
            log.warning("reservation_not_expired", account=account_id, error=str(error))
            return 0

    async def grants(self) -> int:
        """End grants whose time is over: then the balance is right, although nobody has asked for it."""
        with storage_errors():
            _, rows = await connection().execute_query(ended_grants(), [self._clock()])
        return sum(await for_each(sorted({row["account_id"] for row in rows}), self._end_grants))

    async def _end_grants(self, account_id: int) -> int:
        try:
            async with write_transaction():
                account = await ledger.lock_account(account_id)
                before = account.version
                for each in in_all_units(account):
                    await ledger.expire_due(each, self._clock())
            if account.version != before:
                await self._settlement.publish_balance(account)
            return 1
        except FAILURES as error:
            log.warning("grants_not_ended", account=account_id, error=str(error))
            return 0

    async def versions(self) -> int:
        """Publish changes that were committed and not published: the process died, or Redis was down."""
        async with write_transaction():
            due = Invoice.filter(publish_due_at__lte=now()).order_by("publish_due_at")
            rows = await locked(due.limit(BATCH), skip=True)
            await Invoice.filter(id__in=[row.id for row in rows]).update(publish_due_at=now() + CLAIM)
        if ids := [row.id for row in rows if row.provisioning_until is not None]:
            await self._settlement.provisioning.end_over(ids)
        for status in await read_statuses(row.id for row in rows):
            await self._settlement.publish(status)
        return len(rows)


async def for_each(rows: Sequence[Row], work: Callable[[Row], Awaitable[Result]]) -> list[Result]:
    """Run `work` on each row, a few at a time. Its results, in order."""
    slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def run_one(row: Row) -> Result:
        async with slots:
            return await work(row)

    return await asyncio.gather(*(run_one(row) for row in rows))


def _next_check(row: Invoice, at: datetime) -> datetime | None:
    processing = row.status is InvoiceStatus.PROCESSING
    takes_days = processing and row.payment_method in {*DELAYED_METHODS, *VOUCHER_METHODS}
    delay_s = reconciler_delay_s((at - row.created_at).total_seconds(), processing, takes_days)
    return None if delay_s is None else at + timedelta(seconds=delay_s)
