"""Writes what spends and reservations change in several accounts, without waiting for a lock.

The rows of one account are written together or not at all: not where one of them has changed since it was
read, is locked by another transaction, or an entry of the same kind and reference exists. On PostgreSQL this
is one statement, on SQLite one transaction, for any number of accounts.
"""

# ruff: noqa: S608 - statements are made of the models' names and of constants, never of a value

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from functools import cache, partial
from typing import Any

from tortoise.models import Model

from paidup.credits.account_states import AccountState
from paidup.db import sqlite
from paidup.db.bulk import quote_names, to_arrays, to_parameters, unnest_sql
from paidup.db.connection import connection, is_sqlite
from paidup.db.models import Account, CreditGrant, LedgerEntry, Reservation
from paidup.db.shared_writes import read_again
from paidup.db.unit_of_work import insert_columns

_BALANCE = ("id", "balance", "held", "version", "unit_balances")
_REMAINING = ("id", "account_id", "remaining")
_ENDED = ("id", "account_id", "state", "used")


async def write_states(states: Collection[AccountState]) -> set[int]:
    """Write the changes of each account by itself. Returns the accounts whose changes are written.

    Raises IntegrityError, with nothing written.
    """
    changed = [state for state in states if not state.writes.empty]
    if not changed:
        return set()
    if is_sqlite(db := connection()):
        return await sqlite.write(db, partial(_write_rows, changed))
    return await _write_at_once(changed)


def _models(states: Iterable[AccountState]) -> tuple[type[Model], ...]:
    """The models of rows to insert."""
    found: dict[str, type[Model]] = {
        type(row)._meta.db_table: type(row) for state in states for row in state.writes.inserted
    }
    return tuple(found[table] for table in sorted(found))


# On SQLite: a statement for each table, in one call of the connection's thread


def _write_rows(changed: Sequence[AccountState], db: sqlite3.Connection) -> set[int]:
    states = [state for state in changed if _is_unchanged(state, db)]
    if not states:
        return set()
    entries = _rows(LedgerEntry, insert_columns(LedgerEntry), states)
    values = [value for row in entries for value in row]
    written = {cells[0] for cells in db.execute(_new_entries_sql(len(entries)), values).fetchall()}
    free = [state for state in states if state.account.id in written]
    for model in _models(free):
        if model is not LedgerEntry:
            names = insert_columns(model)
            marks = ", ".join("?" * len(names))
            query = f'INSERT INTO "{model._meta.db_table}" ({quote_names(names)}) VALUES ({marks})'
            db.executemany(query, _rows(model, names, free))
    for model, columns in ((Account, _BALANCE), (CreditGrant, _REMAINING), (Reservation, _ENDED)):
        names = tuple(name for name in columns if name != "account_id")
        rows = [_parameters(row, names) for state in free for row in state.changed(model)]
        db.executemany(_update_sql(model, names), rows)
    return written


def _is_unchanged(state: AccountState, db: sqlite3.Connection) -> bool:
    """Whether the account and the grants to change are as they were read."""
    if read_again(state.account, db) != state.version:
        return False
    return all(read_again(grant, db) == state.versions[grant.id] for grant in state.changed(CreditGrant))


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
