"""The ledger: every movement of credits, each an entry, each exactly once.

Owns every change of a balance. Each function runs inside the caller's write transaction and
works on an account that is locked, so that two processes move one balance in turn. Refuses to
decide whether something is to be granted or taken back: that is `settlement.py`'s and
`reversals.py`'s.

Always: an account's balance = the sum of its entries = what remains in its live grants, less
his debt. Nobody has both: a debt is paid from whatever is live or comes. So a balance below
zero is the debt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from paidup.clock import now
from paidup.db.models import Account, CreditGrant, EntryKind, GrantState, LedgerEntry
from paidup.db.unit_of_work import UnitOfWork, read_locked
from paidup.errors import InsufficientCredits, KeyReused


class Spent(msgspec.Struct, frozen=True):
    """The answer to a spend; the same key gives the same answer."""

    balance: int
    credits: int
    key: str


GrantPortion = tuple[int, int]
"""A grant's id, and how many credits of it."""


async def lock_account(account_id: int) -> Account:
    found = await read_locked("accounts.id = $1", [account_id], Account)
    assert found is not None, "an account is never deleted"
    account: Account = found[0]
    return account


# What comes


async def grant(
    account: Account,
    invoice_id: str,
    credits: int,
    expires_at: datetime | None,
    installment: int = 1,
    plan: str | None = None,
    rollover_cap: int = 0,
    at: datetime | None = None,
    note: str = "",
    writes: UnitOfWork | None = None,
) -> None:
    """Give `credits` for a paid invoice. Raises tortoise's IntegrityError where it was given already.

    A grant of zero is written too: one grant stands for each paid invoice. With `writes` it is put
    there, and written, or refused, once that is sent.
    """
    assert credits >= 0
    sent_later = writes is not None
    writes = writes or UnitOfWork()
    given = CreditGrant(
        account_id=account.id,
        invoice_id=invoice_id,
        installment=installment,
        plan=plan,
        credits=credits,
        remaining=credits - min(credits, debt_of(account)),
        expires_at=expires_at,
        rollover_cap=rollover_cap,
    )
    writes.insert(given)
    reason = f"{plan or 'plan'}, paid{note}"
    entry = _move_balance(account, EntryKind.GRANT, credits, f"{invoice_id}:{installment}", reason, None, at)
    writes.insert(entry, grant_id=given)
    writes.update(account, "balance", "version")
    if not sent_later:
        await writes.send()


async def plan_installment(
    account: Account,
    invoice_id: str,
    credits: int,
    due_at: datetime,
    expires_at: datetime | None,
    installment: int,
    plan: str | None,
    rollover_cap: int,
    writes: UnitOfWork | None = None,
) -> None:
    """Put down an installment that is to come. It holds nothing until it is made. `writes` as in `grant`."""
    planned = CreditGrant(
        account_id=account.id,
        invoice_id=invoice_id,
        installment=installment,
        plan=plan,
        credits=credits,
        remaining=0,
        state=GrantState.PLANNED,
        due_at=due_at,
        expires_at=expires_at,
        rollover_cap=rollover_cap,
    )
    if writes is None:
        await planned.save()
    else:
        writes.insert(planned)


async def resize_installment(planned: CreditGrant, credits: int) -> None:
    """Change what a planned installment will give."""
    planned.credits = credits
    await planned.save(update_fields=["credits"])


async def cancel_planned(planned: Iterable[CreditGrant]) -> None:
    """These installments will not come."""
    for grant in planned:
        grant.state = GrantState.CANCELED
        await grant.save(update_fields=["state"])


async def make_installment(account: Account, planned: CreditGrant, at: datetime) -> None:
    """Give a planned installment. `planned` was read after the account was locked."""
    assert planned.state is GrantState.PLANNED
    planned.remaining = planned.credits - min(planned.credits, debt_of(account))
    planned.state = GrantState.LIVE
    await planned.save(update_fields=["remaining", "state"])
    reason = f"{planned.plan or 'plan'}, part {planned.installment}"
    reference = f"{planned.invoice_id}:{planned.installment}"
    await post_entry(account, EntryKind.GRANT, planned.credits, reference, reason, planned.id, at)


async def adjust(account: Account, grant: CreditGrant, credits: int, cause: str, at: datetime) -> None:
    """Make a grant that was given come to `credits`. What was spent beyond is paid like any debt."""
    before = grant.credits
    debt = debt_of(account)
    if credits > before:
        grant.remaining += credits - before
    else:
        taken = min(before - credits, grant.remaining)
        gone = min(before - credits - taken, grant.expired)
        grant.remaining, grant.expired = grant.remaining - taken, grant.expired - gone
        debt += before - credits - taken - gone
    grant.credits = credits
    await grant.save(update_fields=["credits", "expired"])
    balance = await settle_debt(account, [grant], debt)
    reason = "worked out again with an invoice that came late"
    await post_entry(account, EntryKind.ADJUST, balance - account.balance, cause, reason, grant.id, at)


async def settle_debt(account: Account, changed: Sequence[CreditGrant], debt: int) -> int:
    """Pay what is owed from whatever is live, and write the grants. Returns the balance then.

    `changed` are grants whose `remaining` or `frozen` the caller has altered and not saved.
    """
    known = [grant.id for grant in changed]
    others = CreditGrant.filter(account_id=account.id, state=GrantState.LIVE, remaining__gt=0)
    live = [*changed, *sorted(await others.exclude(id__in=known), key=spending_order)]
    held: int = sum(grant.remaining for grant in live)
    left = min(debt, held)
    for grant in live:
        taken = min(left, grant.remaining)
        grant.remaining -= taken
        left -= taken
        if grant.remaining and grant.state is GrantState.EXPIRED:
            grant.state = GrantState.LIVE  # credits came back after its end: over again at the next look
        if taken or grant.id in known:
            await grant.save(update_fields=["remaining", "frozen", "state"])
    return held - debt


def debt_of(account: Account) -> int:
    owed: int = max(0, -account.balance)
    return owed


# What goes


async def spend(account: Account, credits: int, key: str, at: datetime) -> Spent:
    """Take `credits` (above 0) from the grants that expire first, once for each `key`.

    Raises InsufficientCredits, and KeyReused where the key stands for another amount. What
    reservations held beyond their time is not looked for: see `reservations.spend`.
    """
    assert credits > 0
    reference = f"{account.id}:{key}"
    done = await LedgerEntry.get_or_none(kind=EntryKind.SPEND, reference=reference)
    if done is not None:
        if done.credits != -credits:
            raise KeyReused(key, -done.credits)
        return Spent(done.balance_after, credits, key)
    live = await live_grants(account, at)
    if account.balance < credits:
        raise InsufficientCredits(account.balance, credits)
    await debit_grants(live, credits)
    await post_entry(account, EntryKind.SPEND, -credits, reference, at=at)
    return Spent(account.balance, credits, key)


async def live_grants(account: Account, at: datetime) -> list[CreditGrant]:
    """What may be spent, in the order in which it is, once what is over by `at` has ended."""
    # What is used up stays live for good where it has no end: reading it each time would cost ever more.
    live = await CreditGrant.filter(account_id=account.id, state=GrantState.LIVE, remaining__gt=0)
    due = sorted((g for g in live if g.expires_at and g.expires_at <= at), key=spending_order)
    for ended in due:
        await _end(account, ended, _kept(ended, live), at)
    for rolled, over in _beyond_cap(live):
        await _end(account, rolled, rolled.remaining - over, at, "more than may roll over")
    return sorted((g for g in live if g.state is GrantState.LIVE and g.remaining), key=spending_order)


async def expire_due(account: Account, at: datetime) -> None:
    """End the grants whose time is over; each end is an entry."""
    await live_grants(account, at)


async def expire(account: Account, grants: Iterable[CreditGrant], reason: str, at: datetime) -> None:
    """End these live grants at `at`, whatever they say themselves."""
    for ended in grants:
        # Nor does anything stay that comes back to it later.
        ended.rollover_cap, ended.expires_at = 0, min(ended.expires_at or at, at)
        await _end(account, ended, 0, at, reason)


def spending_order(grant: CreditGrant) -> tuple[bool, float, int]:
    """What expires first is spent first; what never does, last."""
    return (grant.expires_at is None, grant.expires_at.timestamp() if grant.expires_at else 0.0, grant.id)


def _kept(ended: CreditGrant, live: Sequence[CreditGrant]) -> int:
    """How much of it stays: a plan may let unused credits roll over, up to so many in all."""
    rolled = sum(g.remaining for g in live if g.rollover_cap and g.expires_at is None)
    kept: int = min(ended.remaining, max(0, ended.rollover_cap - rolled))
    return kept


def _beyond_cap(live: Sequence[CreditGrant]) -> list[tuple[CreditGrant, int]]:
    """Of what rolled over, how much is too much: credits came back to a grant after its end."""
    rolled = [g for g in live if g.rollover_cap and g.expires_at is None and g.remaining]
    over = sum(g.remaining for g in rolled) - max((g.rollover_cap for g in rolled), default=0)
    found = []
    for grant in sorted(rolled, key=spending_order, reverse=True):
        taken = min(max(0, over), grant.remaining)
        over -= taken
        if taken:
            found.append((grant, taken))
    return found


async def _end(
    account: Account, ended: CreditGrant, kept: int, at: datetime, reason: str = "unused at its end"
) -> None:
    over = ended.remaining - kept
    if over:
        # A grant can end again where credits came back to it after its end.
        reference = f"grant:{ended.id}:{ended.expired}"
        await post_entry(account, EntryKind.EXPIRE, -over, reference, reason, ended.id, at)
    ended.remaining, ended.expired = kept, ended.expired + over
    if kept:
        ended.expires_at = None
    else:
        ended.state = GrantState.EXPIRED
    await ended.save(update_fields=["remaining", "expired", "expires_at", "rollover_cap", "state"])


# What moves credits within the grants. The entry is the caller's.


async def debit_grants(grants: Iterable[CreditGrant], credits: int) -> list[GrantPortion]:
    """Take `credits` from these in turn. The caller has seen to it that they hold enough."""
    sources = []
    for source in grants:
        taken = min(credits, source.remaining)
        if taken:
            source.remaining -= taken
            credits -= taken
            await source.save(update_fields=["remaining"])
            sources.append((source.id, taken))
        if credits == 0:
            return sources
    raise AssertionError("the balance says more than the live grants hold")


async def return_credits(
    account: Account, sources: Iterable[GrantPortion], at: datetime, owed: int = 0
) -> None:
    """Credits return to the grants that they came from; a debt is paid first. The entry follows.

    `owed` credits return as well, to the grants that paid for them. A grant that has ended
    meanwhile is live until the next look at what is over by `at`. What a grant has no room for,
    since its money went and came back meanwhile, goes to others that have.
    """
    debt = debt_of(account)
    paid = min(debt, owed)
    debt, homeless = debt - paid, owed - paid
    for grant_id, credits in sources:
        paid = min(debt, credits)
        debt -= paid
        homeless += await _refill(await CreditGrant.get(id=grant_id), credits - paid, at)
    if homeless and await distribute(account, homeless, at):
        raise AssertionError("more came back than ever went")


async def distribute(
    account: Account, credits: int, at: datetime, besides: Iterable[CreditGrant] = ()
) -> int:
    """Put credits that came back into whichever grants have room, those that last longest first.

    Returns how many are left, where `besides` are the only ones with room.
    """
    known = [grant.id for grant in besides]
    given = await CreditGrant.filter(account_id=account.id, state__in=_GIVEN).exclude(id__in=known)
    for grant in sorted(given, key=_lasting, reverse=True):
        credits = await _refill(grant, credits, at)
    return credits


def _lasting(grant: CreditGrant) -> tuple[bool, tuple[bool, float, int]]:
    return (grant.state is GrantState.LIVE, spending_order(grant))


_GIVEN = [GrantState.LIVE, GrantState.EXPIRED]


async def _refill(grant: CreditGrant, credits: int, at: datetime) -> int:
    """Put back as much as the grant has room for; returns the rest."""
    room = grant.credits - grant.remaining - grant.frozen - grant.expired
    back: int = min(credits, max(0, room))
    if back:
        grant.remaining += back
        if grant.state is GrantState.EXPIRED:  # perhaps before the time that it names
            grant.state, grant.expires_at = GrantState.LIVE, min(grant.expires_at or at, at)
        await grant.save(update_fields=["remaining", "state", "expires_at"])
    return credits - back


async def post_entry(
    account: Account,
    kind: EntryKind,
    credits: int,
    reference: str,
    reason: str = "",
    grant_id: int | None = None,
    at: datetime | None = None,
) -> None:
    """Write the entry and move the balance by it, in the caller's transaction. `at` is now unless said."""
    writes = UnitOfWork()
    writes.insert(_move_balance(account, kind, credits, reference, reason, grant_id, at))
    writes.update(account, "balance", "version")
    await writes.send()


def _move_balance(
    account: Account,
    kind: EntryKind,
    credits: int,
    reference: str,
    reason: str,
    grant_id: int | None,
    at: datetime | None,
) -> LedgerEntry:
    """The entry, and the balance moved by it; neither is written yet."""
    account.balance += credits
    account.version += 1
    return LedgerEntry(
        account_id=account.id,
        kind=kind,
        credits=credits,
        reference=reference,
        reason=reason,
        grant_id=grant_id,
        balance_after=account.balance,
        created_at=at or now(),
    )
