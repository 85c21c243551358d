"""Verifies an invoice: reads it from Stripe once, however many callers ask, and settles the answer.

A lease in the invoice's row makes one call of many, across processes and without Redis. Grants no
credits: what Stripe says goes to the settlement, like any other facts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from datetime import datetime, timedelta
from functools import partial
from weakref import WeakValueDictionary

import structlog
from msgspec.structs import replace

from paidup.db.bulk import update_many
from paidup.db.connection import storage_errors
from paidup.db.leases import take_lease
from paidup.db.models import Invoice, StripeEvent
from paidup.db.shared_writes import ReadCells
from paidup.domain.decisions import TERMINAL, InvoiceStatus
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import InvoiceFacts, PaymentFacts, Source
from paidup.domain.stages import Stage
from paidup.errors import PaidupError, StorageUnavailable, StripeError, StripeRefused, StripeUnavailable
from paidup.payments.invoice_rows import IN_LOCK_ORDER, OF_ITS_ACCOUNT, is_older
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.settlement import Settlement
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.payments.verification_queue import VerificationQueue
from paidup.payments.verification_worker import CheckResult, Slot
from paidup.realtime.hub import Hub
from paidup.realtime.status_queries import read_status
from paidup.runtime import tracing
from paidup.runtime.batching import BackgroundBatcher
from paidup.runtime.clock import now
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import Purpose
from paidup.stripe_api.schemas import StripeInvoice

log = structlog.get_logger(__name__)

LEASE_S = 5.0
"""How long a process that died during a verification keeps the others from verifying."""
RESULT_TTL_S = 0.4
"""How long the answer "not yet" counts as fresh."""
REFRESH_TRIES = 10
"""So often, at intervals of half that, another process's read is waited for."""

# ruff: noqa: S608 - made of constants, never of a value
_TERMINAL = ", ".join(f"'{status.value}'" for status in TERMINAL)
_OPEN = f"status NOT IN ({_TERMINAL})"
_ACQUIRE_LEASE = (
    "UPDATE invoices SET lease_expires_at = $2, checks_made = checks_made + 1"
    f" WHERE id = $1 AND {_OPEN} AND (lease_expires_at IS NULL OR lease_expires_at <= $3)"
)


class Verification:
    """Settled invoices are marked in `queue`, and the stages of those that wait are shown through `hub`."""

    def __init__(
        self,
        gateway: StripeGateway,
        settlement: Settlement,
        prices: PriceCatalog,
        hub: Hub,
        timeline: Timeline,
        queue: VerificationQueue,
    ) -> None:
        self._gateway = gateway
        self._settlement = settlement
        self._prices = prices
        self._hub = hub
        self._timeline = timeline
        self._queue = queue
        self.under_way = queue.settlements
        self.give_way = queue.give_way
        self._ended_leases = BackgroundBatcher(_end_leases, RESULT_TTL_S / 2)
        self._may_read_methods = True
        self._refreshing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def verify(
        self, invoice: str, source: Source = Source.VERIFICATION, max_wait_s: float | None = None
    ) -> Settled | None:
        """Read `invoice` from Stripe and settle what it says.

        None where the invoice is final, or is being verified or was a moment ago. Raises
        StripeUnavailable, StripeRefused, StorageUnavailable.
        """
        leased = await self._acquire_lease(invoice)
        if leased is None:
            return None
        verified = await self._verify_leased(
            invoice, leased, source, partial(self._gateway.read_invoice, invoice, max_wait_s)
        )
        return verified[0] if verified else None

    async def read(
        self,
        invoice: str,
        source: Source,
        account_id: int | None = None,
        purpose: Purpose = Purpose.CUSTOMER,
    ) -> tuple[Settled, StripeInvoice]:
        """Read an invoice that may be unknown here, without a lease, and settle it."""
        read = await self._gateway.read_invoice(invoice, purpose=purpose)
        return await self.settle(read.facts(), source, account_id), read

    async def follow_intent(self, intent: str, source: Source) -> Settled | None:
        """Take up the invoice that this PaymentIntent pays, which is new here. None where it pays none."""
        invoice = await self._gateway.invoice_of_intent(intent)
        if invoice is None:
            return None
        settled, _ = await self.read(invoice, source)
        return settled

    async def refresh(self, invoice: str, source: Source) -> Settled | None:
        """Read an invoice that an event is about, unless it is settled: None, since no read could add to it.

        The events of one payment arrive together: they are taken one by one in this process, and by
        the lease in others, so that one read serves them all.
        """
        async with self._refreshing.setdefault(invoice, asyncio.Lock()):
            for _ in range(REFRESH_TRIES):
                with storage_errors():
                    status = await read_status(invoice)
                if status is None or status.status is InvoiceStatus.VOID:
                    break
                if status.settled:
                    return None
                if settled := await self.verify(invoice, source):
                    return settled
                # Another process reads it, perhaps since before this event: its answer may not suffice.
                await asyncio.sleep(RESULT_TTL_S / 2)
            settled, _ = await self.read(invoice, source)
            return settled

    async def settle(
        self,
        facts: PaymentFacts,
        source: Source,
        account_id: int | None = None,
        leased: ReadCells | None = None,
    ) -> Settled:
        """Settle, once the prices of its lines are known. Where one is not, read the plans' prices again."""
        if facts.invoice is not None:
            await self._prices.learn(facts.invoice.lines)
        settled = await self._settlement.settle(facts, source, account_id, leased)
        if settled.outcome is Outcome.UNKNOWN_PRICE and await self._refresh_prices():
            settled = await self._settlement.settle(facts, source, account_id)
        return await self._finish(settled, facts, source)

    async def settle_received(
        self, facts: PaymentFacts, source: Source, event: StripeEvent
    ) -> Settled | None:
        """Settle what a delivered event says: see `Settlement.settle_received`."""
        if facts.invoice is not None and not self._prices.are_known(facts.invoice.lines):
            return None
        with self.under_way.settling(facts.invoice.id) if facts.invoice else nullcontext():
            settled = await self._settlement.settle_received(facts, source, event)
        return settled and await self._finish(settled, facts, source)

    async def _finish(self, settled: Settled, facts: PaymentFacts, source: Source) -> Settled:
        if settled.method_unknown:
            settled = await self._settle_with_method(settled, facts, source)
        if settled.status is not None and settled.status.settled:
            self._queue.mark_settled(settled.status.invoice)
        return settled

    async def _settle_with_method(self, settled: Settled, facts: PaymentFacts, source: Source) -> Settled:
        """A payment is processing: read its method, since a bank debit takes days. Once for each payment.

        Where Stripe does not answer, the next verification asks again; where the key may not, none does.
        """
        processing = [payment.intent for payment in facts.payments if payment.status == "processing"]
        if not (processing and self._may_read_methods):
            return settled
        try:
            intent = await self._gateway.read_intent(processing[-1])
        except StripeError as error:
            if isinstance(error, StripeRefused) and error.http_status == 403:
                self._may_read_methods = False  # until a restart: the key is a setting
            log.warning("payment_method_not_read", invoice=settled.invoice, error=str(error))
            return settled
        link = next(each.invoice for each in facts.payments if each.intent == intent.id)
        again = await self._settlement.settle(PaymentFacts(payments=(intent.facts(link),)), source)
        return replace(again, event_marked=settled.event_marked, created=settled.created)

    async def void_missing(self, row: Invoice) -> None:
        """Settle as void an invoice that Stripe has deleted. Should it be paid after all, it is credited."""
        facts = InvoiceFacts(
            id=row.id,
            status="void",
            customer=row.customer,
            currency=row.currency,
            amount_due_minor=row.amount_due_minor,
            amount_paid_minor=0,
            amount_remaining_minor=row.amount_due_minor,
            total_minor=row.total_minor,
            from_balance_minor=row.from_balance_minor,
            finalized_at=None,
            sequence=row.sequence,
            billing_reason=row.billing_reason,
            subscription=row.subscription,
            created=int(row.created_at.timestamp()),
            lines=(),
            lines_complete=False,
        )
        await self.settle(PaymentFacts(facts), Source.VERIFICATION)

    async def settle_paid(self, listed: StripeInvoice, source: Source) -> Settled:
        """Settle an invoice that a list showed as paid; where the list shows only part of it, read it."""
        settled = await self.settle(listed.facts(), source)
        if settled.outcome is Outcome.NEEDS_REFETCH:
            settled, _ = await self.read(listed.id, source)
        return settled

    async def close(self) -> None:
        """End the leases of what was verified last, so that another process need not wait for them."""
        await self._ended_leases.flush()

    # For the worker of the queue

    async def check(self, invoice: str, slot: Slot | None = None) -> CheckResult:
        """Verify an invoice of the queue. Never raises. Without a `slot`, one was acquired."""
        with tracing.operation("verify"):
            return await self._check(invoice, slot)

    async def _check(self, invoice: str, slot: Slot | None) -> CheckResult:
        try:
            leased = await self._acquire_lease(invoice)
            if leased is None:
                return await self._result(invoice, None, used_slot=False)
            verified = await self._verify_leased(
                invoice,
                leased,
                Source.VERIFICATION,
                partial(self._gateway.read_invoice, invoice, slot_acquired=True),
                slot,
            )
            if verified is None:
                return await self._result(invoice, None, used_slot=False)
            settled, facts = verified
            result = await self._result(invoice, settled.status, answered=True)
            awaits_payment = result.awaits_payment and not is_older(leased, facts)
            return result._replace(awaits_payment=awaits_payment)
        except (StripeUnavailable, StorageUnavailable) as error:
            log.info("verification_postponed", invoice=invoice, error=str(error))
        except PaidupError as error:
            log.warning("verification_failed", invoice=invoice, error=str(error))
        except Exception:
            log.exception(
                "verification_failed", invoice=invoice
            )  # one invoice's bug must not stop the others
        return await self._result(invoice, None)

    async def _result(
        self, invoice: str, status: StatusMessage | None, answered: bool = False, used_slot: bool = True
    ) -> CheckResult:
        """Whether something is left to check, and how soon. Then the browsers show the row's stage.

        Unless Stripe has not `answered`: the row may be older than the payment.
        """
        if status is None:
            try:
                with storage_errors():
                    status = await read_status(invoice)
            except StorageUnavailable:
                return CheckResult(False, used_slot)
        if status is None:  # its row is not committed yet (S04), but may be while somebody watches
            return CheckResult(False, used_slot)
        if not status.terminal and (answered or status.stage is not Stage.AWAITING_PAYMENT):
            self._hub.publish_stage(invoice, status.stage, status.version)
        return CheckResult(
            status.settled,
            used_slot,
            takes_days=answered and status.processing is not None,
            awaits_payment=answered and status.stage is Stage.AWAITING_PAYMENT,
        )

    async def _verify_leased(
        self,
        invoice: str,
        leased: ReadCells,
        source: Source,
        read: Callable[[], Awaitable[StripeInvoice]],
        slot: Slot | None = None,
    ) -> tuple[Settled, PaymentFacts] | None:
        """None where the check is not needed any more once it has its slot."""
        settled: Settled | None = None
        try:
            if slot is not None and not await slot():
                return None
            facts = await self._read_facts(invoice, source, read)
            settled = await self.settle(facts, source, leased=leased)
            return settled, facts
        finally:
            final = settled is not None and settled.status is not None and settled.status.terminal
            if not final:  # a final row is leased no more: see _OPEN
                # Written before this time, together with others: until then, the lease holds either way.
                self._ended_leases.add((invoice, now() + timedelta(seconds=RESULT_TTL_S)))

    async def _read_facts(
        self, invoice: str, source: Source, read: Callable[[], Awaitable[StripeInvoice]]
    ) -> PaymentFacts:
        """Read the invoice, with the request and its answer noted in the timeline."""
        self._timeline.note(invoice, TimelineEventType.VERIFICATION_ASKED, source=source)
        began = time.monotonic()
        try:
            await asyncio.sleep(0)  # messages have a turn: see `WholeAnswerClient`
            answer = await read()
            await asyncio.sleep(0)
        except StripeError as error:
            self._timeline.note(
                invoice, TimelineEventType.VERIFICATION_FAILED, source=source, error=str(error)
            )
            raise
        facts = answer.facts()
        self._timeline.note(
            invoice,
            TimelineEventType.VERIFICATION_ANSWERED,
            source=source,
            took_ms=round((time.monotonic() - began) * 1000, 1),
            invoice_status=answer.status,
            payments=[payment.status for payment in facts.payments],
        )
        return facts

    async def _refresh_prices(self) -> bool:
        try:
            return await self._prices.refresh()
        except StripeError as error:
            log.warning("prices_not_refreshed", error=str(error))
            return False

    async def _acquire_lease(self, invoice: str) -> ReadCells | None:
        """Claim the right to verify. One claimant at a time gets the rows, across all processes."""
        await self.under_way.ended(invoice)
        at = now()
        values = (invoice, at + timedelta(seconds=LEASE_S), at)
        with storage_errors():
            return await take_lease(_ACQUIRE_LEASE, OF_ITS_ACCOUNT, IN_LOCK_ORDER, values)


async def _end_leases(leases: Sequence[tuple[str, datetime]]) -> None:
    """Keep each lease only for as long as the answer counts as fresh."""
    # In one order in all processes, or two of them might wait for each other's rows.
    await update_many(
        Invoice,
        "lease_expires_at = {lease_expires_at}",
        _OPEN,
        ("id", "lease_expires_at"),
        sorted(dict(leases).items()),
        durable=False,
    )
