"""Verifies a Checkout Session: reads it from Stripe once, with its invoice, and settles what it says.

A session never grants credits. It leads to the row of an invoice: Stripe's, or, where a one-time
payment has none, a row of the session's own id. The settlement grants for that row. A lease in the
session's row makes one call of many, as `Verification` does for invoices.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog
from tortoise.expressions import F, Q

from paidup.db.connection import locked, repeatable, storage_errors, write_transaction
from paidup.db.installation import installed_at
from paidup.db.models import Account, CheckoutSession, Invoice
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import Source
from paidup.errors import PaidupError, StorageUnavailable, StripeRefused, StripeUnavailable
from paidup.payments.checkout_rows import (
    announce_unclaimed,
    awaits_claim,
    lines_of,
    new_row,
    next_check,
    told,
    update_row,
)
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.session_owners import Owner, is_decided, owner_of_session
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.payments.verification import LEASE_S, REFRESH_TRIES, RESULT_TTL_S, Verification
from paidup.payments.verification_queue import VerificationQueue
from paidup.payments.verification_worker import CheckResult, Slot
from paidup.realtime.hub import Hub
from paidup.realtime.publishing import publish_checkout, show_checkout_stage
from paidup.realtime.status_queries import read_status
from paidup.runtime.clock import at_unix, now
from paidup.stripe_api.checkout_schemas import COMPLETE, EXPIRED, OPEN, PAID, StripeCheckoutSession
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.schemas import StripeInvoice

log = structlog.get_logger(__name__)

SETUP = "setup"
"""The mode of a session that only saves a card."""
MISSED_FOR_S = 60.0
"""How long an id that Stripe does not have, or that is not ours, is not read again."""
MAX_MISSED = 10_000
MAX_OPEN = timedelta(days=1)
"""Stripe expires a session that was not completed: https://docs.stripe.com/api/checkout/sessions/object"""
PAST = Settled(Outcome.PAID_ELSEWHERE, "it was paid before this installation began")
NO_SESSION = Settled(Outcome.IRRELEVANT, "Stripe has no such Checkout Session, or it sells no plan")


PublishStatus = Callable[[StatusMessage], Awaitable[None]]
"""Publishes the status of an invoice, and records that: `Settlement.publish`."""


class CheckoutVerification:
    def __init__(
        self,
        gateway: StripeGateway,
        verification: Verification,
        publish: PublishStatus,
        prices: PriceCatalog,
        hub: Hub,
        queue: VerificationQueue,
        timeline: Timeline,
    ) -> None:
        self._hub = hub
        self._sessions = gateway.checkout_sessions
        self._verification = verification
        self._publish = publish
        self._prices = prices
        self._timeline = timeline
        self._queue = queue
        self._missed: OrderedDict[str, float] = OrderedDict()

    async def verify(
        self,
        session: str,
        source: Source = Source.VERIFICATION,
        max_wait_s: float | None = None,
        slot_acquired: bool = False,
    ) -> Settled | None:
        """Read the session from Stripe, or the invoice that it led to, and settle what that says.

        None where nothing is left to read, or it is being read or was a moment ago. A session that is new
        here is read once, and kept if it sells a plan. Raises StripeError, StorageUnavailable.
        """
        with storage_errors():
            row = await CheckoutSession.get_or_none(id=session)
        if row is None:
            return None if self._is_missed(session) else await self._read_new(session, source, max_wait_s)
        if row.invoice:
            return await self._verification.verify(row.invoice, source, max_wait_s)
        if not await self._acquire_lease(row):
            return None
        try:
            return await self._read(session, source, max_wait_s, slot_acquired)
        finally:
            await self._shorten_lease(session)

    async def refresh(self, session: str, source: Source) -> Settled:
        """Read a session that an event is about, even if it was read a moment ago, unless it is settled.

        What is remembered of it may be older than the event: that Stripe has none, or that it expired.
        Raises StripeRefused where Stripe has none: it shows some events before their objects.
        """
        for _ in range(REFRESH_TRIES):
            with storage_errors():
                row = await CheckoutSession.get_or_none(id=session)
                status = await read_status(row.invoice) if row and row.invoice else None
            if row is not None and status is not None and status.settled:
                if row.payment_status not in PAID and status.credits_granted:
                    break  # an event of another API version has not shown that it is paid
                return Settled(Outcome.ALREADY_SETTLED, "nothing is left to read")
            if row is None or (row.status == EXPIRED and row.invoice is None):
                break  # it has no lease
            if settled := await self.verify(session, source):
                return settled
            # It is being read, perhaps since before this event: the answer may not suffice.
            await asyncio.sleep(RESULT_TTL_S / 2)
        return await self._read(session, source, None, slot_acquired=False)

    async def take(self, shown: StripeCheckoutSession, source: Source) -> Settled:
        """Keep what Stripe says of a session, and settle the invoice that it has led to.

        `shown` may be older than the row: a session never opens again. Raises StripeError,
        StorageUnavailable.
        """
        if shown.mode == SETUP:
            return NO_SESSION
        if not await self._is_known(shown) and (foreign := await self._foreign(shown)):
            return foreign
        row = await self.keep(shown)
        if row.status != COMPLETE:
            return Settled(Outcome.NOT_YET, f"the session is {row.status}")
        if shown.invoice is None and not shown.has_no_invoice:
            # Its event is tried again, and alarms an operator should none ever come.
            return Settled(Outcome.NEEDS_REFETCH, "the session is complete, and has no invoice yet")
        if isinstance(shown.invoice, str) and row.invoice != row.id:
            settled = await self._known(shown.invoice)
            if settled is None:
                return Settled(Outcome.NEEDS_REFETCH, f"the invoice {shown.invoice} is not known here")
        else:
            settled = await self._settle(shown, source, row)
        if settled.status is not None:
            await self._link(row.id, settled)
        return settled

    async def forget(self, session: str) -> None:
        """Stripe has deleted an open session, as "delete all test data" does: nobody can pay it."""
        with storage_errors():
            is_open = CheckoutSession.filter(id=session, status=OPEN)
            forgotten = await is_open.update(status=EXPIRED, next_check_at=None)
        self._queue.mark_settled(session)
        if forgotten:
            await publish_checkout(self._hub, session)

    # For the worker of the queue

    async def check(self, session: str, slot: Slot) -> CheckResult:
        """Verify a session of the queue, with its slot. Never raises."""
        try:
            with storage_errors():
                row = await CheckoutSession.get_or_none(id=session)
            if row is not None and awaits_claim(row):
                return CheckResult(settled=False, used_slot=False)
            if row is not None and row.invoice:
                checked = await self._verification.check(row.invoice, slot)
                await show_checkout_stage(self._hub, session, checked.used_slot)
                return checked
            if not await slot():
                return CheckResult(settled=False, used_slot=False)
            settled = await self.verify(session, slot_acquired=True)
            await show_checkout_stage(self._hub, session, settled is not None)
            return CheckResult(await self._is_over(session), used_slot=settled is not None)
        except (StripeUnavailable, StorageUnavailable) as error:
            log.info("verification_postponed", checkout=session, error=str(error))
        except PaidupError as error:
            log.warning("verification_failed", checkout=session, error=str(error))
        except Exception:
            log.exception("verification_failed", checkout=session)  # a bug must not stop the others
        return CheckResult(settled=False, used_slot=True)

    async def _read_new(self, session: str, source: Source, max_wait_s: float | None) -> Settled:
        """Read without a lease, which a session that is unknown here has not."""
        try:
            return await self._read(session, source, max_wait_s, slot_acquired=False)
        except StripeRefused as error:
            if not error.is_missing:
                raise
            self._remember_missed(session)
            return NO_SESSION

    async def _is_over(self, session: str) -> bool:
        """Whether nothing is left to check."""
        with storage_errors():
            row = await CheckoutSession.get_or_none(id=session)
            status = await read_status(row.invoice) if row and row.invoice else None
        if row is None:
            return self._is_missed(session)
        return status.settled if status else row.status == EXPIRED

    async def _read(
        self, session: str, source: Source, max_wait_s: float | None, slot_acquired: bool
    ) -> Settled:
        self._timeline.note(session, TimelineEventType.VERIFICATION_ASKED, source=source)
        began = time.monotonic()
        try:
            read = await self._sessions.read(session, max_wait_s, slot_acquired)
        except (StripeRefused, StripeUnavailable) as error:
            failed = TimelineEventType.VERIFICATION_FAILED
            self._timeline.note(session, failed, source=source, error=str(error))
            raise
        self._timeline.note(
            session,
            TimelineEventType.VERIFICATION_ANSWERED,
            source=source,
            took_ms=round((time.monotonic() - began) * 1000, 1),
            session_status=read.status,
            payment_status=read.payment_status,
        )
        settled = await self.take(read, source)
        if settled in (NO_SESSION, PAST):
            self._remember_missed(session)
        return settled

    async def _is_known(self, shown: StripeCheckoutSession) -> bool:
        """Whether it is followed already, names an account of ours, or led to an invoice of ours."""
        with storage_errors():
            if await CheckoutSession.exists(id=shown.id):
                return True
            if shown.account and await Account.exists(external_id=shown.account):
                return True
            return shown.invoice_id is not None and await Invoice.exists(id=shown.invoice_id)

    async def _foreign(self, shown: StripeCheckoutSession) -> Settled | None:
        """The outcome of a session that sells no plan, or was paid before our time; None for one of ours."""
        lines = lines_of(shown)
        await self._prices.learn(lines)
        if any(self._prices.is_ours(line.price, line.product) for line in lines):
            past = shown.complete and at_unix(shown.created) < await installed_at() - MAX_OPEN
            return PAST if past else None
        prices = [line.price for line in lines if line.price]
        unread = [price for price in prices if not self._prices.sells_nothing(price)]
        text = f"prices that are not read yet: {', '.join(unread)}"
        return Settled(Outcome.UNKNOWN_PRICE, text) if unread else NO_SESSION

    async def _known(self, invoice: str) -> Settled | None:
        """What is known of an invoice that Stripe shows by its id alone; None where it must be read."""
        with storage_errors():
            status = await read_status(invoice)
        if status is None or not status.settled:
            return None
        return Settled(Outcome.ALREADY_SETTLED, "already settled", invoice, status)

    async def _settle(self, shown: StripeCheckoutSession, source: Source, row: CheckoutSession) -> Settled:
        by_itself = row.invoice == row.id or shown.has_no_invoice
        facts = shown.as_invoice().facts() if by_itself else shown.facts()
        settled = await self._verification.settle(facts, source, row.account_id)
        invoice = shown.invoice
        if by_itself or not isinstance(invoice, StripeInvoice):
            return settled
        if settled.outcome is Outcome.NEEDS_REFETCH or (invoice.status == OPEN and settled.status):
            # The invoice's payments came without their intents, which say more while it is open.
            settled, _ = await self._verification.read(invoice.id, source, row.account_id)
        return settled

    async def keep(self, shown: StripeCheckoutSession) -> CheckoutSession:
        """Write what Stripe shows into the session's row, which is made where there is none."""
        row, changed = await self._write(shown, await owner_of_session(shown))
        if row.status == EXPIRED:
            self._queue.mark_settled(row.id)
        if changed:
            await publish_checkout(self._hub, row.id)
        return row

    @repeatable
    async def _write(self, shown: StripeCheckoutSession, owner: Owner) -> tuple[CheckoutSession, bool]:
        """The row, and whether browsers should be told of a change that no invoice tells them."""
        at = now()
        async with write_transaction():
            await CheckoutSession.bulk_create([new_row(shown, at)], ignore_conflicts=True)
            row = await locked(CheckoutSession.filter(id=shown.id)).get()
            before, waited = told(row), row.fetched_at is not None and awaits_claim(row)
            update_row(row, shown, at, self._prices)
            if not is_decided(row):
                row.account_id, row.named_by_payer = owner
            row.next_check_at = next_check(row, at)
            await row.save()
            if awaits_claim(row) and not waited:
                await announce_unclaimed(row)
        return row, told(row) != before

    @repeatable
    async def _link(self, session: str, settled: Settled) -> None:
        """Tie the session and its invoice to each other, and tell the browsers that wait for the session."""
        status = settled.status
        assert status is not None
        async with write_transaction():
            linked = await Invoice.filter(id=status.invoice, checkout__isnull=True).update(checkout=session)
            invoice = await Invoice.get(id=status.invoice).only("id", "plan", "price", "account_id")
            known = {"invoice": invoice.id, "plan": invoice.plan, "price": invoice.price}
            new = CheckoutSession.filter(id=session, invoice__isnull=True)
            # What was credited: the metadata of the invoice may name another account.
            linked += await new.update(**known, account_id=invoice.account_id, next_check_at=None)
        if status.settled:
            self._queue.mark_settled(session)
        if linked:
            await self._publish(status)

    async def _acquire_lease(self, row: CheckoutSession) -> bool:
        """Claim the right to verify. True for one claimant at a time, across all processes."""
        if row.status == EXPIRED:
            return False
        at = now()
        free = Q(lease_expires_at__isnull=True) | Q(lease_expires_at__lte=at)
        with storage_errors():
            claimed = CheckoutSession.filter(free, id=row.id)
            leased = at + timedelta(seconds=LEASE_S)
            return bool(await claimed.update(lease_expires_at=leased, checks_made=F("checks_made") + 1))

    async def _shorten_lease(self, session: str) -> None:
        """Keep the lease only for as long as the answer counts as fresh."""
        until = now() + timedelta(seconds=RESULT_TTL_S)
        with storage_errors():
            await CheckoutSession.filter(id=session).update(lease_expires_at=until)

    def _is_missed(self, session: str) -> bool:
        return time.monotonic() < self._missed.get(session, float("-inf"))

    def _remember_missed(self, session: str) -> None:
        self._missed.pop(session, None)
        self._missed[session] = time.monotonic() + MISSED_FOR_S
        while len(self._missed) > MAX_MISSED:
            self._missed.popitem(last=False)
