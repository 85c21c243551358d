"""Reversals: refunds, disputes and credit notes, and the credits that go with their money.

Owns the table of them and the one transaction that brings an invoice's credits in line with
what Stripe says of its money: how many are taken back, how many are frozen. It is recomputed
from all of them each time, so their order does not matter and a repetition changes nothing.
Refuses to decide the proportion (core/reversals.py) and to ask Stripe.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from server import ledger
from server.clock import now
from server.core.decisions import InvoiceStatus
from server.core.plans import AfterRefund
from server.core.reversals import Claim, ReversalFacts, claim, is_later, reason
from server.models import Account, CreditGrant, EntryKind, GrantState, Invoice, Reversal, ReversalKind

MADE = [GrantState.LIVE, GrantState.EXPIRED]


class ReversalNews(msgspec.Struct, frozen=True):
    """What Stripe says of one refund, dispute or credit note of a known invoice."""

    id: str
    kind: ReversalKind
    invoice: str
    amount_minor: int
    status: str

    @property
    def reason(self) -> str:
        return reason(self.kind, self.status)


async def learn(news: ReversalNews) -> bool:
    """Keep what is new of a reversal. False where it was known, or something later was."""
    known = await Reversal.get_or_none(id=news.id)
    if known is None:
        await Reversal.create(
            id=news.id,
            kind=news.kind,
            invoice_id=news.invoice,
            amount_minor=news.amount_minor,
            status=news.status,
            changed_at=now(),
        )
        return True
    if not is_later(news.status, known.status):
        return False
    known.status, known.amount_minor, known.changed_at = news.status, news.amount_minor, now()
    await known.save(update_fields=["status", "amount_minor", "changed_at"])
    return True


async def apply(
    row: Invoice, account: Account, after: AfterRefund, cause: str, reason: str, at: datetime
) -> bool:
    """Bring the credits of `row` in line with its reversals. True where its status has changed.

    Invoice and account are locked. `cause` is the business fact that the entry stands for.
    """
    if row.settled_at is None or not row.money_went_back:
        return False  # what is granted later is reduced then
    known = await Reversal.filter(invoice_id=row.id)
    grants = await CreditGrant.filter(invoice_id=row.id, state__in=MADE).order_by("installment")
    facts = [ReversalFacts(each.kind, each.status, each.amount_minor) for each in known]
    total_minor = row.total_minor or row.amount_due_minor  # settled before totals were kept
    due = claim(sum(grant.credits for grant in grants), total_minor, facts)
    frozen = sum(grant.frozen for grant in grants)
    if due.reversed != row.credits_reversed or due.frozen != frozen:
        await _move(row, account, grants, due, after, cause, reason, at)
    status = InvoiceStatus.REVERSED if due.whole else InvoiceStatus.ACTIVE
    changed = status is not row.status
    row.status = status
    return changed


async def _move(
    row: Invoice,
    account: Account,
    grants: Sequence[CreditGrant],
    due: Claim,
    after: AfterRefund,
    cause: str,
    reason: str,
    at: datetime,
) -> None:
    """Take back, give back and freeze, all at once; the entry says what that comes to."""
    more = due.reversed - row.credits_reversed
    for grant in grants:  # what was frozen is counted anew
        grant.remaining, grant.frozen = grant.remaining + grant.frozen, 0
    debt = ledger.debt_of(account)
    if more > 0:
        debt += _take_back(row, grants, more, after)
    else:
        back = _given_back(row, -more)
        # First the debt, which may stand for these very credits: only what remains then can be frozen.
        paid = min(debt, back)
        debt -= paid
        homeless = _refill(grants, back - paid)
        if homeless:
            await ledger.house(account, homeless, at, besides=grants)
    _freeze(grants, due.frozen)
    row.credits_reversed = due.reversed
    balance = await ledger.settle_debt(account, grants, debt)
    net = balance - account.balance
    if net or more:
        back_again = net > 0 or more < 0
        kind = EntryKind.RESTORE if back_again else EntryKind.REVERSE if more else EntryKind.FREEZE
        await ledger.enter(account, kind, net, cause, reason, grants[0].id if grants else None, at)


def _take_back(row: Invoice, grants: Sequence[CreditGrant], credits: int, after: AfterRefund) -> int:
    """Take from what these hold; returns what is owed beyond, for credits that were spent."""
    for grant in grants:
        taken = min(credits, grant.remaining)
        grant.remaining -= taken
        credits -= taken
    # What expired unused is gone already: nobody owes it.
    gone = min(credits, max(0, sum(grant.expired for grant in grants) - row.credits_untaken))
    owed = credits - gone if after is AfterRefund.DEBT else 0
    row.credits_untaken += credits - owed
    return owed


def _given_back(row: Invoice, credits: int) -> int:
    """The reverse: how many of them there are to give, since what was never taken is not given back."""
    untaken: int = min(credits, row.credits_untaken)
    row.credits_untaken -= untaken
    return credits - untaken


def _refill(grants: Sequence[CreditGrant], credits: int) -> int:
    """Put back as much as these have room for; returns the rest: a reservation may have come back first."""
    for grant in grants:
        given = min(credits, grant.credits - grant.remaining - grant.expired)
        grant.remaining += given
        credits -= given
    return credits


def _freeze(grants: Sequence[CreditGrant], credits: int) -> None:
    for grant in grants:
        grant.frozen = min(credits, grant.remaining)
        grant.remaining -= grant.frozen
        credits -= grant.frozen
