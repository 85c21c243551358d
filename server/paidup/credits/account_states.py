"""Reads what spends and reservations of several accounts depend on, and writes what they change.

The rows of one account are written together or not at all: not where one of them has changed since it was
read, is locked by another transaction, or an entry of the same kind and reference exists. Nothing here waits
for a lock. On PostgreSQL this is one statement that reads and one that writes, for any number of accounts.
"""

# ruff: noqa: S608 - statements are made of the models' names and of constants, never of a value

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import msgspec
from tortoise.models import Model

from paidup.credits import ledger
from paidup.credits.moves import GrantPortion, spending_order
from paidup.db.bulk import quote_names, to_arrays, to_json, to_parameters, unnest_sql
from paidup.db.connection import connection, is_sqlite
from paidup.db.instances import columns_of, row_of
from paidup.db.models import (
    ROLLS_OVER,
    WITH_CREDITS,
    Account,
    CreditGrant,
    EntryKind,
    LedgerEntry,
    Reservation,
    ReservationState,
)
from paidup.db.unit_of_work import UnitOfWork, insert_columns

_BALANCE = ("id", "balance", "held", "version", "unit_balances")
_REMAINING = ("id", "account_id", "remaining")
_ENDED = ("id", "account_id", "state", "used")
MANY_GRANTS = 11
"""So many grants with credits are read of an account, those first that are spent first."""


class Held(msgspec.Struct):
    """What an account's reservations hold of one unit, and when the first of them expires."""

    credits: int = 0
    first_end: Any = None


class AccountState(msgspec.Struct):
    """An account as it was read: its grants that hold credits, of all units, and the changes to write.

    Of very many grants only the first that are spent are read, and those that roll over.
    `version`, and `versions` of the grants, are PostgreSQL's xmin. The rest is read by the functions below.
    """

    account: Account
    version: str
    grants: dict[int, CreditGrant] = {}
    versions: dict[int, str] = {}
    reserved: dict[str, Reservation] = {}
    held: dict[str, Held] = {}
    reversed: frozenset[str] = frozenset()
    """Settled invoices with reversals, of those that gave the credits of `reserved`."""
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
        return [grant for grant in live if grant in first]

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


async def lock_free(accounts: Collection[int]) -> list[int]:
    """Lock those of these accounts that no other transaction has locked. Needs a transaction."""
    db = connection()
    if is_sqlite(db):
        return list(accounts)
    query = "SELECT id FROM accounts WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
    _, found = await db.execute_query(query, [list(accounts)])
    return [cells[0] for cells in found]


async def read_states(accounts: Collection[int]) -> dict[int, AccountState]:
    """These accounts and their live grants, at least the first `MANY_GRANTS`, as of one moment."""
    db = connection()
    sqlite = is_sqlite(db)
    _, found = await db.execute_query(_read_sql(sqlite), [_keys(accounts, sqlite)])
    of_account = len(columns_of(Account))
    states: dict[int, AccountState] = {}
    for cells in map(tuple, found):
        state = states.get(cells[0])
        if state is None:
            account = row_of(Account, cells[:of_account], sqlite)
            state = states[cells[0]] = AccountState(account, cells[-2])
        if cells[of_account] is not None:  # its id
            grant = row_of(CreditGrant, cells[of_account:-2], sqlite)
            state.grants[grant.id], state.versions[grant.id] = grant, cells[-1]
    return states


_LIVE = f"account_id = accounts.id AND {WITH_CREDITS}"
_FIRST = f"{_LIVE} ORDER BY expires_at NULLS LAST, id LIMIT {MANY_GRANTS}"
_ROLLS_OVER = f"{_LIVE} AND {ROLLS_OVER}"


@cache
def _read_sql(sqlite: bool) -> str:
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
    query = f"SELECT {of_accounts}, {of_grants}, {seen} FROM accounts LEFT JOIN {joined}"
    return f"{query} WHERE accounts.id {_is_one_of(sqlite)}"


async def read_held(states: Collection[AccountState]) -> None:
    """Read into the states what their reservations hold, and whether the accounts have changed since."""
    db, by_id = connection(), {state.account.id: state for state in states}
    sqlite = is_sqlite(db)
    to_time = Reservation._meta.fields_map["expires_at"].to_python_value
    _, found = await db.execute_query(_held_sql(sqlite), [_keys(by_id, sqlite)])
    for account, seen, unit, credits, first_end in map(tuple, found):
        state = by_id[account]
        state.has_changed |= seen != state.version
        if unit is not None:
            state.held[unit] = Held(int(credits), to_time(first_end))


@cache
def _held_sql(sqlite: bool) -> str:
    sums = "unit, SUM(credits), MIN(expires_at)"
    held = f"FROM reservations WHERE state = '{ReservationState.HELD.value}' AND account_id"
    if sqlite:
        return f"SELECT account_id, '', {sums} {held} {_is_one_of(sqlite)} GROUP BY account_id, unit"
    own = f"LATERAL (SELECT {sums} {held} = accounts.id GROUP BY unit) AS own ON TRUE"
    seen = f"SELECT accounts.id, accounts.xmin::text, own.* FROM accounts LEFT JOIN {own}"
    return f"{seen} WHERE accounts.id {_is_one_of(sqlite)}"


async def read_reserved(states: Collection[AccountState], keys: Collection[str]) -> None:
    """Read into the states their reservations of these keys."""
    db, by_id = connection(), {state.account.id: state for state in states}
    sqlite = is_sqlite(db)
    named = f"account_id {_is_one_of(sqlite)} AND key {_is_one_of(sqlite, 2)}"
    if sqlite:  # else it would read all reservations of the accounts
        given = "json_each(?1) AS account CROSS JOIN json_each(?2) AS named CROSS JOIN reservations AS own"
        own = "own.account_id = account.value AND own.key = named.value"
        named = f"id IN (SELECT own.id FROM {given} ON {own})"
    query = f"SELECT {quote_names(columns_of(Reservation))} FROM reservations WHERE {named}"
    _, found = await db.execute_query(query, [_keys(by_id, sqlite), _keys(keys, sqlite)])
    for row in (row_of(Reservation, tuple(cells), sqlite) for cells in found):
        by_id[row.account_id].reserved[row.key] = row


async def read_reversals(states: Collection[AccountState]) -> None:
    """Read into the states which of their reservations' credits are of invoices with reversals.

    Needs the locks of the accounts. Most have no such invoice at all, which an index tells.
    """
    db, by_id = connection(), {state.account.id: state for state in states}
    sqlite = is_sqlite(db)
    query = f"SELECT id FROM accounts WHERE id {_is_one_of(sqlite)} AND {_HAS_REVERSED}"
    _, found = await db.execute_query(query, [_keys(by_id, sqlite)])
    having = [by_id[cells[0]] for cells in found]
    given = {invoice for state in having for invoice in state.invoices_of_reserved()}
    if given:
        query = f"SELECT id FROM invoices WHERE id {_is_one_of(sqlite)} AND {_REVERSED}"
        _, found = await db.execute_query(query, [_keys(given, sqlite)])
        for state in having:
            state.reversed = frozenset(cells[0] for cells in found)


_REVERSED = "has_reversals AND settled_at IS NOT NULL"
_HAS_REVERSED = f"(SELECT TRUE FROM invoices WHERE account_id = accounts.id AND {_REVERSED} LIMIT 1)"
"""A subquery that is asked for each account: a join could read those of all accounts."""


async def read_spent(states: Collection[AccountState], references: Collection[str]) -> None:
    """Read into the states which of these references of spends exist."""
    db = connection()
    sqlite = is_sqlite(db)
    query = (
        f"SELECT reference FROM ledger_entries WHERE kind = '{EntryKind.SPEND.value}'"
        f" AND reference {_is_one_of(sqlite)}"
    )
    _, found = await db.execute_query(query, [_keys(references, sqlite)])
    known = frozenset(cells[0] for cells in found)
    for state in states:
        state.spent = known


def _is_one_of(sqlite: bool, number: int = 1) -> str:
    return f"IN (SELECT value FROM json_each(?{number}))" if sqlite else f"= ANY(${number})"


def _keys(keys: Collection[Any], sqlite: bool) -> Any:
    return to_json(list(keys)) if sqlite else list(keys)


async def write_states(states: Collection[AccountState]) -> set[int]:
    """Write the changes of each account by itself. Returns the accounts whose changes are written.

    Raises IntegrityError, with nothing written. On SQLite it needs a transaction that has read them.
    """
    changed = [state for state in states if not state.writes.empty]
    if not changed:
        return set()
    return await (_write_rows(changed) if is_sqlite() else _write_at_once(changed))


def _models(states: Iterable[AccountState]) -> tuple[type[Model], ...]:
    """The models of rows to insert."""
    found: dict[str, type[Model]] = {
        type(row)._meta.db_table: type(row) for state in states for row in state.writes.inserted
    }
    return tuple(found[table] for table in sorted(found))


# On SQLite: a statement for each table, since there are no round trips, and nothing else writes meanwhile


async def _write_rows(states: Sequence[AccountState]) -> set[int]:
    entries = _rows(LedgerEntry, insert_columns(LedgerEntry), states)
    values = [value for row in entries for value in row]
    _, found = await connection().execute_query(_new_entries_sql(len(entries)), values)
    written = {cells[0] for cells in found}
    free = [state for state in states if state.account.id in written]
    for model in _models(free):
        if model is not LedgerEntry:
            names = insert_columns(model)
            marks = ", ".join("?" * len(names))
            query = f'INSERT INTO "{model._meta.db_table}" ({quote_names(names)}) VALUES ({marks})'
            await connection().execute_many(query, _rows(model, names, free))
    for model, columns in ((Account, _BALANCE), (CreditGrant, _REMAINING), (Reservation, _ENDED)):
        names = tuple(name for name in columns if name != "account_id")
        changed = [_parameters(row, names) for state in free for row in state.changed(model)]
        if changed:
            await connection().execute_many(_update_sql(model, names), changed)
    return written


@cache
def _new_entries_sql(number: int) -> str:
    """Inserts so many entries, but none of an account of which one exists. Returns the others' accounts."""
    names = quote_names(insert_columns(LedgerEntry))
    row = ", ".join("?" * len(insert_columns(LedgerEntry)))
    rows = ", ".join([f"({row})"] * number)
    old = "ledger_entries AS old WHERE old.kind = given.kind AND old.reference = given.reference"
    return (
        f"WITH given({names}) AS (VALUES {rows}),"
        f" known AS (SELECT account_id FROM given WHERE EXISTS (SELECT 1 FROM {old}))"
        f" INSERT INTO ledger_entries ({names}) SELECT * FROM given"
        " WHERE account_id NOT IN (SELECT account_id FROM known) RETURNING account_id"
    )


@cache
def _update_sql(model: type[Model], names: tuple[str, ...]) -> str:
    """Where the first of these columns is as given, sets the others."""
    # Not the key again: SQLite would look for the rows that refer to it, for a grant through all entries
    # (https://www.sqlite.org/foreignkeys.html).
    assigned = ", ".join(f'"{name}" = ?{number}' for number, name in enumerate(names[1:], start=2))
    return f'UPDATE "{model._meta.db_table}" SET {assigned} WHERE id = ?1'


def _rows(model: type[Model], names: Sequence[str], states: Iterable[AccountState]) -> list[list[Any]]:
    return [_parameters(row, names) for state in states for row in state.inserted(model)]


def _parameters(row: Model, names: Sequence[str]) -> list[Any]:
    return to_parameters(type(row), {name: getattr(row, name) for name in names})


# On PostgreSQL: one statement


async def _write_at_once(states: Sequence[AccountState]) -> set[int]:
    models = _models(states)
    ended = [row for state in states for row in state.changed(Reservation)]
    grants = [(state, grant) for state in states for grant in state.changed(CreditGrant)]
    parameters = to_arrays(Account, _BALANCE, [_values(state.account, _BALANCE) for state in states])
    parameters += [[state.version for state in states]]
    parameters += [[len(state.changed(CreditGrant)) for state in states]]
    parameters += to_arrays(CreditGrant, _REMAINING, [_values(grant, _REMAINING) for _, grant in grants])
    parameters += [[state.versions[grant.id] for state, grant in grants]]
    for model in models:
        names = insert_columns(model)
        rows = [_values(row, names) for state in states for row in state.inserted(model)]
        parameters += to_arrays(model, names, rows)
    if ended:
        parameters += to_arrays(Reservation, _ENDED, [_values(row, _ENDED) for row in ended])
    _, found = await connection().execute_query(_write_sql(models, bool(ended)), parameters)
    return {cells[0] for cells in found}


def _values(row: Any, names: Sequence[str]) -> list[Any]:
    return [getattr(row, name) for name in names]


@cache
def _write_sql(models: tuple[type[Model], ...], ends: bool) -> str:
    """Writes new rows of these models, the balances, the grants, and, with `ends`, reservations."""
    assert LedgerEntry in models
    first, given = 1, []

    def take(name: str, model: type[Model], columns: Sequence[str], *more: str) -> None:
        nonlocal first
        source = unnest_sql(model, columns, first)
        first += len(columns)
        for each in more:
            source = f"{source.removesuffix(')')}, ${first}::{each.split()[1]}[])"
            first += 1
        named = quote_names([*columns, *(each.split()[0] for each in more)])
        given.append(f"{name} AS (SELECT * FROM {source} AS {name}({named}))")

    take("account", Account, _BALANCE, "seen text", "grants bigint")
    take("taken", CreditGrant, _REMAINING, "seen text")
    for model in models:
        take(f"new_{model._meta.db_table}", model, insert_columns(model))
    if ends:
        take("ended", Reservation, _ENDED)
    inserts = [
        f'insert_{model._meta.db_table} AS (INSERT INTO "{model._meta.db_table}"'
        f" ({quote_names(insert_columns(model))}) SELECT {quote_names(insert_columns(model))}"
        f" FROM new_{model._meta.db_table} WHERE account_id IN (SELECT id FROM free))"
        for model in models
    ]
    updates = [_UPDATE_ACCOUNTS, _UPDATE_GRANTS, *([_END_RESERVATIONS] if ends else [])]
    return f"WITH {', '.join([*given, _FREE, *inserts, *updates])} SELECT id FROM free"


# An account is free where it and its grants are as they were read, and none of its new entries exists. Locked
# rows are checked again as they are now (https://www.postgresql.org/docs/current/transaction-iso.html).
# `known` asks the index for each entry: a join could read all entries, where the statistics are old.
_FREE = """own AS (
    SELECT accounts.id FROM accounts JOIN account ON accounts.id = account.id
    WHERE accounts.xmin::text = account.seen FOR NO KEY UPDATE OF accounts SKIP LOCKED
), sources AS (
    SELECT credit_grants.account_id FROM credit_grants JOIN taken ON credit_grants.id = taken.id
    WHERE credit_grants.xmin::text = taken.seen AND taken.account_id IN (SELECT id FROM own)
    FOR NO KEY UPDATE OF credit_grants SKIP LOCKED
), known AS (
    SELECT new.account_id FROM new_ledger_entries AS new
    WHERE (SELECT TRUE FROM ledger_entries WHERE kind = new.kind AND reference = new.reference)
), free AS (
    SELECT account.id FROM account
    WHERE account.id IN (SELECT id FROM own) AND account.id NOT IN (SELECT account_id FROM known)
    AND account.grants = (SELECT count(*) FROM sources WHERE sources.account_id = account.id)
)"""
_UPDATE_ACCOUNTS = """update_accounts AS (
    UPDATE accounts SET balance = account.balance, held = account.held, version = account.version,
    unit_balances = account.unit_balances
    FROM account WHERE accounts.id = account.id AND account.id IN (SELECT id FROM free)
)"""
_UPDATE_GRANTS = """update_grants AS (
    UPDATE credit_grants SET remaining = taken.remaining
    FROM taken WHERE credit_grants.id = taken.id AND taken.account_id IN (SELECT id FROM free)
)"""
_END_RESERVATIONS = """update_reservations AS (
    UPDATE reservations SET state = ended.state, used = ended.used
    FROM ended WHERE reservations.id = ended.id AND ended.account_id IN (SELECT id FROM free)
)"""
