"""settle(): THE road to a credit. Verification, webhooks and the reconciler all end here.

Owns the one transaction in which facts become ledger entries: lock the invoice, decide,
grant, entry, balance, status, version; then, after the commit, publish. The same for what
follows: money that goes back, the parts of a yearly plan, a subscription's end. Refuses to
ask anybody anything: it receives facts, and imports neither the Stripe gateway nor the hub
(what to publish with is handed in).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from enum import StrEnum

import msgspec
import structlog
from tortoise.exceptions import IntegrityError

from paidup.batching import BackgroundBatcher
from paidup.clock import Clock, now
from paidup.credits import grants as granting
from paidup.credits import ledger, reversals
from paidup.credits.reversals import ReversalNews
from paidup.db.bulk import UnitOfWork, first_locked, first_seen, update_many
from paidup.db.connection import locked, storage_errors, write_transaction
from paidup.db.models import Account, CreditGrant, GrantState, Invoice, StripeEvent, Subscription
from paidup.domain.backoff import reconciler_delay_s
from paidup.domain.catalog import Catalogue, OnCancel, StripePrice
from paidup.domain.decisions import Decision, InvoiceSnapshot, InvoiceStatus, Verdict, decide
from paidup.domain.messages import StatusMessage
from paidup.domain.payment_facts import InvoiceFacts, PaymentFacts, Source
from paidup.domain.quotes import Quote, quote
from paidup.metrics import Metrics
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.realtime.status_queries import error_of, status_of

log = structlog.get_logger(__name__)

Publish = Callable[[StatusMessage], Awaitable[bool]]
"""Tells every process that has a socket on the invoice; True once Redis has taken it."""
TellBalance = Callable[[Account], Awaitable[None]]
"""Tells every process that has a socket on the account what its balance is now."""

COLLISIONS = 3
HANDLED = (
    "handled_at = {handled_at}, outcome = {outcome},"
    " attempts = attempts + 1, error = NULL, next_attempt_at = NULL"
)
"""What marks a stored event."""
PUBLISH_GRACE = timedelta(seconds=3)
"""How long whoever committed a change has for publishing it, before the reconciler does."""


class Outcome(StrEnum):
    """What became of one call of settle()."""

    SETTLED = "settled"
    ALREADY_SETTLED = "already_settled"
    TOLD = "told"
    NOT_YET = "not_yet"
    REFUSED = "refused"
    UNKNOWN_INVOICE = "unknown_invoice"
    UNKNOWN_CUSTOMER = "unknown_customer"
    UNKNOWN_PRICE = "unknown_price"
    NEEDS_READING = "needs_reading"
    """The source shows only part, or what may be over: read the invoice through the API and settle that."""
    IRRELEVANT = "irrelevant"
    """An invoice that sells no plan and is not ours to follow."""

    @property
    def done(self) -> bool:
        return self in (Outcome.SETTLED, Outcome.ALREADY_SETTLED)


class Settled(msgspec.Struct, frozen=True):
    """An outcome, its reason in words, and the status that browsers now have or get.

    `invoice` is None where none is known; `created` where its row is new.
    """

    outcome: Outcome
    reason: str
    invoice: str | None = None
    status: StatusMessage | None = None
    created: bool = False
    moved: Account | None = None
    """The account, where its balance has changed."""
    marked: bool = False
    """Whether the event that said so was marked handled by the same transaction."""


_OUTCOMES = {
    Verdict.GRANT: Outcome.SETTLED,
    Verdict.ALREADY_GRANTED: Outcome.ALREADY_SETTLED,
    Verdict.NOTIFY: Outcome.TOLD,
    Verdict.NOTHING_NEW: Outcome.NOT_YET,
    Verdict.REFETCH: Outcome.NEEDS_READING,
}
_PUBLISHED = frozenset({Outcome.SETTLED, Outcome.TOLD})
_NOTED = {
    Outcome.SETTLED: TimelineEventType.SETTLED,
    Outcome.TOLD: TimelineEventType.TOLD,
    Outcome.REFUSED: TimelineEventType.REFUSED,
}


class Settlement:
    def __init__(
        self,
        catalogue: Catalogue,
        prices: Mapping[str, StripePrice],
        publish: Publish,
        tell_balance: TellBalance,
        timeline: Timeline,
        metrics: Metrics,
        clock: Clock = now,
    ) -> None:
        self._clock = clock
        self._catalogue = catalogue
        self._prices = prices
        self._publish = publish
        self.tell_balance = tell_balance
        self._timeline = timeline
        self._metrics = metrics
        self._published = BackgroundBatcher(_remember_published)

    async def settle(self, facts: PaymentFacts, source: Source, account_id: int | None = None) -> Settled:
        """Carry out what `facts` call for. Safe to call at any time, any number of times.

        `account_id` names the account of an invoice that is new here, where the caller knows
        it. Raises StorageUnavailable; then nothing has changed.
        """
        for _ in range(COLLISIONS):
            try:
                settled = await self._settle_optimistically(facts, source) or await self._settle_locked(
                    facts, source, account_id
                )
                break
            except IntegrityError:
                # Another process inserted the same invoice or grant: read again what is there now.
                continue
        else:
            raise AssertionError("an integrity error that repeats is a bug, not a race")
        self._record_metrics(settled, source)
        if settled.status and (settled.created or settled.outcome in _PUBLISHED):
            await self.publish(settled.status)
        if settled.moved:
            await self.tell_balance(settled.moved)
        return settled

    async def reverse(self, news: ReversalNews) -> Outcome:
        """Take up what Stripe says of a refund, a dispute or a credit note of an invoice that is known here.

        Safe to call any number of times, in any order. Raises StorageUnavailable.
        """
        async with write_transaction():
            row, account = await _lock(news.invoice)
            if not await reversals.record(news):
                return Outcome.ALREADY_SETTLED
            row.has_reversals = True
            before = account.version
            cause = f"{news.id}:{news.status}"
            told = await self._reversed(row, account, cause, news.reason)
            moved = account.version != before
        self._timeline.note(
            row.id, TimelineEventType.REVERSED, reversal=news.id, status=news.status, reason=news.reason
        )
        if told:
            await self.publish(status_of(row, account.balance))
        if moved:
            await self.tell_balance(account)
        return Outcome.SETTLED

    async def make_installment(self, grant_id: int) -> bool:
        """Give a planned part of a yearly plan, once. False where it was given, or will not come."""
        async with write_transaction():
            planned = await CreditGrant.get(id=grant_id)
            row, account = await _lock(planned.invoice_id)
            planned = await CreditGrant.get(id=grant_id)  # as it is under the lock
            if planned.state is not GrantState.PLANNED or row.status is InvoiceStatus.REVERSED:
                return False
            await ledger.make_installment(account, planned, self._clock())
            cause = f"{row.id}:{planned.installment}:reversed"
            await self._reversed(row, account, cause, "of a payment that is disputed, or went back in part")
        await self.tell_balance(account)
        return True

    async def end_subscription(self, subscription: str) -> None:
        """A subscription has ended: its credits end with it where their plan says so. Safe to repeat."""
        ending = [plan.id for plan in self._catalogue.plans if plan.on_cancel is OnCancel.EXPIRE]
        if not ending:
            return
        async with write_transaction():
            row = await Subscription.get(id=subscription)
            account = await ledger.lock_account(row.account_id)
            before = account.version
            await granting.end_subscription_grants(account, subscription, ending, self._clock())
            moved = account.version != before
        if moved:
            await self.tell_balance(account)

    async def _reversed(self, row: Invoice, account: Account, cause: str, reason: str) -> bool:
        """Bring the credits in line with the money. True where browsers should hear of it."""
        told = await reversals.apply(
            row, account, self._catalogue.spent_then_refunded, cause, reason, self._clock()
        )
        writes = UnitOfWork()
        if told:
            _changed(row, writes)
        else:
            writes.update(row, "has_reversals", *reversals.COUNTS)
        await writes.send()
        return told

    async def publish(self, status: StatusMessage) -> None:
        """Tell the browsers, and soon note that this version was told; or the reconciler tells it again."""
        if await self._publish(status):
            self._timeline.note(status.invoice, TimelineEventType.PUBLISHED, version=status.version)
            self._published.add((status.invoice, status.version))
        else:
            self._timeline.note(status.invoice, TimelineEventType.NOT_PUBLISHED, version=status.version)

    def _record_metrics(self, settled: Settled, source: Source) -> None:
        self._metrics.settlements.labels(source, settled.outcome).inc()
        if settled.invoice is None:
            return
        if settled.created:
            self._timeline.note(settled.invoice, TimelineEventType.CREATED, source=source)
        if what := _NOTED.get(settled.outcome):
            status = settled.status.status if settled.status else None
            self._timeline.note(settled.invoice, what, source=source, reason=settled.reason, status=status)
        if settled.outcome is Outcome.REFUSED:
            log.warning("settlement_refused", invoice=settled.invoice, source=source, reason=settled.reason)

    async def _settle_optimistically(self, facts: PaymentFacts, source: Source) -> Settled | None:
        """Read, decide, and write in one statement that is a transaction of its own.

        It locks what was read and writes only if nobody has changed that. None where somebody
        has, where the invoice is new, or where more must be read: then under lock.
        """
        with storage_errors():
            seen = await first_seen(*_lookup_condition(facts), Invoice, Account)
            if seen is None:
                return None
            row, account = seen.rows
            writes = UnitOfWork()
            decision = self._decide(row, facts, source)
            if decision.verdict is Verdict.GRANT and not granting.is_independent(row):
                return None
            settled = await self._apply_decision(decision, row, account, facts.event, writes)
            return settled if writes.empty or await writes.send_if_unchanged(seen) else None

    async def _settle_locked(self, facts: PaymentFacts, source: Source, account_id: int | None) -> Settled:
        async with write_transaction():
            return await self._settle(facts, source, account_id)

    # Inside the transaction

    async def _settle(self, facts: PaymentFacts, source: Source, account_id: int | None) -> Settled:
        found = await first_locked(*_lookup_condition(facts), Invoice, Account)
        rows = found or await self._create_invoice(facts.invoice, account_id)
        if isinstance(rows, Settled):
            return rows
        row, account = rows
        writes = UnitOfWork()
        decision = self._decide(row, facts, source)
        settled = await self._apply_decision(
            decision, row, account, facts.event, writes, created=found is None
        )
        await writes.send()
        return settled

    def _decide(self, row: Invoice, facts: PaymentFacts, source: Source) -> Decision:
        """What to do; where it is to grant, `row` then says what and by which road."""
        decision = decide(_known(row), facts)
        if decision.verdict is Verdict.GRANT:
            if facts.invoice and facts.invoice.lines_complete:
                quoted = quote(facts.invoice.lines, self._catalogue, self._prices)
                if quoted.plan is not None:  # else the catalogue forgot the price: what was quoted holds
                    granting.store_quote(row, quoted, facts.invoice)
            row.settled_via, row.settled_at, row.status = source, now(), InvoiceStatus.ACTIVE
        return decision

    async def _apply_decision(
        self,
        decision: Decision,
        row: Invoice,
        account: Account,
        event: str | None,
        writes: UnitOfWork,
        created: bool = False,
    ) -> Settled:
        before, outcome = account.version, _OUTCOMES.get(decision.verdict)
        if outcome is None:
            return Settled(Outcome.REFUSED, decision.reason, row.id, created=created)
        if decision.verdict is Verdict.GRANT:
            after = self._catalogue.spent_then_refunded
            await granting.create_grants(row, account, after, self._clock(), writes)
        if decision.verdict is Verdict.NOTIFY:
            row.status = decision.status
        if decision.verdict in (Verdict.GRANT, Verdict.NOTIFY):
            row.error = msgspec.to_builtins(decision.error) if decision.error else None
            _changed(row, writes)
            if event is not None:
                writes.change(StripeEvent, HANDLED, id=event, outcome=outcome.value, handled_at=now())
        return Settled(
            outcome=outcome,
            reason=decision.reason,
            invoice=row.id,
            status=status_of(row, account.balance),
            created=created,
            moved=account if account.version != before else None,
            marked=event is not None and outcome in _PUBLISHED,
        )

    async def _create_invoice(
        self, invoice: InvoiceFacts | None, account_id: int | None
    ) -> tuple[Invoice, Account] | Settled:
        """A row for an invoice that is new here, or why there is none."""
        if invoice is None:
            return Settled(Outcome.UNKNOWN_INVOICE, "no invoice is known for this payment")
        if invoice.status in (None, "draft"):
            return Settled(Outcome.NOT_YET, "the invoice is still a draft")
        if not invoice.lines_complete:
            return Settled(Outcome.NEEDS_READING, "the invoice has more lines than shown")
        quoted = quote(invoice.lines, self._catalogue, self._prices)
        if quoted.plan is None:
            if invoice.subscription is None:
                return Settled(Outcome.IRRELEVANT, "no line of the invoice sells a plan")
            return Settled(
                Outcome.UNKNOWN_PRICE, f"unknown prices: {', '.join(quoted.unknown_prices) or 'none'}"
            )
        account = await self._account_of(invoice, account_id)
        if account is None:
            return Settled(Outcome.UNKNOWN_CUSTOMER, f"no account has the customer {invoice.customer}")
        return await self._create(invoice, account, quoted), account

    async def _account_of(self, invoice: InvoiceFacts, account_id: int | None) -> Account | None:
        if invoice.customer is None:
            return None
        if account_id is not None:
            account = await locked(Account.filter(id=account_id)).get()
        else:
            found = await locked(Account.filter(stripe_customer=invoice.customer)).first()
            if found or invoice.account is None:
                return found
            named = await locked(Account.filter(external_id=invoice.account)).first()
            if named is None:
                return None
            account = named
        if account.stripe_customer is None:
            if account_id is not None and await Account.exists(stripe_customer=invoice.customer):
                return None  # the invoice names this account, and is another's
            account.stripe_customer = invoice.customer
            await account.save(update_fields=["stripe_customer"])
        return account if account.stripe_customer == invoice.customer else None

    async def _create(self, invoice: InvoiceFacts, account: Account, quoted: Quote) -> Invoice:
        at = now()
        row = Invoice(
            id=invoice.id,
            account_id=account.id,
            customer=invoice.customer,
            subscription=invoice.subscription,
            payment_intent=invoice.intent,
            plan=quoted.plan,
            price=quoted.price,
            billing_reason=invoice.billing_reason,
            currency=invoice.currency,
            amount_due_minor=invoice.amount_paid_minor + invoice.amount_remaining_minor,
            changed_at=at,
            publish_due_at=at + PUBLISH_GRACE,
            created_at=at,
            next_check_at=at + timedelta(seconds=reconciler_delay_s(0)),
        )
        granting.store_quote(row, quoted, invoice)
        await row.save()
        if invoice.subscription:
            soon = at + timedelta(seconds=reconciler_delay_s(0))
            known = Subscription(
                id=invoice.subscription,
                account_id=account.id,
                plan=row.plan,
                price=row.price,
                refresh_at=soon,
            )
            await Subscription.bulk_create([known], ignore_conflicts=True)
        if quoted.unknown_prices:
            log.warning("unknown_prices", invoice=invoice.id, prices=quoted.unknown_prices)
        return row


async def _lock(invoice: str) -> tuple[Invoice, Account]:
    """An invoice and its account, locked.

    Of a settled invoice the account first, like a reservation's end, which may write the invoice
    as well; of another the invoice first, like its settlement. In one order nobody deadlocks.
    """
    query = Invoice.filter(id=invoice)
    row = await query.get()
    if row.settled_at is None:
        row = await locked(query).get()
    account = await ledger.lock_account(row.account_id)
    return await locked(query).get(), account


def _lookup_condition(facts: PaymentFacts) -> tuple[str, list[str]]:
    """The condition, and its values, for the invoice that `facts` are about, and its account."""
    if facts.invoice:
        return "invoices.id = $1 AND accounts.id = invoices.account_id", [facts.invoice.id]
    intents = [payment.intent for payment in facts.payments]
    marks = ", ".join(f"${number}" for number in range(1, len(intents) + 1))
    return f"invoices.payment_intent IN ({marks}) AND accounts.id = invoices.account_id", intents


def _changed(row: Invoice, writes: UnitOfWork) -> None:
    """Write a change that browsers should hear of."""
    row.version += 1
    row.changed_at = now()
    row.publish_due_at = row.changed_at + PUBLISH_GRACE
    if row.status.terminal:
        row.next_check_at = None
    writes.update(
        row,
        *("status", "error", "version", "changed_at", "publish_due_at", "next_check_at"),
        *("credits_quoted", "quote", "total_minor", "from_balance_minor", "settled_via", "settled_at"),
        *("finalized_at", "sequence", "affects_others", "has_reversals", *reversals.COUNTS),
    )


async def _remember_published(told: Sequence[tuple[str, int]]) -> None:
    """That Redis has taken these versions of these invoices."""
    # Where a newer version is there already, its own publisher clears the due time. Whoever holds a
    # row just now may wait for another of these: such a row is passed over, and told again.
    changes = "published_version = {version}, publish_due_at = NULL"
    where = "invoices.version = {version}"
    with storage_errors():
        await update_many(Invoice, changes, where, ("id", "version"), told, pass_over_locked=True)


def _known(row: Invoice) -> InvoiceSnapshot:
    return InvoiceSnapshot(
        invoice=row.id,
        status=row.status,
        customer=row.customer,
        currency=row.currency,
        amount_due_minor=row.amount_due_minor,
        intent=row.payment_intent,
        error=error_of(row),
    )
