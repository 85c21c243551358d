"""The only code that grants credits. Verification, webhooks and the reconciler all end here.

One transaction turns facts into ledger entries: lock the invoice, decide, grant, post the entry,
update balance, status and version; after the commit, publish (`after_commit.py`). Refunds and
disputes, the installments of a yearly plan and the end of a subscription go the same way. Makes no
call to Stripe: it receives facts, and imports neither the gateway nor the hub (`publish` is passed in).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from msgspec.structs import replace
from tortoise.exceptions import IntegrityError
from tortoise.expressions import Q

from paidup.credits import grants as granting
from paidup.credits import ledger, renewal_grace, reversals
from paidup.credits.reversals import ReversalNews, operators_reversal
from paidup.db.connection import repeatable, storage_errors, write_transaction
from paidup.db.models import Account, CreditGrant, GrantState, Invoice, StripeEvent, Subscription
from paidup.db.shared_writes import ReadCells
from paidup.db.unit_accounts import in_unit
from paidup.db.unit_of_work import UnitOfWork, read_locked, read_rows
from paidup.domain.catalog import Catalogue, OnCancel, StripePrice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.errors import TransactionAborted
from paidup.payments import entitlements
from paidup.payments.after_commit import AfterCommit, Publish, PublishBalance
from paidup.payments.invoice_intake import create_invoice
from paidup.payments.invoice_rows import (
    IN_LOCK_ORDER,
    lock_invoice,
    lookup_condition,
    write_change,
)
from paidup.payments.outcomes import Outcome, Settled
from paidup.payments.settlement_batches import SettlementBatches
from paidup.payments.settlement_rules import SettlementRules
from paidup.payments.timeline import Timeline
from paidup.realtime.status_queries import status_of
from paidup.runtime import tracing
from paidup.runtime.clock import Clock, now
from paidup.runtime.metrics import Metrics

MAX_TRIES = 3


async def record_nothing(_: Account) -> None:
    """For a reversal that Stripe has made."""


def _is_paid_after_all(settled: Settled, facts: PaymentFacts) -> bool:
    """Whether Stripe shows an invoice as paid that an operator had credited, and revoked."""
    status, invoice = settled.status, facts.invoice
    revoked = status is not None and (status.status, status.via) == (InvoiceStatus.REVERSED, Source.OPERATOR)
    return revoked and invoice is not None and invoice.status == "paid"


def _needs_more(settled: Settled, facts: PaymentFacts) -> bool:
    """Whether something is to be read, written or reported for an event of which nothing is stored yet."""
    if settled.event_marked:
        return False
    # A refusal is reported each time, so only once the event is known to be no repeated delivery.
    refused = settled.outcome is Outcome.REFUSED
    return refused or settled.method_unknown or _is_paid_after_all(settled, facts)


class Settlement:
    """`clock` is Stripe's calendar: see runtime/clock.py."""

    def __init__(
        self,
        catalogue: Catalogue,
        prices: Mapping[str, StripePrice],
        publish: Publish,
        publish_balance: PublishBalance,
        timeline: Timeline,
        metrics: Metrics,
        clock: Clock = now,
    ) -> None:
        self._clock = clock
        self._catalogue = catalogue
        self._prices = prices
        self._after_commit = AfterCommit(catalogue, publish, publish_balance, timeline, metrics)
        self.publish = self._after_commit.publish
        self.publish_balance = publish_balance
        self.provisioning = self._after_commit.provisioning
        self._rules = SettlementRules(catalogue, prices, self.provisioning, clock)
        self._together = SettlementBatches(self._rules)

    async def settle(
        self,
        facts: PaymentFacts,
        source: Source,
        account_id: int | None = None,
        read: ReadCells | None = None,
    ) -> Settled:
        """Do what `facts` call for, and publish it. Safe to call at any time, any number of times.

        `account_id` is the account of an invoice that is new here, where the caller knows it. `read`: the
        rows, where the caller read them before it asked for the facts. If these say the same, that is all;
        else the rows are written, where they have not changed since.
        Raises StorageUnavailable; then nothing has changed.
        """
        with tracing.step("settle") as step:
            settled = await self._settle_read(facts, source, read) if read else None
            settled = settled or await self._settle_once(facts, source, account_id)
            if step is not None:
                _describe(step, settled, source)
        await self._after_commit.report(settled, source)
        if _is_paid_after_all(settled, facts):
            await self.reverse(operators_reversal(str(settled.invoice), 0, revoked=False))
        return settled

    async def settle_received(
        self, facts: PaymentFacts, source: Source, event: StripeEvent
    ) -> Settled | None:
        """Settle what a delivered event says. Where something changes, that is stored with it, as handled.

        None, with nothing done, where the event has to be stored first: it takes more than this, or is known.
        Raises StorageUnavailable.
        """
        with tracing.step("settle") as step:
            try:
                settled = await self._together(facts, source, event)
            except IntegrityError:
                return None  # another process has stored the event meanwhile
            if settled is None or _needs_more(settled, facts):
                return None
            if step is not None:
                _describe(step, settled, source)
        await self._after_commit.report(settled, source)
        return settled

    async def settle_by_operator(
        self, facts: PaymentFacts, record: Callable[[Settled], Awaitable[None]]
    ) -> Settled:
        """Settle an invoice that an operator says is paid, in one transaction with what `record` writes.

        Raises what `record` raises, and tortoise's IntegrityError; then nothing has changed.
        """
        async with write_transaction():
            settled = await self._settle(facts, Source.OPERATOR, None)
            await record(settled)
        await self._after_commit.report(settled, Source.OPERATOR)
        return settled

    async def _settle_read(self, facts: PaymentFacts, source: Source, read: ReadCells) -> Settled | None:
        """Settle on rows that were read before the facts. None, with nothing done, where that cannot be."""
        account, row = read.rows().rows
        if facts.invoice is None or facts.invoice.id != row.id:
            return None
        if unchanged := await self._rules.find_unchanged(account, row, facts):
            return unchanged
        with suppress(IntegrityError):
            return await self._together(facts, source, read=read)
        return None

    async def _settle_once(self, facts: PaymentFacts, source: Source, account_id: int | None) -> Settled:
        for _ in range(MAX_TRIES):
            try:
                return await self._together(facts, source) or await self._settle_locked(
                    facts, source, account_id
                )
            except IntegrityError:
                # Another process inserted the same invoice or grant: read it and try again.
                continue
        raise AssertionError("a repeated integrity error is a bug, not a race")

    @repeatable
    async def reverse(
        self, news: ReversalNews, record: Callable[[Account], Awaitable[None]] = record_nothing
    ) -> Outcome:
        """Apply what Stripe says of a refund, a dispute or a credit note to an invoice that is known here.

        `record` writes more in the same transaction, where something has changed. Safe to call any number of
        times, in any order. Raises StorageUnavailable.
        """
        async with write_transaction():
            row, account = await lock_invoice(news.invoice)
            cause = await reversals.record(news)
            if cause is None:
                return Outcome.ALREADY_SETTLED
            row.has_reversals = True
            before = account.version
            notify = await self._apply_reversals(row, account, cause, news.reason)
            if row.subscription:
                await entitlements.refresh(account, before)
            balance_changed = account.version != before
            await record(account)
        await self._after_commit.report_reversal(
            news,
            status_of(row, account.balance) if notify else None,
            account if balance_changed else None,
        )
        return Outcome.SETTLED

    @repeatable
    async def make_installment(self, grant_id: int) -> bool:
        """Grant a planned installment of a yearly plan, once. False where it is granted or void already."""
        async with write_transaction():
            planned = await CreditGrant.get(id=grant_id)
            assert planned.invoice_id is not None, "only invoices plan installments"
            row, account = await lock_invoice(planned.invoice_id)
            planned = await CreditGrant.get(id=grant_id)  # as it is under the lock
            if planned.state is not GrantState.PLANNED or row.status is InvoiceStatus.REVERSED:
                return False
            await ledger.make_installment(in_unit(account, planned.unit), planned, self._clock())
            writes = UnitOfWork()
            granting.note_low_balance(account, planned.plan, self._catalogue, writes)
            await writes.send()
            await renewal_grace.end_former_installments(account, planned, self._clock())
            cause = f"{row.id}:{planned.installment}:reversed"
            await self._apply_reversals(
                row, account, cause, "of a payment that is disputed, or went back in part"
            )
        await self.publish_balance(account)
        return True

    @repeatable
    async def end_subscription(self, subscription: str) -> None:
        """Expire the credits of a subscription that has ended, where their plan says so. Safe to repeat.

        Those of a period that is over expire whatever it says, since no renewal is awaited any more.
        """
        ending = [plan.id for plan in self._catalogue.plans if plan.on_cancel is OnCancel.EXPIRE]
        async with write_transaction():
            row = await Subscription.get(id=subscription)
            account = await ledger.lock_account(row.account_id)
            before = account.version
            if ending:
                await granting.end_subscription_grants(account, subscription, ending, self._clock())
            await renewal_grace.update(account, subscription, self._catalogue, self._clock(), ended=True)
            balance_changed = account.version != before
        if balance_changed:
            await self.publish_balance(account)

    @repeatable
    async def update_grace(self, subscription: Subscription) -> None:
        """A subscription was read: credits that its renewal will not follow can no longer be used."""
        live = CreditGrant.filter(state=GrantState.LIVE, expires_at__not_isnull=True)
        usable = live.filter(Q(remaining__gt=0) | Q(usable_until__gt=self._clock()))
        with storage_errors():
            if not await usable.filter(invoice__subscription=subscription.id).exists():
                return
        async with write_transaction():
            account = await ledger.lock_account(subscription.account_id)
            before = account.version
            await renewal_grace.update(account, subscription.id, self._catalogue, self._clock())
            balance_changed = account.version != before
        if balance_changed:
            await self.publish_balance(account)

    async def _apply_reversals(self, row: Invoice, account: Account, cause: str, reason: str) -> bool:
        """Bring the credits in line with the money. True where browsers should be notified."""
        notify = await reversals.apply(
            row, account, self._catalogue.spent_then_refunded, cause, reason, self._clock()
        )
        writes = UnitOfWork()
        if notify:
            write_change(row, writes)
        else:
            writes.update(row, "has_reversals", *reversals.COUNTS)
        await writes.send()
        return notify

    @repeatable
    async def _settle_locked(self, facts: PaymentFacts, source: Source, account_id: int | None) -> Settled:
        async with write_transaction():
            return await self._settle(facts, source, account_id)

    # Inside the transaction

    async def _settle(self, facts: PaymentFacts, source: Source, account_id: int | None) -> Settled:
        found = await read_locked(*lookup_condition(facts), *IN_LOCK_ORDER)
        if found is None and await read_rows(*lookup_condition(facts), *IN_LOCK_ORDER):
            # PostgreSQL finds no pair where the invoice's account was merged at this moment; and the locks
            # that it has taken are out of order.
            raise TransactionAborted("the account was merged at this moment")
        rows = found or await create_invoice(facts.invoice, account_id, self._catalogue, self._prices)
        if isinstance(rows, Settled):
            return rows
        account, row = rows
        writes, since = UnitOfWork(), account.version
        if found is None and not entitlements.follows_from_row(account, row):
            await entitlements.refresh(account, since)
        decision = self._rules.decide(row, facts, source)
        others = await self._rules.affects_others(decision, row, account)
        settled = await self._rules.apply(decision, row, account, facts.event, writes, created=found is None)
        await writes.send()
        if row.subscription and others:
            before = account.version
            await entitlements.refresh(account, since)
            await renewal_grace.update(account, row.subscription, self._catalogue, self._clock())
            if account.version != before:
                settled = replace(settled, changed_account=account, status=status_of(row, account.balance))
        return settled


def _describe(step: dict[str, Any], settled: Settled, source: Source) -> None:
    """What a trace shows of a settlement; from now on the operation belongs to the purchase's trace."""
    step |= {"paidup.source": source.value, "paidup.outcome": settled.outcome.value}
    if settled.invoice is not None and settled.invoice.startswith("in_"):  # a session's id opens its status
        step["paidup.invoice"] = settled.invoice
    if settled.status is not None and settled.status.traceparent:
        tracing.adopt(settled.status.traceparent)
