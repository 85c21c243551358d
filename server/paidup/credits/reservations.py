"""Reservations: hold credits for work whose cost is known only afterwards.

A reservation takes its credits at once and stores the grants they came from. It ends committed, released or
expired, and unused credits return to those grants. Like the ledger, every function runs inside the caller's
transaction on a locked account; all credits move through the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from tortoise.functions import Sum

from paidup.credits import ledger, moves, reversals
from paidup.credits.entry_events import write_expired_reservation
from paidup.credits.ledger import Spent
from paidup.credits.moves import GrantPortion
from paidup.db.models import EntryKind, LedgerEntry, Reservation, ReservationState
from paidup.db.unit_accounts import AnyAccount, in_unit
from paidup.errors import InsufficientCredits, InvalidInput, KeyReused, NotFound, ReservationOver

SPENT_FOR = "reserved earlier"
"""The reason of a commit's spend, where it names none."""


class Reserved(msgspec.Struct, frozen=True):
    """The result of a reservation; while it is held, the same key gives the same. `unit` as of a spend."""

    key: str
    credits: int
    expires_at: datetime
    balance: int
    unit: str | msgspec.UnsetType = msgspec.UNSET


async def reserve(
    account: AnyAccount, credits: int, key: str, expires_at: datetime, at: datetime
) -> Reserved:
    """Take `credits` (above 0) from the grants that expire first, and hold them until `expires_at`.

    Raises InsufficientCredits, KeyReused if the key was used for another amount or unit, and ReservationOver
    if its reservation has ended.
    """
    assert credits > 0
    known = await Reservation.get_or_none(account_id=account.id, key=key)
    if known is not None:
        return await _repeat_reservation(known, account, credits, at)
    live = await ledger.live_grants(account, at)
    if account.balance < credits and await expire_due(account, at):
        live = await ledger.live_grants(account, at)
    if account.balance < credits:
        raise InsufficientCredits(account.balance, credits, account.unit)
    sources = await moves.debit_grants(live, credits)
    row = await Reservation.create(
        account_id=account.id,
        key=key,
        unit=account.unit,
        credits=credits,
        sources=sources,
        expires_at=expires_at,
    )
    account.held = await _sum_held(account)
    await ledger.post_entry(account, EntryKind.RESERVE, -credits, reference_of(row), "reserved", at=at)
    return Reserved(key, credits, expires_at, account.balance, account.unit or msgspec.UNSET)


async def commit(account: AnyAccount, key: str, credits: int, at: datetime, reason: str = "") -> Spent:
    """Spend `credits` (0 or more) of a reservation and return the rest. Idempotent.

    Raises NotFound, InvalidInput (more than is reserved), KeyReused (committed with another
    amount) and ReservationOver (released or expired).
    """
    account, row = await _find(account, key)
    if row.state is ReservationState.COMMITTED:
        if row.used != credits:
            raise KeyReused(key, row.used, row.unit)
        return Spent(await _balance_after(account, row), credits, key, row.unit or msgspec.UNSET)
    _assert_held(row, at)
    if not 0 <= credits <= row.credits:
        raise InvalidInput(
            f"{row.credits} {row.unit or 'credits'} are reserved by {key!r}; {credits} cannot be committed."
        )
    await _end(account, row, ReservationState.COMMITTED, credits, at, reason)
    return Spent(account.balance, credits, key, row.unit or msgspec.UNSET)


async def release(account: AnyAccount, key: str, at: datetime) -> Spent:
    """Return all reserved credits. Does nothing if the reservation was released or has expired.

    Returns the current balance and the credits that were reserved. Raises NotFound, and ReservationOver
    if it was committed.
    """
    account, row = await _find(account, key)
    if row.state is ReservationState.COMMITTED:
        raise ReservationOver(key, row.state)
    if row.state is ReservationState.HELD:
        await _end(account, row, ReservationState.RELEASED, 0, at)
    return Spent(account.balance, row.credits, key, row.unit or msgspec.UNSET)


async def expire_due(account: AnyAccount, at: datetime) -> int:
    """Expire the account's reservations that are due by `at`. Returns how many there were."""
    own = Reservation.filter(account_id=account.id, unit=account.unit)
    due = own.filter(state=ReservationState.HELD, expires_at__lte=at)
    rows = await due.order_by("expires_at", "id")
    for row in rows:
        await _end(account, row, ReservationState.EXPIRED, 0, at)
    return len(rows)


async def spend(account: AnyAccount, credits: int, key: str, at: datetime, reason: str = "") -> Spent:
    """`ledger.spend`; if credits are short, reservations that are due are expired first."""
    try:
        return await ledger.spend(account, credits, key, at, reason)
    except InsufficientCredits:
        if not await expire_due(account, at):
            raise
        return await ledger.spend(account, credits, key, at, reason)


def key_of(entry: LedgerEntry) -> str | None:
    """The caller's key of the spend or the reservation that this entry belongs to."""
    if entry.kind not in (EntryKind.SPEND, EntryKind.RESERVE, EntryKind.RELEASE):
        return None
    _, _, key = entry.reference.removeprefix("reservation:").partition(":")
    return str(key)


async def _repeat_reservation(row: Reservation, account: AnyAccount, credits: int, at: datetime) -> Reserved:
    """The result that this reservation had. Raises KeyReused and ReservationOver."""
    if (row.credits, row.unit) != (credits, account.unit):
        raise KeyReused(row.key, row.credits, row.unit)
    _assert_held(row, at)
    taken = await LedgerEntry.get(kind=EntryKind.RESERVE, reference=reference_of(row))
    return Reserved(row.key, credits, row.expires_at, taken.balance_after, row.unit or msgspec.UNSET)


def _assert_held(row: Reservation, at: datetime) -> None:
    """Raises ReservationOver."""
    if row.state is not ReservationState.HELD:
        raise ReservationOver(row.key, row.state)
    if row.expires_at <= at:  # not expired yet: that happens in the next sweep or spend
        raise ReservationOver(row.key, ReservationState.EXPIRED)


async def _find(account: AnyAccount, key: str) -> tuple[AnyAccount, Reservation]:
    """The reservation of this key, and the account in its unit."""
    row = await Reservation.get_or_none(account_id=account.id, key=key)
    if row is None:
        raise NotFound(f"There is no reservation {key!r}.")
    return in_unit(account, row.unit), row


async def _end(
    account: AnyAccount,
    row: Reservation,
    state: ReservationState,
    used: int,
    at: datetime,
    spent_for: str = "",
) -> None:
    """Return unused credits, and post the release and the spend, with `spent_for` as its reason."""
    await ledger.expire_due(account, at)  # so that the result does not depend on the last expiry run
    returned = await reversals.claim_returned(account, unused_of(row.sources, row.credits - used), row.id)
    refilled = await moves.return_credits(account, returned.sources, at, returned.owed)
    reason = {ReservationState.EXPIRED: "reservation expired"}.get(state, f"reservation {state}")
    account.held = await _sum_held(account, besides=row)
    await ledger.post_entry(account, EntryKind.RELEASE, row.credits, reference_of(row), reason, at=at)
    if state is ReservationState.EXPIRED:  # the others are the backend's own calls
        await write_expired_reservation(account, row.credits, row.key)
    await reversals.apply_returned(account, returned, refilled, row.id, at)
    await ledger.expire_due(account, at)  # credits returned to an ended grant expire again
    if used:
        spent_for = spent_for or SPENT_FOR
        await ledger.post_entry(account, EntryKind.SPEND, -used, spend_reference(row), spent_for, at=at)
    row.state, row.used = state, used
    await row.save(update_fields=["state", "used"])


async def _sum_held(account: AnyAccount, besides: Reservation | None = None) -> int:
    """How many credits the account's reservations hold.

    Summed up each time: a process of the release before does not add to `held`.
    """
    own = Reservation.filter(account_id=account.id, unit=account.unit)
    held = own.filter(state=ReservationState.HELD)
    others = held.exclude(id=besides.id if besides else 0)
    (found,) = await others.annotate(held=Sum("credits")).values("held")
    return int(found["held"] or 0)


def unused_of(sources: Sequence[GrantPortion], credits: int) -> list[GrantPortion]:
    """The last `credits` of `sources`, the last first: credits are used in the order they were taken."""
    unused = []
    for grant_id, taken in reversed(sources):
        back = min(credits, taken)
        credits -= back
        if back:
            unused.append((grant_id, back))
    return unused


async def _balance_after(account: AnyAccount, row: Reservation) -> int:
    """The balance after the commit; the current one if nothing was used."""
    balance: int = account.balance
    if row.used:
        spent = await LedgerEntry.get(kind=EntryKind.SPEND, reference=spend_reference(row))
        balance = spent.balance_after
    return balance


def reference_of(row: Reservation) -> str:
    return f"{row.account_id}:{row.key}"


def spend_reference(row: Reservation) -> str:
    # A plain spend's reference begins with a number, so no caller's key can collide with it.
    return f"reservation:{row.account_id}:{row.key}"


async def correct_held(account: AnyAccount) -> bool:
    """Set `held` of a locked account to what its reservations hold. True where it was another number."""
    held = await _sum_held(account)
    changed = bool(account.held != held)
    account.held = held
    return changed
