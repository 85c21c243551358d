"""Verification: ask Stripe about one invoice, once, however many ask us.

Owns the lease that coalesces (a column of the invoice's row, so it holds across processes and
without Redis), and what a question is, for the queue of those who wait (`watches.py`), one by
one or by list. Refuses to credit: what Stripe says goes to `settlement.py` like everything else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import structlog

from paidup.clock import now
from paidup.db.bulk import execute
from paidup.db.connection import storage_errors
from paidup.domain.decisions import TERMINAL
from paidup.domain.messages import Stage, StatusMessage
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.errors import PaidupError, StorageUnavailable, StripeError, StripeUnavailable
from paidup.payments import bulk_verification as crowds
from paidup.payments.bulk_verification import TimeWindow
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.payments.verification_queue import CheckResult, VerificationQueue
from paidup.realtime.hub import Hub
from paidup.realtime.status_queries import read_status, read_statuses
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import Purpose
from paidup.stripe_api.schemas import Invoice as StripeInvoice

log = structlog.get_logger(__name__)

LEASE_S = 5.0
"""How long an asker that died keeps others from asking."""
RESULT_TTL_S = 0.4
"""How long an answer of "not yet" counts as fresh."""

SETTLED_AT_ONCE = 8
"""Of what a list shows: the webhooks need connections to the database, too."""

# ruff: noqa: S608 - made of constants, never of a value
_OVER = ", ".join(f"'{status.value}'" for status in TERMINAL)
_OPEN = f"id = $1 AND status NOT IN ({_OVER})"
_LEASE = (
    "UPDATE invoices SET lease_expires_at = $2, checks_made = checks_made + 1"
    f" WHERE {_OPEN} AND (lease_expires_at IS NULL OR lease_expires_at <= $3)"
)
_REST = f"UPDATE invoices SET lease_expires_at = $2 WHERE {_OPEN}"


class Verification:
    def __init__(
        self,
        gateway: StripeGateway,
        settlement: Settlement,
        prices: PriceCatalog,
        hub: Hub,
        timeline: Timeline,
    ) -> None:
        self._gateway = gateway
        self._settlement = settlement
        self._prices = prices
        self._hub = hub
        self._timeline = timeline
        self._watches = VerificationQueue(self)
        self._settling = asyncio.Semaphore(SETTLED_AT_ONCE)

    # For those who wait

    def watch(self, invoice: str, at_once: bool = True) -> None:
        """Somebody watches: verify as soon as there is a place, and again until it is over or nobody does.

        Not `at_once`: after the longest pause, unless the invoice is watched already.
        """
        self._watches.add(invoice, at_once)

    def unwatch(self, invoice: str) -> None:
        self._watches.remove(invoice)

    def prioritize(self, invoice: str) -> None:
        """A watcher says that something may have happened: verify now, and pace anew."""
        self._watches.prioritize(invoice)

    def asking(self, invoice: str) -> bool:
        """Whether this process is asking Stripe about the invoice, or will as soon as it may."""
        return self._watches.asking(invoice)

    async def close(self) -> None:
        """Give up what is under way; the leases run out by themselves."""
        await self._watches.close()

    # What the watches call (`Verifier`)

    async def place(self, max_wait_s: float) -> None:
        await self._gateway.place_to_read(max_wait_s)

    async def ask(self, invoice: str) -> CheckResult:
        try:
            if not await self._lease(invoice):
                return CheckResult(await self._nothing_left(invoice, None), asked=False)
            settled = await self._question(
                invoice, Source.VERIFICATION, partial(self._gateway.read_invoice, invoice, slot_acquired=True)
            )
            return CheckResult(await self._nothing_left(invoice, settled.status), asked=True)
        except (StripeUnavailable, StorageUnavailable) as error:
            log.info("verification_postponed", invoice=invoice, error=str(error))
        except PaidupError as error:
            log.warning("verification_failed", invoice=invoice, error=str(error))
        except Exception:
            log.exception("verification_failed", invoice=invoice)  # a bug with one may not end the watching
        return CheckResult(await self._nothing_left(invoice, None), asked=True)

    async def list_paid(self, invoices: list[str]) -> None:
        async def work() -> int:
            waiting = await crowds.pending_invoices(invoices)
            settled = await crowds.read_parts(crowds.parts_of(list(waiting.values())), self._take_part)
            log.info("crowd_listed", waiting=len(waiting), settled=settled)
            return settled

        try:
            await crowds.run_exclusively(work)
        except StorageUnavailable as error:
            log.warning("crowd_not_listed", error=str(error))

    async def late(self, invoices: list[str]) -> None:
        try:
            with storage_errors():
                statuses = await read_statuses(invoices)
        except StorageUnavailable as error:
            log.info("late_not_told", error=str(error))
            return
        for status in statuses:
            self._tell_stage(status)

    async def _take_part(self, part: TimeWindow) -> int:
        settled, after = 0, None
        for _ in range(crowds.PAGES_A_PART):
            page = await self._gateway.list_paid_invoices(part.since, after, until=part.until)
            waiting = await crowds.pending_invoices([shape.id for shape in page.data])
            settled += sum([await self._take_listed(shape) for shape in page.data if shape.id in waiting])
            if not page.has_more:
                break
            after = page.data[-1].id
        return settled

    async def _take_listed(self, shape: StripeInvoice) -> bool:
        self._timeline.note(
            shape.id,
            TimelineEventType.VERIFICATION_ANSWERED,
            source=Source.VERIFICATION,
            by="list",
            invoice_status=shape.status,
        )
        try:
            async with self._settling:
                return (await self.settle_paid(shape, Source.VERIFICATION)).outcome.done
        except PaidupError as error:
            # This one's own fault: the others on the page are not to wait for it.
            log.warning("verification_failed", invoice=shape.id, error=str(error))
            return False

    async def _nothing_left(self, invoice: str, status: StatusMessage | None) -> bool:
        """Whether there is nothing more to ask; where there is, the screens go back to their stage."""
        if status is None:
            try:
                with storage_errors():
                    status = await read_status(invoice)
            except StorageUnavailable:
                return False
        if status is None:
            return False  # its row is not committed yet (S04), and may come while somebody watches
        self._tell_stage(status)
        return status.terminal

    def _tell_stage(self, status: StatusMessage) -> None:
        if not status.terminal:
            waits = status.stage is Stage.WAITING and self._watches.is_late(status.invoice)
            self._hub.publish_stage(status.invoice, Stage.DELAYED if waits else status.stage)

    # For everybody

    async def verify(
        self, invoice: str, source: Source = Source.VERIFICATION, max_wait_s: float | None = None
    ) -> Settled | None:
        """Ask Stripe about `invoice` and settle what it says.

        None where it is over already, or where somebody else is asking or just did. Raises
        StripeUnavailable, StripeRefused, StorageUnavailable.
        """
        if not await self._lease(invoice):
            return None
        return await self._question(invoice, source, partial(self._gateway.read_invoice, invoice, max_wait_s))

    async def _question(
        self, invoice: str, source: Source, read: Callable[[], Awaitable[StripeInvoice]]
    ) -> Settled:
        try:
            if not self._watches.is_late(invoice):  # or the screen would leave its "delayed" again and again
                self._hub.publish_stage(invoice, Stage.VERIFYING)
            self._timeline.note(invoice, TimelineEventType.VERIFICATION_ASKED, source=source)
            began = time.monotonic()
            try:
                shape = await read()
            except StripeError as error:
                self._timeline.note(
                    invoice, TimelineEventType.VERIFICATION_FAILED, source=source, error=str(error)
                )
                raise
            facts = shape.facts()
            self._timeline.note(
                invoice,
                TimelineEventType.VERIFICATION_ANSWERED,
                source=source,
                took_ms=round((time.monotonic() - began) * 1000, 1),
                invoice_status=shape.status,
                payments=[payment.status for payment in facts.payments],
            )
            return await self.settle(facts, source)
        finally:
            await self._rest(invoice)

    async def read(
        self,
        invoice: str,
        source: Source,
        account_id: int | None = None,
        purpose: Purpose = Purpose.CUSTOMER,
    ) -> tuple[Settled, StripeInvoice]:
        """Read an invoice that may be unknown here, without a lease, and settle it."""
        shape = await self._gateway.read_invoice(invoice, purpose=purpose)
        return await self.settle(shape.facts(), source, account_id), shape

    async def settle(self, facts: PaymentFacts, source: Source, account_id: int | None = None) -> Settled:
        """Settle, and learn the prices anew where one is unknown."""
        settled = await self._settlement.settle(facts, source, account_id)
        if settled.outcome is Outcome.UNKNOWN_PRICE and await self._learned():
            settled = await self._settlement.settle(facts, source, account_id)
        if settled.status is not None and settled.status.terminal:
            self._watches.over(settled.status.invoice)
        return settled

    async def settle_paid(self, shape: StripeInvoice, source: Source) -> Settled:
        """Settle an invoice that a list showed as paid; read it whole where the list cut it off."""
        settled = await self.settle(shape.facts(), source)
        if settled.outcome is Outcome.NEEDS_REFETCH:
            settled, _ = await self.read(shape.id, source)
        return settled

    async def _learned(self) -> bool:
        try:
            return await self._prices.refresh()
        except StripeError as error:
            log.warning("prices_not_refreshed", error=str(error))
            return False

    async def _lease(self, invoice: str) -> bool:
        """Claim the right to ask. True for one claimant at a time, across all processes."""
        at = now()
        with storage_errors():
            return bool(await execute(_LEASE, invoice, at + timedelta(seconds=LEASE_S), at))

    async def _rest(self, invoice: str) -> None:
        """Shorten the lease to the time for which an answer counts as fresh."""
        with storage_errors():
            await execute(_REST, invoice, now() + timedelta(seconds=RESULT_TTL_S))
