"""Reservations: credits set aside for work whose cost is known only afterwards.

Owns the table of them and what becomes of one: committed, released, or expired. A reservation
takes its credits at once and remembers the grants that they came from; what is not used goes
back there, whatever has become of them. Works on an account that is locked, inside the
caller's transaction, as the ledger does. Refuses to move a credit but by the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from paidup.credits import ledger, reversals
from paidup.credits.ledger import GrantPortion, Spent
from paidup.db.models import Account, EntryKind, LedgerEntry, Reservation, ReservationState
from paidup.errors import InsufficientCredits, InvalidInput, KeyReused, NotFound, ReservationOver


class Reserved(msgspec.Struct, frozen=True):
    """The answer to a reservation; while it is held, the same key gives the same answer."""

    key: str
    credits: int
    expires_at: datetime
    balance: int


async def reserve(account: Account, credits: int, key: str, expires_at: datetime, at: datetime) -> Reserved:
    """Take `credits` (above 0) from the grants that expire first, and hold them until `expires_at`.

    Raises InsufficientCredits, KeyReused where the key stands for another amount, and
    ReservationOver where it stands for a reservation that holds nothing any more.
    """
    assert credits > 0
    known = await Reservation.get_or_none(account_id=account.id, key=key)
    if known is not None:
        return await _reserved_before(known, credits, at)
    live = await ledger.live_grants(account, at)
    if account.balance < credits and await expire_due(account, at):
        live = await ledger.live_grants(account, at)
    if account.balance < credits:
        raise InsufficientCredits(account.balance, credits)
    sources = await ledger.debit_grants(live, credits)
    row = await Reservation.create(
        account_id=account.id, key=key, credits=credits, sources=sources, expires_at=expires_at
    )
    await ledger.post_entry(account, EntryKind.RESERVE, -credits, _reference(row), "reserved", at=at)
    return Reserved(key, credits, expires_at, account.balance)


async def commit(account: Account, key: str, credits: int, at: datetime) -> Spent:
    """Spend `credits` (0 or more) of what is reserved; the rest goes back. Once, however often it is asked.

    Raises NotFound, InvalidInput (more than is reserved), KeyReused (committed with another
    amount) and ReservationOver (released, or past its time).
    """
    row = await _find(account, key)
    if row.state is ReservationState.COMMITTED:
        if row.used != credits:
            raise KeyReused(key, row.used)
        return Spent(await _balance_after(account, row), credits, key)
    _assert_held(row, at)
    if not 0 <= credits <= row.credits:
        raise InvalidInput(f"{row.credits} credits are reserved by {key!r}; {credits} cannot be committed.")
    await _end(account, row, ReservationState.COMMITTED, credits, at)
    return Spent(account.balance, credits, key)


async def release(account: Account, key: str, at: datetime) -> Spent:
    """All that is reserved goes back. Asked again, or past its time, it changes nothing more.

    Answers with the balance of now and the credits that were reserved. Raises NotFound, and
    ReservationOver where it was committed.
    """
    row = await _find(account, key)
    if row.state is ReservationState.COMMITTED:
        raise ReservationOver(key, row.state)
    if row.state is ReservationState.HELD:
        await _end(account, row, ReservationState.RELEASED, 0, at)
    return Spent(account.balance, row.credits, key)


async def expire_due(account: Account, at: datetime) -> int:
    """End the account's reservations whose time is over. How many there were."""
    held = Reservation.filter(account_id=account.id, state=ReservationState.HELD, expires_at__lte=at)
    rows = await held.order_by("expires_at", "id")
    for row in rows:
        await _end(account, row, ReservationState.EXPIRED, 0, at)
    return len(rows)


async def spend(account: Account, credits: int, key: str, at: datetime) -> Spent:
    """`ledger.spend`; where credits are wanting, what was reserved for too long comes back first."""
    try:
        return await ledger.spend(account, credits, key, at)
    except InsufficientCredits:
        if not await expire_due(account, at):
            raise
        return await ledger.spend(account, credits, key, at)


async def _reserved_before(row: Reservation, credits: int, at: datetime) -> Reserved:
    """The answer that this reservation had. Raises KeyReused and ReservationOver."""
    if row.credits != credits:
        raise KeyReused(row.key, row.credits)
    _assert_held(row, at)
    taken = await LedgerEntry.get(kind=EntryKind.RESERVE, reference=_reference(row))
    return Reserved(row.key, credits, row.expires_at, taken.balance_after)


def _assert_held(row: Reservation, at: datetime) -> None:
    """Raises ReservationOver."""
    if row.state is not ReservationState.HELD:
        raise ReservationOver(row.key, row.state)
    if row.expires_at <= at:  # the next sweep, or the next spend that needs its credits, ends it
        raise ReservationOver(row.key, ReservationState.EXPIRED)


async def _find(account: Account, key: str) -> Reservation:
    row = await Reservation.get_or_none(account_id=account.id, key=key)
    if row is None:
        raise NotFound(f"There is no reservation {key!r}.")
    return row


async def _end(account: Account, row: Reservation, state: ReservationState, used: int, at: datetime) -> None:
    """Give back what is unused, and enter the release and what was spent."""
    await ledger.expire_due(account, at)  # first what is over, whether or not anybody has looked since
    reversed_invoices = await reversals.invoices_with_reversals(account)
    unused = _unused(row.sources, row.credits - used)
    back = await reversals.claim_returned(reversed_invoices, unused, row.id)
    await ledger.return_credits(account, back.sources, at, back.owed)
    reason = {ReservationState.EXPIRED: "reserved for too long"}.get(state, f"reservation {state}")
    await ledger.post_entry(account, EntryKind.RELEASE, row.credits, _reference(row), reason, at=at)
    await reversals.apply_returned(account, reversed_invoices, back.gone, row.id, at)
    await ledger.expire_due(account, at)  # what went back to a grant that has ended, ends again
    if used:
        await ledger.post_entry(
            account, EntryKind.SPEND, -used, _spend_reference(row), "reserved before", at=at
        )
    row.state, row.used = state, used
    await row.save(update_fields=["state", "used"])


def _unused(sources: Sequence[GrantPortion], credits: int) -> list[GrantPortion]:
    """The last `credits` of what was taken, the last first: the first taken are the first used."""
    unused = []
    for grant_id, taken in reversed(sources):
        back = min(credits, taken)
        credits -= back
        if back:
            unused.append((grant_id, back))
    return unused


async def _balance_after(account: Account, row: Reservation) -> int:
    """The balance that the commit answered with; where nothing was used, that of now."""
    balance: int = account.balance
    if row.used:
        spent = await LedgerEntry.get(kind=EntryKind.SPEND, reference=_spend_reference(row))
        balance = spent.balance_after
    return balance


def _reference(row: Reservation) -> str:
    return f"{row.account_id}:{row.key}"


def _spend_reference(row: Reservation) -> str:
    # A plain spend's begins with a number, so no key that a caller may choose is the same.
    return f"reservation:{row.account_id}:{row.key}"
