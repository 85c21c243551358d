"""The moves of credits that a backend asks for: spend, reserve, commit, release.

Each is made in one of two ways, with the same result. `decide` takes it from what was read of the account,
without a lock, where nothing else has to be done first; `perform` does all of it, on a locked account.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import msgspec

from paidup.credits import ledger, moves, reservations
from paidup.credits.account_states import AccountState, Held
from paidup.credits.ledger import Spent
from paidup.credits.reservations import Reserved
from paidup.db.instances import new_row
from paidup.db.models import Account, EntryKind, Reservation, ReservationState
from paidup.db.unit_accounts import AnyAccount, in_unit
from paidup.errors import InsufficientCredits, PaidupError
from paidup.runtime.clock import now


class Moved(msgspec.Struct, frozen=True):
    """What a move has as its result. `changed`: whether it changed anything, or was made before."""

    result: Spent | Reserved
    changed: bool


Answer = Moved | PaidupError
"""A move's result, or why it is refused."""


class Spend(msgspec.Struct, frozen=True):
    account_id: int
    unit: str
    credits: int
    key: str
    at: datetime
    reason: str = ""

    async def perform(self, account: Account) -> Spent | Reserved:
        own = in_unit(account, self.unit)
        return await reservations.spend(own, self.credits, self.key, self.at, self.reason)

    def decide(self, state: AccountState) -> Answer | None:
        account, reference = in_unit(state.account, self.unit), spend_reference(self)
        live = state.spendable(self.unit, self.at)
        if live is None or reference in state.spent:
            return None
        if account.balance < self.credits:
            return _refuse(state, account, self.credits, self.at)
        if sum(grant.remaining for grant in live) < self.credits:
            return None  # of very many grants, others have the rest
        state.spent |= {reference}
        state.note_changed(moves.take(live, self.credits))
        kind = EntryKind.SPEND
        ledger.add_entry(state.writes, account, kind, -self.credits, reference, self.reason, self.at)
        return Moved(Spent(account.balance, self.credits, self.key, self.unit or msgspec.UNSET), changed=True)


class Reserve(msgspec.Struct, frozen=True):
    account_id: int
    unit: str
    credits: int
    key: str
    expires_at: datetime
    at: datetime

    async def perform(self, account: Account) -> Spent | Reserved:
        own = in_unit(account, self.unit)
        return await reservations.reserve(own, self.credits, self.key, self.expires_at, self.at)

    def decide(self, state: AccountState) -> Answer | None:
        account = in_unit(state.account, self.unit)
        live = state.spendable(self.unit, self.at)
        if live is None or self.key in state.reserved:
            return None
        if account.balance < self.credits:
            return _refuse(state, account, self.credits, self.at)
        if sum(grant.remaining for grant in live) < self.credits:
            return None  # of very many grants, others have the rest
        row = state.reserved[self.key] = new_row(
            Reservation,
            account_id=account.id,
            key=self.key,
            unit=self.unit,
            credits=self.credits,
            sources=state.note_changed(moves.take(live, self.credits)),
            expires_at=self.expires_at,
            created_at=now(),
        )
        state.writes.insert(row)
        _hold(state, account, self.credits, self.expires_at)
        reference, kind = reservations.reference_of(row), EntryKind.RESERVE
        ledger.add_entry(state.writes, account, kind, -self.credits, reference, "reserved", self.at)
        unit = self.unit or msgspec.UNSET
        return Moved(Reserved(self.key, self.credits, self.expires_at, account.balance, unit), changed=True)


class Commit(msgspec.Struct, frozen=True):
    account_id: int
    key: str
    credits: int
    at: datetime
    reason: str = ""

    async def perform(self, account: Account) -> Spent | Reserved:
        return await reservations.commit(account, self.key, self.credits, self.at, self.reason)

    def decide(self, state: AccountState) -> Answer | None:
        row = state.reserved.get(self.key)
        if row is None or not 0 <= self.credits <= row.credits:
            return None
        account = _end(state, row, ReservationState.COMMITTED, self.credits, self.at)
        if account is None:
            return None
        if self.credits:
            reference, reason = reservations.spend_reference(row), self.reason or reservations.SPENT_FOR
            kind = EntryKind.SPEND
            ledger.add_entry(state.writes, account, kind, -self.credits, reference, reason, self.at)
        return Moved(Spent(account.balance, self.credits, self.key, row.unit or msgspec.UNSET), changed=True)


class Release(msgspec.Struct, frozen=True):
    account_id: int
    key: str
    at: datetime

    async def perform(self, account: Account) -> Spent | Reserved:
        return await reservations.release(account, self.key, self.at)

    def decide(self, state: AccountState) -> Answer | None:
        row = state.reserved.get(self.key)
        account = _end(state, row, ReservationState.RELEASED, 0, self.at) if row else None
        if row is None or account is None:
            return None
        return Moved(Spent(account.balance, row.credits, self.key, row.unit or msgspec.UNSET), changed=True)


Move = Spend | Reserve | Commit | Release


def spend_reference(spend: Spend) -> str:
    return f"{spend.account_id}:{spend.key}"


def may_be_short(account: Account, asked: Sequence[Move]) -> bool:
    """Whether the account may not have what all of these together take."""
    taken: Counter[str] = Counter()
    for move in asked:
        if isinstance(move, Spend | Reserve):
            taken[move.unit] += move.credits
    return any(in_unit(account, unit).balance < credits for unit, credits in taken.items())


def _refuse(
    state: AccountState, account: AnyAccount, credits: int, at: datetime
) -> InsufficientCredits | None:
    """The refusal; None where a reservation that is due may return credits first."""
    held = state.held.get(account.unit)
    if held is not None and held.first_end is not None and held.first_end <= at:
        return None
    return InsufficientCredits(account.balance, credits, account.unit)


def _hold(state: AccountState, account: AnyAccount, credits: int, expires_at: datetime | None = None) -> None:
    held = state.held.setdefault(account.unit, Held())
    held.credits += credits
    held.first_end = min((end for end in (held.first_end, expires_at) if end), default=None)
    account.held = held.credits


def _end(
    state: AccountState, row: Reservation, end: ReservationState, used: int, at: datetime
) -> AnyAccount | None:
    """Return what a reservation has not used. None where grants have ended, a debt or a reversal may take
    some of it, or the reservation is over.
    """
    account, own = in_unit(state.account, row.unit), state.of_unit(row.unit)
    if row.state is not ReservationState.HELD or row.expires_at <= at or row.pk is None:
        return None
    if moves.debt_of(account) or state.spendable(row.unit, at) is None:
        return None
    unused = reservations.unused_of(row.sources, row.credits - used)
    returned = [(state.grants.get(grant_id), credits) for grant_id, credits in unused]
    grants = [
        (grant, credits) for grant, credits in returned if grant and moves.capacity_of(grant) >= credits
    ]
    if any(grant.invoice_id in state.reversed for grant, _ in grants):
        return None
    if len(grants) < len(unused) or any(grant.rollover_cap and grant.expires_at is None for grant in own):
        return None
    moves.put_back(grants)
    state.note_changed(grants)
    row.state, row.used = end, used
    state.writes.update(row, "state", "used")
    _hold(state, account, -row.credits)
    reference, reason = reservations.reference_of(row), f"reservation {end}"
    ledger.add_entry(state.writes, account, EntryKind.RELEASE, row.credits, reference, reason, at)
    return account
