"""Moves credits in and out of grants: takes them, returns them, and pays a debt from them.

Changes no balance: the caller, which runs in a write transaction on a locked account, posts the entry
in `ledger.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from paidup.db.bulk import to_json
from paidup.db.connection import connection, is_sqlite
from paidup.db.models import WITH_CREDITS, CreditGrant, GrantState
from paidup.db.unit_accounts import AnyAccount
from paidup.db.unit_of_work import read_many

GrantPortion = tuple[int, int]
"""A grant's id and a number of its credits."""
WITH_CREDITS_OF_UNIT = f"account_id = $1 AND unit = $2 AND {WITH_CREDITS}"
"""The condition of the account's grants of one unit that have credits to spend."""
_GRANTED = [GrantState.LIVE, GrantState.EXPIRED]


def spent_first(number: int) -> str:
    """The end of a statement that reads so many of an account's grants with credits, those first spent first.

    PostgreSQL takes a limit that it does not know for a tenth of the rows (`preprocess_limit` in its
    planner.c), and reads an index in its order. Where it knew the number, and took the account's grants for
    fewer, it could read and sort them all.
    """
    return f"ORDER BY expires_at NULLS LAST, id LIMIT (SELECT {number})"


def debt_of(account: AnyAccount) -> int:
    """How many credits the account owes; 0 if its balance is not negative."""
    owed: int = max(0, -account.balance)
    return owed


def spending_order(grant: CreditGrant) -> tuple[bool, float, int]:
    """Sort key: grants that expire first come first; those that never expire, last."""
    return (grant.expires_at is None, grant.expires_at.timestamp() if grant.expires_at else 0.0, grant.id)


async def settle_debt(account: AnyAccount, changed: Sequence[CreditGrant], debt: int) -> int:
    """Pay `debt` from the live grants, and save them. Returns the new balance.

    `changed` are grants whose `remaining` or `frozen` the caller has changed and not saved.
    """
    others = await _sum_of_others(account, changed)
    held: int = others + sum(grant.remaining for grant in changed)
    left = min(debt, held)
    for grant in changed:
        taken = min(left, grant.remaining)
        grant.remaining -= taken
        left -= taken
        if grant.remaining and grant.state is GrantState.EXPIRED:
            grant.state = GrantState.LIVE  # returned after its end: the next expiry run ends it
        await grant.save(update_fields=["remaining", "frozen", "state"])
    while left:  # the changed ones are used up
        first = await read_many(CreditGrant, FIRST, account.id, account.unit)
        part = min(left, sum(grant.remaining for grant in first))
        assert part > 0, "the database has just said that there is more"
        await debit_grants(first, part)
        left -= part
    return held - debt


async def _sum_of_others(account: AnyAccount, besides: Sequence[CreditGrant]) -> int:
    """What remains in the other live grants. Added up by the database: there may be very many."""
    sqlite = is_sqlite()
    known = [grant.id for grant in besides]
    among = "IN (SELECT value FROM json_each(?3))" if sqlite else "= ANY($3)"
    own = WITH_CREDITS_OF_UNIT.replace("$", "?") if sqlite else WITH_CREDITS_OF_UNIT
    query = f"SELECT SUM(remaining) FROM credit_grants WHERE {own} AND NOT id {among}"  # noqa: S608 - constants
    values = [account.id, account.unit, to_json(known) if sqlite else known]
    _, found = await connection().execute_query(query, values)
    return int(found[0][0] or 0)


FIRST = f"{WITH_CREDITS_OF_UNIT} {spent_first(20)}"


async def debit_grants(grants: Iterable[CreditGrant], credits: int) -> list[GrantPortion]:
    """Take `credits` from these grants in turn. The caller has checked that they hold enough."""
    taken = take(grants, credits)
    for source, _ in taken:
        await source.save(update_fields=["remaining"])
    return [(source.id, portion) for source, portion in taken]


def take(grants: Iterable[CreditGrant], credits: int) -> list[tuple[CreditGrant, int]]:
    """As `debit_grants`, without saving them: those that gave some, and how many."""
    sources = []
    for source in grants:
        taken = min(credits, source.remaining)
        if taken:
            source.remaining -= taken
            credits -= taken
            sources.append((source, taken))
        if credits == 0:
            return sources
    raise AssertionError("the balance says more than the live grants hold")


def put_back(portions: Iterable[tuple[CreditGrant, int]]) -> None:
    """Return credits to live grants whose capacity suffices, without saving these."""
    for grant, credits in portions:
        grant.remaining += credits


async def return_credits(
    account: AnyAccount, sources: Iterable[GrantPortion], at: datetime, owed: int = 0
) -> list[CreditGrant]:
    """Return credits to the grants that they were taken from, after paying any debt.

    `owed` credits return as well, to the grants that paid for them. A grant that has ended stays live until
    the next expiry run. What exceeds a grant's capacity (its refund failed meanwhile) goes to other grants.
    The grants that got some are returned.
    """
    refilled: list[CreditGrant] = []
    debt = debt_of(account)
    paid = min(debt, owed)
    debt, unplaced = debt - paid, owed - paid
    for grant_id, credits in sources:
        paid = min(debt, credits)
        debt -= paid
        unplaced += await _refill(await CreditGrant.get(id=grant_id), credits - paid, at, refilled)
    if unplaced and await distribute(account, unplaced, at, refilled):
        raise AssertionError("more credits returned than were taken")
    return refilled


async def distribute(
    account: AnyAccount,
    credits: int,
    at: datetime,
    refilled: list[CreditGrant],
    besides: Iterable[CreditGrant] = (),
) -> int:
    """Return credits to any grants with capacity, those that expire last first.

    Grants in `besides` are left out, and those that get some are added to `refilled`. Returns how many
    credits found no grant.
    """
    known = [grant.id for grant in besides]
    own = CreditGrant.filter(account_id=account.id, unit=account.unit).exclude(id__in=known)
    for grant in sorted(await own.filter(state__in=_GRANTED), key=_refill_order, reverse=True):
        credits = await _refill(grant, credits, at, refilled)
    return credits


def _refill_order(grant: CreditGrant) -> tuple[bool, tuple[bool, float, int]]:
    return (grant.state is GrantState.LIVE, spending_order(grant))


def capacity_of(grant: CreditGrant) -> int:
    """How many credits can return to the grant."""
    capacity: int = grant.credits - grant.remaining - grant.frozen - grant.expired
    return max(0, capacity)


async def _refill(grant: CreditGrant, credits: int, at: datetime, refilled: list[CreditGrant]) -> int:
    """Return credits to the grant up to its capacity; returns the rest."""
    returned = min(credits, capacity_of(grant))
    if returned:
        refilled.append(grant)
        grant.remaining += returned
        if grant.state is GrantState.EXPIRED:  # it may have ended before its expires_at
            grant.state, grant.expires_at = GrantState.LIVE, min(grant.expires_at or at, at)
            grant.usable_until = None
        await grant.save(update_fields=["remaining", "state", "expires_at", "usable_until"])
    return credits - returned
