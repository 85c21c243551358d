"""Reversals: refunds, disputes and credit notes, and the credits that go with their money.

Owns the table of them and the one transaction that brings an invoice's credits in line with
what Stripe says of its money: how many are taken back, how many are frozen. It is recomputed
from all of them each time, so their order does not matter and a repetition changes nothing.
The same holds for credits that come back from a reservation: they go with the money first.
Refuses to decide the proportion (core/reversals.py) and to ask Stripe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from paidup.clock import now
from paidup.credits import ledger
from paidup.credits.ledger import GrantPortion
from paidup.db.models import (
    Account,
    CreditGrant,
    EntryKind,
    GrantState,
    Invoice,
    Reservation,
    Reversal,
    ReversalKind,
)
from paidup.domain.catalog import AfterRefund
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.reversals import Claim, ReversalFacts, claim, is_later, reason

COUNTS = ("credits_reversed", "credits_unrecoverable", "credits_forgiven", "credits_owed", "reserved_through")
"""The columns of an invoice that are kept here."""
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


async def record(news: ReversalNews) -> bool:
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
    if row.settled_at is None or not row.has_reversals:
        return False  # what is granted later is reduced then
    # Whether somebody has looked since a month's end makes no difference.
    await ledger.expire_due(account, at)
    grants, due = await _due(row)
    fewer = due.reversed < row.credits_reversed
    await _move(row, account, grants, due, after, cause, reason, at)
    if fewer:  # some of it may have come back to other grants
        others = [each for each in await invoices_with_reversals(account) if each.id != row.id]
        await _freeze_disputed(account, others, cause, at)
    status = InvoiceStatus.REVERSED if due.fully_reversed else InvoiceStatus.ACTIVE
    changed = status is not row.status
    row.status = status
    return changed


async def _due(row: Invoice) -> tuple[list[CreditGrant], Claim]:
    """The invoice's grants, and what is to be taken back and frozen of them."""
    known = await Reversal.filter(invoice_id=row.id)
    grants = await CreditGrant.filter(invoice_id=row.id, state__in=MADE).order_by("installment")
    facts = [ReversalFacts(each.kind, each.status, each.amount_minor) for each in known]
    total_minor = row.total_minor or row.amount_due_minor  # settled before totals were kept
    return grants, claim(sum(grant.credits for grant in grants), total_minor, facts)


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
    _unfreeze(grants)
    debt = ledger.debt_of(account)
    if more > 0:
        debt += await _take_back(row, grants, more, after)
    elif more < 0:
        debt -= await _give_back(row, account, grants, -more, at)
    _freeze(grants, due.frozen)
    row.credits_reversed = due.reversed
    balance = await ledger.settle_debt(account, grants, debt)
    net = balance - account.balance
    if net or more:
        back_again = net > 0 or more < 0
        kind = EntryKind.RESTORE if back_again else EntryKind.REVERSE if more else EntryKind.FREEZE
        await ledger.post_entry(account, kind, net, cause, reason, grants[0].id if grants else None, at)


async def _take_back(row: Invoice, grants: Sequence[CreditGrant], credits: int, after: AfterRefund) -> int:
    """Take from what these hold; returns what is owed beyond, for credits that are spent or held."""
    for grant in grants:
        taken = min(credits, grant.remaining)
        grant.remaining -= taken
        credits -= taken
    # What expired unused is gone already: nobody owes it.
    expired = sum(grant.expired for grant in grants)
    gone = min(credits, max(0, expired - (row.credits_unrecoverable - row.credits_forgiven)))
    row.credits_unrecoverable += gone
    credits -= gone
    if credits:
        newest = await Reservation.filter(account_id=row.account_id).order_by("-id").first()
        row.reserved_through = newest.id if newest else 0
    if after is AfterRefund.DEBT:
        row.credits_owed += credits
        return credits
    row.credits_unrecoverable += credits
    row.credits_forgiven += credits
    return 0


async def _give_back(
    row: Invoice, account: Account, grants: Sequence[CreditGrant], credits: int, at: datetime
) -> int:
    """The reverse, in the opposite order; returns how much of the debt it pays.

    The debt is first, since it may stand for these very credits: only what remains then can be frozen.
    """
    forgiven = min(credits, row.credits_forgiven)
    owed = min(credits - forgiven, row.credits_owed)
    untaken = min(credits - owed, row.credits_unrecoverable)  # what was never taken is not given back
    row.credits_forgiven -= forgiven
    row.credits_unrecoverable -= untaken
    row.credits_owed -= owed
    own = credits - owed - untaken
    paid: int = min(ledger.debt_of(account), owed + own)
    others = max(0, owed - paid)  # other credits paid it: they are whole again
    homeless = _refill(grants, owed + own - paid - others) + others
    if homeless:
        homeless = _refill(grants, await ledger.distribute(account, homeless, at, besides=grants))
        assert homeless == 0, "more came back than ever went"
    return paid


def _refill(grants: Sequence[CreditGrant], credits: int) -> int:
    """Put back as much as these have room for; returns the rest: a reservation may have come back first."""
    for grant in grants:
        given = min(credits, grant.credits - grant.remaining - grant.expired)
        grant.remaining += given
        credits -= given
    return credits


def _unfreeze(grants: Sequence[CreditGrant]) -> None:
    for grant in grants:
        grant.remaining, grant.frozen = grant.remaining + grant.frozen, 0


def _freeze(grants: Sequence[CreditGrant], credits: int) -> None:
    for grant in grants:
        grant.frozen = min(credits, grant.remaining)
        grant.remaining -= grant.frozen
        credits -= grant.frozen


# What comes back from a reservation


class Returned(msgspec.Struct, frozen=True):
    """What becomes of credits that a reservation held and did not use.

    `sources` go back to their grants; `owed` to those that paid for them; `gone`, by invoice,
    are taken for what was forgiven.
    """

    sources: list[GrantPortion]
    owed: int
    gone: dict[str, int]


async def invoices_with_reversals(account: Account) -> list[Invoice]:
    """The account's invoices that bear on what a reservation gives back."""
    return await Invoice.filter(
        account_id=account.id, has_reversals=True, settled_at__not_isnull=True
    ).order_by("id")


async def claim_returned(
    rows: Sequence[Invoice], unused: Sequence[GrantPortion], reservation: int
) -> Returned:
    """Of `unused` credits, what goes with the money that went back while they were held."""
    claiming = {row.id: row for row in rows if row.reserved_through >= reservation}
    grants = await CreditGrant.filter(invoice_id__in=list(claiming)) if claiming else []
    invoices = {grant.id: claiming[grant.invoice_id] for grant in grants}
    sources, all_owed, gone = [], 0, dict.fromkeys(claiming, 0)
    for grant_id, credits in unused:
        if row := invoices.get(grant_id):
            forgiven = min(credits, row.credits_forgiven)
            owed = min(credits - forgiven, row.credits_owed)
            row.credits_forgiven -= forgiven
            row.credits_unrecoverable -= forgiven
            row.credits_owed -= owed
            gone[row.id] += forgiven
            all_owed += owed
            credits -= forgiven + owed
        if credits:
            sources.append((grant_id, credits))
    for row in claiming.values():
        await row.save(update_fields=COUNTS)
    return Returned(sources, all_owed, {invoice: taken for invoice, taken in gone.items() if taken})


async def apply_returned(
    account: Account, rows: Sequence[Invoice], gone: Mapping[str, int], reservation: int, at: datetime
) -> None:
    """Enter what went with the money of what was given back, and freeze what is disputed of the rest."""
    cause = f"reservation:{reservation}"
    for invoice, taken in gone.items():
        reason = "its money went back while it was reserved"
        await ledger.post_entry(account, EntryKind.REVERSE, -taken, f"{cause}>{invoice}", reason, at=at)
    await _freeze_disputed(account, rows, cause, at)


async def _freeze_disputed(account: Account, rows: Sequence[Invoice], cause: str, at: datetime) -> None:
    """Freeze what came back to grants whose payment is disputed."""
    for row in rows:
        grants, due = await _due(row)
        before = sum(grant.frozen for grant in grants)
        _unfreeze(grants)
        _freeze(grants, due.frozen)
        for grant in grants:  # also where only another part of the same year is frozen now
            await grant.save(update_fields=["remaining", "frozen"])
        more = sum(grant.frozen for grant in grants) - before
        if more:
            reason = "the payment is disputed"
            await ledger.post_entry(account, EntryKind.FREEZE, -more, f"{cause}>{row.id}", reason, at=at)
