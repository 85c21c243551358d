"""What a settlement decides on an invoice and its account that were read, and what it has written for that.

Sends nothing, and makes no call to Stripe. The rows are locked by the caller, or are written only if they
have not changed since.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec.structs import replace

from paidup.credits import grants as granting
from paidup.credits import renewal_grace, trust
from paidup.db.models import Account, Invoice, StripeEvent, Subscription
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.catalog import Catalogue, StripePrice, WrittenOff
from paidup.domain.decisions import Decision, InvoiceStatus, Verdict, decide
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.domain.quotes import quote
from paidup.payments import entitlements, payment_events
from paidup.payments.invoice_rows import note_attempt, snapshot, write_change
from paidup.payments.outcomes import PUBLISHED, Outcome, Settled
from paidup.payments.provisioning import Provisioning
from paidup.realtime.status_queries import status_of
from paidup.runtime.clock import Clock, now

MARK_HANDLED = (
    "handled_at = {handled_at}, outcome = {outcome},"
    " attempts = attempts + 1, error = NULL, next_attempt_at = NULL"
)
"""The columns that mark a stored event as handled."""

READ_PENDING_CHANGE = "refresh_at = CASE WHEN pending_plan IS NULL THEN refresh_at ELSE {refresh_at} END"
"""The column that makes a subscription due, whose plan change is now paid."""

_OUTCOMES = {
    Verdict.GRANT: Outcome.SETTLED,
    Verdict.ALREADY_GRANTED: Outcome.ALREADY_SETTLED,
    Verdict.NOTIFY: Outcome.NOTIFIED,
    Verdict.NOTHING_NEW: Outcome.NOT_YET,
    Verdict.REFETCH: Outcome.NEEDS_REFETCH,
    Verdict.UNREAD: Outcome.UNKNOWN_PRICE,
    Verdict.UNPRICED: Outcome.UNKNOWN_CURRENCY,
}
_MOVES_GRACE = frozenset({InvoiceStatus.VOID, InvoiceStatus.FAILED, InvoiceStatus.PROCESSING})
"""Statuses of a renewal that change until when unused credits wait for it."""
_PAID_UNCREDITED = frozenset({Verdict.UNREAD, Verdict.UNPRICED})
_CHANGES_NOTHING = frozenset({Verdict.ALREADY_GRANTED, Verdict.NOTHING_NEW, Verdict.REFUSE})
NEEDS_STRIPE = frozenset({Verdict.REFETCH, *_PAID_UNCREDITED})
"""Verdicts upon which something is read from Stripe."""


class SettlementRules:
    """`clock` is Stripe's calendar: see runtime/clock.py."""

    def __init__(
        self,
        catalogue: Catalogue,
        prices: Mapping[str, StripePrice],
        provisioning: Provisioning,
        clock: Clock = now,
    ) -> None:
        self._catalogue = catalogue
        self._prices = prices
        self._provisioning = provisioning
        self._clock = clock

    def changes_nothing(self, row: Invoice, facts: PaymentFacts) -> bool:
        """Whether what `decide` would decide has nothing to write."""
        return self._decide(row, facts).verdict in _CHANGES_NOTHING

    async def find_unchanged(self, account: Account, row: Invoice, facts: PaymentFacts) -> Settled | None:
        """What `apply` returns where the facts say what the row says, and nothing else depends on them."""
        decision = self._decide(row, facts)
        if decision.verdict is not Verdict.NOTHING_NEW or await self.affects_others(decision, row, account):
            return None
        return await self.apply(decision, row, account, None, UnitOfWork())

    def decide(self, row: Invoice, facts: PaymentFacts, source: Source) -> Decision:
        """What to do. Where that is a grant, `row` is updated with what to grant and the source."""
        decision = self._decide(row, facts)
        if decision.verdict is Verdict.GRANT:
            if facts.invoice and facts.invoice.lines_complete:
                quoted = quote(facts.invoice.lines, self._catalogue, self._prices)
                if not quoted.complete:
                    verdict = Verdict.UNPRICED if quoted.unpriced else Verdict.UNREAD
                    return replace(decision, verdict=verdict, status=row.status)
                if quoted.plan is not None:  # else the catalogue no longer has the price: keep the quote
                    granting.store_quote(row, quoted, facts.invoice)
            row.settled_via, row.settled_at, row.status = source, now(), InvoiceStatus.ACTIVE
            row.voucher = None
        return decision

    def _decide(self, row: Invoice, facts: PaymentFacts) -> Decision:
        return decide(snapshot(row), facts, self._catalogue.written_off is WrittenOff.GRANT)

    async def apply(
        self,
        decision: Decision,
        row: Invoice,
        account: Account,
        event: str | StripeEvent | None,
        writes: UnitOfWork,
        created: bool = False,
    ) -> Settled:
        """Change the rows, and `writes`. `event`: a stored one's id, or the row of one that is not stored."""
        before, outcome = account.version, _OUTCOMES.get(decision.verdict)
        if outcome is None:
            return Settled(Outcome.REFUSED, decision.reason, row.id, created=created)
        if decision.verdict is Verdict.GRANT:
            await granting.create_grants(row, account, self._catalogue, self._clock(), writes)
            entitlements.add_payment(account, row, writes)
            if row.subscription and row.billing_reason == granting.CHANGE:
                writes.update_unread(
                    Subscription, READ_PENDING_CHANGE, id=row.subscription, refresh_at=self._clock()
                )
        event_type = payment_events.event_of(row, decision) if decision.verdict is Verdict.NOTIFY else None
        if decision.verdict is Verdict.NOTIFY:
            note_attempt(row, decision, self._clock())
            row.payment_seen_at = None
            await self._update_trust(row, account)
        payment_seen = decision.verdict in _PAID_UNCREDITED and row.payment_seen_at is None
        if payment_seen:
            row.payment_seen_at = now()
            write_change(row, writes)
        if decision.verdict in (Verdict.GRANT, Verdict.NOTIFY):
            row.error = msgspec.to_builtins(decision.error) if decision.error else None
            write_change(row, writes)
            self._provisioning.begin(row, decision, writes)
            if event is not None:
                _mark_handled(event, outcome, writes)
        if event_type is not None:
            payment_events.announce(event_type, row, account, writes)
        return Settled(
            outcome=outcome,
            reason=decision.reason,
            invoice=row.id,
            status=status_of(row, account.balance),
            created=created,
            changed_account=account if account.version != before else None,
            payment_seen=payment_seen,
            method_unknown=row.status is InvoiceStatus.PROCESSING and row.payment_method is None,
            event_marked=event is not None and outcome in PUBLISHED,
        )

    async def affects_others(self, decision: Decision, row: Invoice, account: Account) -> bool:
        """Whether applying the decision reads or changes grants that its own rows do not show."""
        if row.credits_on_trust or self._catalogue.trust.cap(decision.method):
            return True
        if decision.verdict is Verdict.GRANT:
            if not entitlements.follows_from_row(account, row):
                return True
            independent = granting.is_independent(row)
            return not independent or await granting.ends_other_grants(row, account, self._clock())
        renewal = row.subscription is not None and row.billing_reason == renewal_grace.RENEWAL
        return renewal and decision.verdict is Verdict.NOTIFY and decision.status in _MOVES_GRACE

    async def _update_trust(self, row: Invoice, account: Account) -> None:
        """Grant on trust while a bank debit is processing, or take back what was granted when it fails."""
        policy = self._catalogue.trust
        if row.status is InvoiceStatus.PROCESSING:
            await granting.give_on_trust(row, account, self._catalogue, self._clock())
        elif row.credits_on_trust:
            await trust.take_back(row, account, policy.spent_then_failed, self._clock())


def _mark_handled(event: str | StripeEvent, outcome: Outcome, writes: UnitOfWork) -> None:
    if isinstance(event, StripeEvent):
        event.outcome, event.handled_at = outcome.value, now()
        writes.insert(event)
    else:
        writes.update_unread(StripeEvent, MARK_HANDLED, id=event, outcome=outcome.value, handled_at=now())
