"""Reads what spends and reservations of several accounts depend on, without waiting for a lock.

On PostgreSQL this is one statement, for any number of accounts, and on SQLite one call of the connection's
thread; and where a refusal depends on more, another.
"""

# ruff: noqa: S608 - statements are made of the models' names and of constants, never of a value

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.models import Model

from paidup.credits import ledger
from paidup.credits.moves import GrantPortion, spending_order, spent_first
from paidup.db import sqlite
from paidup.db.bulk import quote_names, to_json
from paidup.db.connection import connection, is_sqlite
from paidup.db.instances import columns_of, row_of
from paidup.db.models import (
    ROLLS_OVER,
    WITH_CREDITS,
    Account,
    CreditGrant,
    EntryKind,
    Reservation,
    ReservationState,
)
from paidup.db.unit_of_work import UnitOfWork

MANY_GRANTS = 11
"""So many grants with credits are read of an account, those first that are spent first."""


class Held(msgspec.Struct):
    """What an account's reservations hold of one unit, and when the first of them expires."""

    credits: int = 0
    first_end: Any = None


class AccountState(msgspec.Struct):
    """An account as it was read: its grants that hold credits, of all units, and the changes to write.

    Of very many grants only the first that are spent are read, and those that roll over.
    `version`, and `versions` of the grants, are PostgreSQL's xmin, and on SQLite all that the row had. What
    else there is, the functions below read.
    """

    account: Account
    version: Any
    grants: dict[int, CreditGrant] = {}
    versions: dict[int, Any] = {}
    reserved: dict[str, Reservation] = {}
    held: dict[str, Held] = {}
    reversed: frozenset[str] = frozenset()
    """Settled invoices with reversals, of those that gave the credits of `reserved` among others."""
    spent: frozenset[str] = frozenset()
    """References of spends that exist, of those asked for."""
    has_changed: bool = False
    """Whether the account has changed between two of the reads: then they say nothing together."""
    writes: UnitOfWork = msgspec.field(default_factory=UnitOfWork)

    def of_unit(self, unit: str) -> list[CreditGrant]:
        return [grant for grant in self.grants.values() if grant.unit == unit]

    def spendable(self, unit: str, at: datetime) -> list[CreditGrant] | None:
        """Grants of the unit that may be spent, in order: all, or the first of very many.

        None where some of its grants have to be ended first, or may have to be.
        """
        live = ledger.spendable(self.of_unit(unit), at)
        if live is None or len(self.grants) < MANY_GRANTS:
            return live
        # The rest ends later, or is as long as it is not used up.
        first = sorted(self.grants.values(), key=spending_order)[:MANY_GRANTS]
        end = first[-1].expires_at
        if end is not None and end <= at:
            return None
        keys = {grant.id for grant in first}
        return [grant for grant in live if grant.id in keys]

    def invoices_of_reserved(self) -> set[str]:
        """Those that gave the credits of `reserved`, as far as their grants are among `grants`."""
        sources = {grant_id for row in self.reserved.values() for grant_id, _ in row.sources}
        return {self.grants[id].invoice_id or "" for id in sources & self.grants.keys()}

    def note_changed(self, portions: Sequence[tuple[CreditGrant, int]]) -> list[GrantPortion]:
        """Write these grants' `remaining`, which has changed by so many credits."""
        for grant, _ in portions:
            self.writes.update(grant, "remaining")
        return [(grant.id, credits) for grant, credits in portions]

    def inserted(self, model: type[Model]) -> list[Any]:
        return [row for row in self.writes.inserted if type(row) is model]

    def changed(self, model: type[Model]) -> list[Any]:
        return [row for row in self.writes.changed if type(row) is model]


async def read_states(accounts: Collection[int]) -> dict[int, AccountState]:
    """These accounts and their live grants, at least the first `MANY_GRANTS`, as of one moment."""
    sqlite = is_sqlite(db := connection())
    _, found = await db.execute_query(_read_sql(sqlite), [_keys(accounts, sqlite)])
    return _states_of(found, sqlite)


async def read_reserving(accounts: Collection[int], keys: Collection[str]) -> dict[int, AccountState]:
    """Like `read_states`, with what their reservations hold, those of these keys, and what is reversed."""
    db = connection()
    if is_sqlite(db):
        return await _read_reserving(db, _keys(accounts, True), _keys(keys, True))
    _, found = await db.execute_query(_read_sql(False, reserving=True), [list(accounts), list(keys)])
    states = _states_of(found, False)
    of_account = len(columns_of(Account))
    first = of_account + len(columns_of(CreditGrant))
    for cells in {cells[0]: tuple(cells) for cells in found}.values():  # each row of an account has them
        state, columns = states[cells[0]], [array or () for array in cells[first:-3]]
        state.held = {unit: Held(*each) for unit, *each in zip(*columns[:3], strict=True)}
        rows = [row_of(Reservation, each, False) for each in zip(*columns[3:], strict=True)]
        state.reserved = {row.key: row for row in rows}
    for cells in map(tuple, found):
        if cells[-3]:  # is reversed
            states[cells[0]].reversed |= {states[cells[0]].grants[cells[of_account]].invoice_id or ""}
    return states


def _states_of(found: Iterable[Any], sqlite: bool) -> dict[int, AccountState]:
    of_account, of_grant = len(columns_of(Account)), len(columns_of(CreditGrant))
    states: dict[int, AccountState] = {}
    for cells in map(tuple, found):
        state = states.get(cells[0])
        if state is None:
            account = row_of(Account, cells[:of_account], sqlite)
            version = cells[:of_account] if sqlite else cells[-2]
            state = states[cells[0]] = AccountState(account, version)
        if cells[of_account] is not None:  # its id
            own = cells[of_account : of_account + of_grant]
            grant = row_of(CreditGrant, own, sqlite)
            state.grants[grant.id], state.versions[grant.id] = grant, own if sqlite else cells[-1]
    return states


_LIVE = f"account_id = accounts.id AND {WITH_CREDITS}"
_FIRST = f"{_LIVE} {spent_first(MANY_GRANTS)}"
_ROLLS_OVER = f"{_LIVE} AND {ROLLS_OVER}"
_REVERSED = "has_reversals AND settled_at IS NOT NULL"
_HAS_REVERSED = f"(SELECT TRUE FROM invoices WHERE account_id = accounts.id AND {_REVERSED} LIMIT 1)"
"""A subquery that is asked for each account: a join could read those of all accounts."""
_IS_REVERSED = f"{_HAS_REVERSED} AND (SELECT {_REVERSED} FROM invoices WHERE id = own.invoice_id)"
"""Of a grant. Most accounts have no such invoice at all, which an index tells."""
_HELD = f"state = '{ReservationState.HELD.value}' AND account_id"
_SUMS = "unit, SUM(credits)::bigint AS credits, MIN(expires_at) AS first_end"


@cache
def _read_sql(sqlite: bool, reserving: bool = False) -> str:
    assert columns_of(Account)[0] == columns_of(CreditGrant)[0] == "id"
    of_accounts = ", ".join(f'accounts."{name}"' for name in columns_of(Account))
    of_grants = ", ".join(f'own."{name}"' for name in columns_of(CreditGrant))
    if sqlite:
        seen, grants = "'', ''", "SELECT id FROM credit_grants WHERE"
        ids = f"SELECT id FROM ({grants} {_FIRST}) UNION ALL {grants} {_ROLLS_OVER}"
        # As a list, since SQLite has no LATERAL and looks up no rows by a subquery that another row decides.
        listed = f"json_each((SELECT json_group_array(id) FROM ({ids}))) AS read"
        joined = f"{listed} LEFT JOIN credit_grants AS own ON own.id = read.value"
    else:
        seen = "accounts.xmin::text, own.seen"
        grants = f"SELECT {quote_names(columns_of(CreditGrant))}, xmin::text AS seen FROM credit_grants WHERE"
        joined = f"LATERAL (({grants} {_FIRST}) UNION ALL ({grants} {_ROLLS_OVER})) AS own ON TRUE"
    more, other = (f"held.*, named.*, {_IS_REVERSED}, ", _reservations_sql()) if reserving else ("", "")
    query = f"SELECT {of_accounts}, {of_grants}, {more}{seen} FROM accounts{other} LEFT JOIN {joined}"
    return f"{query} WHERE accounts.id {_is_one_of(sqlite)}"


def _reservations_sql() -> str:
    """For each account, its sums by unit and its reservations of the keys $2, column by column."""
    columns = ", ".join(f'array_agg("{name}")' for name in columns_of(Reservation))
    sums = f"SELECT {_SUMS} FROM reservations WHERE {_HELD} = accounts.id GROUP BY unit"
    asked = f"account_id = accounts.id AND key {_is_one_of(False, 2, 'text')}"
    sources = {
        "held": f"SELECT array_agg(unit), array_agg(credits), array_agg(first_end) FROM ({sums}) AS sums",
        "named": f"SELECT {columns} FROM reservations WHERE {asked}",
    }
    return "".join(f" CROSS JOIN LATERAL ({query}) AS {name}" for name, query in sources.items())


async def read_held(states: Collection[AccountState]) -> None:
    """Read into the states what their reservations hold, and whether the accounts have changed since."""
    db, by_id = connection(), {state.account.id: state for state in states}
    if is_sqlite(db):
        given = _keys(by_id, True)
        accounts, held = await sqlite.read(db, (_accounts_sql(), [given]), (_HELD_ON_SQLITE, [given]))
        for cells in accounts:
            by_id[cells[0]].has_changed |= cells != by_id[cells[0]].version
        _note_held(by_id, held)
        return
    _, found = await db.execute_query(_HELD_ON_POSTGRES, [list(by_id)])
    for account, seen, *_ in map(tuple, found):
        by_id[account].has_changed |= seen != by_id[account].version
    _note_held(by_id, ((account, *cells) for account, _, *cells in map(tuple, found)))


def _note_held(states: dict[int, AccountState], found: Iterable[tuple[Any, ...]]) -> None:
    to_time = Reservation._meta.fields_map["expires_at"].to_python_value
    for account, unit, credits, first_end in found:
        if unit is not None:
            states[account].held[unit] = Held(int(credits), to_time(first_end))


async def _read_reserving(db: BaseDBAsyncClient, accounts: str, keys: str) -> dict[int, AccountState]:
    """On SQLite: `accounts` and `keys` are lists as JSON."""
    found, held, named, reversed = await sqlite.read(
        db,
        (_read_sql(True), [accounts]),
        (_HELD_ON_SQLITE, [accounts]),
        (_reserved_sql(), [accounts, keys]),
        (f"SELECT id FROM accounts WHERE id {_is_one_of(True)} AND {_HAS_REVERSED}", [accounts]),
    )
    states = _states_of(found, True)
    _note_held(states, held)
    for row in (row_of(Reservation, cells, True) for cells in named):
        states[row.account_id].reserved[row.key] = row
    having = [states[cells[0]] for cells in reversed]
    if given := {invoice for state in having for invoice in state.invoices_of_reserved()}:
        query = f"SELECT id FROM invoices WHERE id {_is_one_of(True)} AND {_REVERSED}"
        (found,) = await sqlite.read(db, (query, [to_json(list(given))]))
        for state in having:
            state.reversed = frozenset(cells[0] for cells in found)
    return states


@cache
def _accounts_sql() -> str:
    return f"SELECT {quote_names(columns_of(Account))} FROM accounts WHERE id {_is_one_of(True)}"


@cache
def _reserved_sql() -> str:
    # Else it would read all reservations of the accounts.
    given = "json_each(?1) AS account CROSS JOIN json_each(?2) AS named CROSS JOIN reservations AS own"
    named = f"SELECT own.id FROM {given} ON own.account_id = account.value AND own.key = named.value"
    return f"SELECT {quote_names(columns_of(Reservation))} FROM reservations WHERE id IN ({named})"


async def read_spent(states: Collection[AccountState], references: Collection[str]) -> None:
    """Read into the states which of these references of spends exist."""
    db = connection()
    sqlite = is_sqlite(db)
    query = (
        f"SELECT reference FROM ledger_entries WHERE kind = '{EntryKind.SPEND.value}'"
        f" AND reference {_is_one_of(sqlite, kind='text')}"
    )
    _, found = await db.execute_query(query, [_keys(references, sqlite)])
    known = frozenset(cells[0] for cells in found)
    for state in states:
        state.spent = known


def _is_one_of(sqlite: bool, number: int = 1, kind: str = "bigint") -> str:
    if sqlite:
        return f"IN (SELECT value FROM json_each(?{number}))"
    # With the array as it is, a plan for its length looks cheaper than one for any: each time another plan.
    return f"= ANY(ARRAY(SELECT unnest(${number}::{kind}[])))"


def _keys(keys: Collection[Any], sqlite: bool) -> Any:
    return to_json(list(keys)) if sqlite else list(keys)


_HELD_SUMS = f"unit, SUM(credits), MIN(expires_at) FROM reservations WHERE {_HELD}"
_HELD_ON_SQLITE = f"SELECT account_id, {_HELD_SUMS} {_is_one_of(True)} GROUP BY account_id, unit"
_HELD_ON_POSTGRES = (
    "SELECT accounts.id, accounts.xmin::text, own.* FROM accounts"
    f" LEFT JOIN LATERAL (SELECT {_HELD_SUMS} = accounts.id GROUP BY unit) AS own ON TRUE"
    f" WHERE accounts.id {_is_one_of(False)}"
)
