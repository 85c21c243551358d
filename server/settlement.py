"""settle(): THE road to a credit. Verification, webhooks and the reconciler all end here.

Owns the one transaction in which facts become ledger entries: lock the invoice, decide,
grant, entry, balance, status, version; then, after the commit, publish. Refuses to ask
anybody anything: it receives facts, and imports neither the Stripe gateway nor the hub
(what to publish with is handed in).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from enum import StrEnum

import msgspec
import structlog
from tortoise.exceptions import IntegrityError

from server import ledger
from server.clock import at_unix, now
from server.core.credits import Quote, quote
from server.core.decisions import Decision, Known, Verdict, decide
from server.core.facts import Facts, InvoiceFacts, Road
from server.core.messages import StatusMessage
from server.core.pace import reconciler_delay_s
from server.core.plans import Catalogue, StripePrice
from server.database import locked, storage_errors, write_transaction
from server.metrics import Metrics
from server.models import Account, Invoice
from server.statuses import error_of, status_of
from server.timeline import Timeline, What

log = structlog.get_logger(__name__)

Publish = Callable[[StatusMessage], Awaitable[bool]]
"""Tells every process that has a socket on the invoice; True once Redis has taken it."""

COLLISIONS = 3
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


_OUTCOMES = {
    Verdict.GRANT: Outcome.SETTLED,
    Verdict.ALREADY_GRANTED: Outcome.ALREADY_SETTLED,
    Verdict.TELL: Outcome.TOLD,
    Verdict.NOTHING_NEW: Outcome.NOT_YET,
    Verdict.ASK: Outcome.NEEDS_READING,
}
_PUBLISHED = frozenset({Outcome.SETTLED, Outcome.TOLD})
_NOTED = {Outcome.SETTLED: What.SETTLED, Outcome.TOLD: What.TOLD, Outcome.REFUSED: What.REFUSED}


class Settlement:
    def __init__(
        self,
        catalogue: Catalogue,
        prices: Mapping[str, StripePrice],
        publish: Publish,
        timeline: Timeline,
        metrics: Metrics,
    ) -> None:
        self._catalogue = catalogue
        self._prices = prices
        self._publish = publish
        self._timeline = timeline
        self._metrics = metrics

    async def settle(self, facts: Facts, road: Road, account_id: int | None = None) -> Settled:
        """Carry out what `facts` call for. Safe to call at any time, any number of times.

        `account_id` names the account of an invoice that is new here, where the caller knows
        it. Raises StorageUnavailable; then nothing has changed.
        """
        for _ in range(COLLISIONS):
            try:
                async with write_transaction():
                    settled = await self._settle(facts, road, account_id)
                break
            except IntegrityError:
                # Another process inserted the same invoice or grant: read again what is there now.
                continue
        else:
            raise AssertionError("an integrity error that repeats is a bug, not a race")
        self._note(settled, road)
        if settled.status and (settled.created or settled.outcome in _PUBLISHED):
            await self.publish(settled.status)
        return settled

    async def publish(self, status: StatusMessage) -> None:
        """Tell the browsers, and remember that this version was told."""
        if await self._publish(status):
            self._timeline.note(status.invoice, What.PUBLISHED, version=status.version)
            # Where a newer version is there already, its own publisher clears the due time.
            told = Invoice.filter(id=status.invoice, version=status.version)
            with storage_errors():
                await told.update(published_version=status.version, publish_due_at=None)

    def _note(self, settled: Settled, road: Road) -> None:
        self._metrics.settlements.labels(road, settled.outcome).inc()
        if settled.invoice is None:
            return
        if settled.created:
            self._timeline.note(settled.invoice, What.CREATED, road=road)
        if what := _NOTED.get(settled.outcome):
            status = settled.status.status if settled.status else None
            self._timeline.note(settled.invoice, what, road=road, reason=settled.reason, status=status)
        if settled.outcome is Outcome.REFUSED:
            log.warning("settlement_refused", invoice=settled.invoice, road=road, reason=settled.reason)

    # Inside the transaction

    async def _settle(self, facts: Facts, road: Road, account_id: int | None) -> Settled:
        row = await self._locked_row(facts)
        created = row is None
        if row is None:
            adopted = await self._adopt(facts.invoice, account_id)
            if isinstance(adopted, Settled):
                return adopted
            row = adopted
        decision = decide(_known(row), facts)
        if decision.verdict is Verdict.REFUSE:
            return Settled(Outcome.REFUSED, decision.reason, row.id, created=created)
        account = await ledger.lock_account(row.account_id)
        if decision.verdict is Verdict.GRANT:
            await self._grant(row, account, facts.invoice, road)
        if decision.verdict in (Verdict.GRANT, Verdict.TELL):
            await self._change(row, decision)
        return Settled(
            _OUTCOMES[decision.verdict], decision.reason, row.id, status_of(row, account.balance), created
        )

    async def _locked_row(self, facts: Facts) -> Invoice | None:
        if facts.invoice:
            return await locked(Invoice.filter(id=facts.invoice.id)).first()
        intents = [payment.intent for payment in facts.payments]
        return await locked(Invoice.filter(payment_intent__in=intents)).first()

    async def _adopt(self, invoice: InvoiceFacts | None, account_id: int | None) -> Invoice | Settled:
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
        return await self._create(invoice, account, quoted)

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
            account.stripe_customer = invoice.customer
            await account.save(update_fields=["stripe_customer"])
        return account if account.stripe_customer == invoice.customer else None

    async def _create(self, invoice: InvoiceFacts, account: Account, quoted: Quote) -> Invoice:
        at = now()
        row = await Invoice.create(
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
            credits_quoted=quoted.credits,
            credits_expire_at=at_unix(quoted.expires_at) if quoted.expires_at else None,
            changed_at=at,
            publish_due_at=at + PUBLISH_GRACE,
            created_at=at,
            next_check_at=at + timedelta(seconds=reconciler_delay_s(0)),
        )
        if quoted.unknown_prices:
            log.warning("unknown_prices", invoice=invoice.id, prices=quoted.unknown_prices)
        return row

    async def _grant(self, row: Invoice, account: Account, invoice: InvoiceFacts | None, road: Road) -> None:
        if invoice and invoice.lines_complete:
            quoted = quote(invoice.lines, self._catalogue, self._prices)
            if quoted.plan is not None:  # else the catalogue forgot the price: what was quoted holds
                row.credits_quoted = quoted.credits
                row.credits_expire_at = at_unix(quoted.expires_at) if quoted.expires_at else None
        await ledger.grant(account, row.id, row.credits_quoted, row.credits_expire_at)
        row.settled_via, row.settled_at = road, now()

    async def _change(self, row: Invoice, decision: Decision) -> None:
        row.status = decision.status
        row.error = msgspec.to_builtins(decision.error) if decision.error else None
        row.version += 1
        row.changed_at = now()
        row.publish_due_at = row.changed_at + PUBLISH_GRACE
        if decision.status.terminal:
            row.next_check_at = None
        await row.save(
            update_fields=[
                *("status", "error", "version", "changed_at", "publish_due_at", "next_check_at"),
                *("credits_quoted", "credits_expire_at", "settled_via", "settled_at"),
            ]
        )


def _known(row: Invoice) -> Known:
    return Known(
        invoice=row.id,
        status=row.status,
        customer=row.customer,
        currency=row.currency,
        amount_due_minor=row.amount_due_minor,
        intent=row.payment_intent,
        error=error_of(row),
    )
