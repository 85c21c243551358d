"""Reversals: stores refunds, disputes and credit notes, and takes back or freezes the credits they cover.

Each change recomputes an invoice's credits from all of its reversals, so their order does not matter and a
repetition changes nothing. Credits that a reservation returns are taken for the reversed money first. The
proportion is computed in `domain/reversals.py`; Stripe is not called here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter

import msgspec

from paidup.credits import ledger, moves
from paidup.credits.moves import GrantPortion
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
from paidup.db.unit_accounts import (
    AnyAccount,
    AnyInvoice,
    in_unit,
    invoice_in_unit,
    invoice_row,
    units_of,
)
from paidup.db.unit_of_work import read_by_keys
from paidup.domain.catalog import AfterRefund
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.reversals import Claim, ReversalFacts, claim, reason
from paidup.runtime.clock import now

COUNTS = (
    *("credits_reversed", "credits_unrecoverable", "credits_forgiven", "credits_owed", "reserved_through"),
    "unit_credits",  # the same of other units
)
"""The columns of an invoice that this module writes."""
_GRANTED = [GrantState.LIVE, GrantState.EXPIRED]


class ReversalNews(msgspec.Struct, frozen=True):
    """A refund, dispute or credit note of a known invoice, as Stripe answered at `fetched_at`."""

    id: str
    kind: ReversalKind
    invoice: str
    amount_minor: int
    status: str
    fetched_at: datetime
    withdrawn: bool | None = None

    @property
    def reason(self) -> str:
        return reason(self.kind, self.status)


def operators_reversal(invoice: str, amount_minor: int, revoked: bool) -> ReversalNews:
    """What an operator's revocation of an invoice's credits is stored as, or its end."""
    status = "issued" if revoked else "void"
    kind, id = ReversalKind.CREDIT_NOTE, f"operator:{invoice}"
    return ReversalNews(id, kind, invoice, amount_minor, status, fetched_at=now())


async def record(news: ReversalNews) -> str | None:
    """Store what Stripe says of a reversal now. None if nothing has changed, or a later read is stored.

    Otherwise the cause of the change, for the reference of its entries. Statuses have no order: a lost
    dispute may be appealed, won, and lost again.
    """
    known = await Reversal.get_or_none(id=news.id)
    if known is None:
        known = Reversal(id=news.id, kind=news.kind, invoice_id=news.invoice)
        _update(known, news)
        await known.save(force_create=True)
        return f"{news.id}:{news.status}"
    if known.fetched_at is not None and news.fetched_at < known.fetched_at:
        return None
    changed = is_changed(known, news.status, news.amount_minor, news.withdrawn)
    if changed:
        known.changes += 1
        _update(known, news)
    known.fetched_at = news.fetched_at
    await known.save()
    return f"{news.id}:{news.status}:{known.changes}" if changed else None


def is_changed(known: Reversal, status: str, amount_minor: int, withdrawn: bool | None) -> bool:
    """Whether Stripe says something else than what is stored."""
    return (known.status, known.amount_minor, known.withdrawn) != (status, amount_minor, withdrawn)


def _update(known: Reversal, news: ReversalNews) -> None:
    known.status, known.amount_minor, known.withdrawn = news.status, news.amount_minor, news.withdrawn
    known.fetched_at, known.changed_at = news.fetched_at, now()


async def apply(
    row: Invoice, account: Account, after: AfterRefund, cause: str, reason: str, at: datetime
) -> bool:
    """Adjust the credits of `row`, of all units, to its reversals. True if the status of `row` has changed.

    Invoice and account are locked. `cause` becomes the entry's reference.
    """
    if row.settled_at is None or not row.has_reversals:
        return False  # `create_grants` applies them
    due = await _apply(row, account, after, cause, reason, at)
    for unit in units_of(row.unit_credits):
        of_unit = invoice_in_unit(row, unit), in_unit(account, unit)
        await _apply(*of_unit, after, f"{cause}/{unit}", reason, at)
    status = InvoiceStatus.REVERSED if due.fully_reversed else InvoiceStatus.ACTIVE
    changed = status is not row.status
    row.status = status
    return changed


async def _apply(
    row: AnyInvoice, account: AnyAccount, after: AfterRefund, cause: str, reason: str, at: datetime
) -> Claim:
    # First, so that the result does not depend on when the last expiry run was.
    await ledger.expire_due(account, at)
    grants, due = await _due(row)
    fewer = due.reversed < row.credits_reversed
    refilled: list[CreditGrant] = []
    if moved := await _move(row, account, grants, due, after, at, refilled):
        kind, net = moved
        await ledger.post_entry(account, kind, net, cause, reason, grants[0] if grants else row, at)
    if fewer:  # some credits may have returned to other grants
        of_others = [grant for grant in refilled if grant.invoice_id != row.id]
        await _freeze_disputed(account, of_others, cause, at)
    return due


async def _due(row: AnyInvoice) -> tuple[list[CreditGrant], Claim]:
    """The invoice's grants, and how many of their credits are to be taken back and frozen."""
    known = await Reversal.filter(invoice_id=row.id)
    of_payment = CreditGrant.filter(invoice_id=row.id, unit=row.unit).exclude(installment=ledger.ON_TRUST)
    planned = await of_payment.order_by("installment")
    grants = [grant for grant in planned if grant.state in _GRANTED]
    facts = [ReversalFacts(each.kind, each.status, each.amount_minor, each.withdrawn) for each in known]
    invoice = invoice_row(row)
    total_minor = invoice.total_minor or invoice.amount_due_minor  # settled before totals were stored
    granted, in_all = _credits(grants), _credits(planned)
    offset = row.credits_offset * granted // in_all if in_all else 0  # this far, of a yearly plan
    return grants, claim(granted, total_minor, facts, offset)


def _credits(grants: Sequence[CreditGrant]) -> int:
    return sum(grant.credits for grant in grants)


async def _move(
    row: AnyInvoice,
    account: AnyAccount,
    grants: Sequence[CreditGrant],
    due: Claim,
    after: AfterRefund,
    at: datetime,
    refilled: list[CreditGrant],
) -> tuple[EntryKind, int] | None:
    """Take back, restore and freeze credits. Returns the kind and amount of the entry to post, if any.

    Grants of other invoices to which credits return are added to `refilled`.
    """
    more = due.reversed - row.credits_reversed
    _unfreeze(grants)
    debt = moves.debt_of(account)
    if more > 0:
        debt += await _take_back(row, grants, more, after)
    elif more < 0:
        debt -= await _restore(row, account, grants, -more, at, refilled)
    _freeze(grants, due.frozen)
    row.credits_reversed = due.reversed
    balance = await moves.settle_debt(account, grants, debt)
    net = balance - account.balance
    if not (net or more):
        return None
    if net > 0 or more < 0:
        return EntryKind.RESTORE, net
    return (EntryKind.REVERSE if more else EntryKind.FREEZE), net


async def _take_back(row: AnyInvoice, grants: Sequence[CreditGrant], credits: int, after: AfterRefund) -> int:
    """Take credits from these grants. Returns the debt for those that are spent or reserved."""
    for grant in grants:
        taken = min(credits, grant.remaining)
        grant.remaining -= taken
        credits -= taken
    # Credits that expired unused are not owed.
    expired = sum(grant.expired for grant in grants)
    gone = min(credits, max(0, expired - (row.credits_unrecoverable - row.credits_forgiven)))
    row.credits_unrecoverable += gone
    credits -= gone
    if credits:
        # Of any account: the later ones of this account, which is locked, have higher ids.
        newest = await Reservation.all().order_by("-id").only("id").first()
        row.reserved_through = newest.id if newest else 0
    if after is AfterRefund.DEBT:
        row.credits_owed += credits
        return credits
    row.credits_unrecoverable += credits
    row.credits_forgiven += credits
    return 0


async def _restore(
    row: AnyInvoice,
    account: AnyAccount,
    grants: Sequence[CreditGrant],
    credits: int,
    at: datetime,
    refilled: list[CreditGrant],
) -> int:
    """Undo `_take_back`, in the opposite order. Returns how much of the debt it pays.

    The debt is paid first, since it may be for these credits: only the rest can be frozen.
    """
    forgiven = min(credits, row.credits_forgiven)
    owed = min(credits - forgiven, row.credits_owed)
    unrecovered = min(credits - owed, row.credits_unrecoverable)  # never taken, so not restored
    row.credits_forgiven -= forgiven
    row.credits_unrecoverable -= unrecovered
    row.credits_owed -= owed
    own = credits - owed - unrecovered
    paid: int = min(moves.debt_of(account), owed + own)
    others = max(0, owed - paid)  # other grants paid it and get it back
    unplaced = _refill(grants, owed + own - paid - others) + others
    if unplaced:
        unplaced = _refill(grants, await moves.distribute(account, unplaced, at, refilled, besides=grants))
        assert unplaced == 0, "more credits returned than were taken"
    return paid


def _refill(grants: Sequence[CreditGrant], credits: int) -> int:
    """Return credits to these grants up to their capacity; returns the rest."""
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


# Credits returned by a reservation


class Returned(msgspec.Struct, frozen=True):
    """How unused reserved credits are divided.

    `sources` return to their grants; `owed` to the grants that paid for them; `reversed`, of these invoices,
    are taken back in place of credits that were forgiven.
    """

    sources: list[GrantPortion]
    owed: int
    reversed: list[tuple[AnyInvoice, int]]


async def _with_reversals(account: AnyAccount, grants: Iterable[CreditGrant]) -> dict[str, AnyInvoice]:
    """Of the invoices of these grants, which are of the account and its unit: those with reversals."""
    given = {grant.invoice_id for grant in grants if grant.invoice_id is not None}
    rows = [row for row in await read_by_keys(Invoice, sorted(given)) if row.has_reversals and row.settled_at]
    return {row.id: invoice_in_unit(row, account.unit) for row in sorted(rows, key=attrgetter("id"))}


async def claim_returned(account: AnyAccount, unused: Sequence[GrantPortion], reservation: int) -> Returned:
    """Divide `unused` credits, some of whose money was reversed while they were reserved."""
    grants = await read_by_keys(CreditGrant, [grant_id for grant_id, _ in unused])
    rows = await _with_reversals(account, grants)
    claiming = {id: row for id, row in rows.items() if row.reserved_through >= reservation}
    invoices = {grant.id: claiming[id] for grant in grants if (id := grant.invoice_id) in claiming}
    sources, all_owed, taken = [], 0, dict.fromkeys(claiming, 0)
    for grant_id, credits in unused:
        if row := invoices.get(grant_id):
            forgiven = min(credits, row.credits_forgiven)
            owed = min(credits - forgiven, row.credits_owed)
            row.credits_forgiven -= forgiven
            row.credits_unrecoverable -= forgiven
            row.credits_owed -= owed
            taken[row.id] += forgiven
            all_owed += owed
            credits -= forgiven + owed
        if credits:
            sources.append((grant_id, credits))
    for row in claiming.values():
        await invoice_row(row).save(update_fields=COUNTS)
    by_row = [(row, taken[id]) for id, row in claiming.items() if taken[id]]
    return Returned(sources, all_owed, by_row)


async def apply_returned(
    account: AnyAccount, returned: Returned, refilled: Iterable[CreditGrant], reservation: int, at: datetime
) -> None:
    """Post what was taken from the returned credits, and freeze the rest where a payment is disputed.

    `refilled`: the grants to which they returned.
    """
    cause = f"reservation:{reservation}"
    for row, credits in returned.reversed:
        reference, reason = f"{cause}>{row.id}", "refunded or disputed while it was reserved"
        await ledger.post_entry(account, EntryKind.REVERSE, -credits, reference, reason, row, at)
    await _freeze_disputed(account, refilled, cause, at)


async def _freeze_disputed(
    account: AnyAccount, refilled: Iterable[CreditGrant], cause: str, at: datetime
) -> None:
    """Freeze credits that have returned to grants whose payment is disputed."""
    for row in (await _with_reversals(account, refilled)).values():
        grants, due = await _due(row)
        before = sum(grant.frozen for grant in grants)
        _unfreeze(grants)
        _freeze(grants, due.frozen)
        for grant in grants:  # also if only another installment is frozen now
            await grant.save(update_fields=["remaining", "frozen"])
        more = sum(grant.frozen for grant in grants) - before
        if more:
            reason = "the payment is disputed"
            await ledger.post_entry(account, EntryKind.FREEZE, -more, f"{cause}>{row.id}", reason, row, at)
