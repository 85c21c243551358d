"""Bulk statements: many rows read, inserted or updated by one statement. Knows no table.

On PostgreSQL the rows are passed column by column, as arrays, so a statement has one text however many
rows it carries and is prepared once.

What need not be `durable` is not awaited on the disk: where the machine or the database crashes within the
next second, it may be as if it had not been made. It is never made in part. In a transaction it is as
durable as that. https://www.postgresql.org/docs/current/wal-async-commit.html
"""

# ruff: noqa: S608 - statements are made of the models' names and the callers' constants, never of a value

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import msgspec
from tortoise import fields
from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.models import Model

from paidup.db import sqlite
from paidup.db.connection import connection, is_sqlite

KEYS_PER_QUERY = 500
ROWS_PER_TURN = 25
"""Rows between two turns of the event loop, so that a long result delays no WebSocket."""


async def select_by_keys(query: str, keys: Iterable[Any]) -> AsyncIterator[tuple[Any, ...]]:
    """What `query` selects for these keys, 500 at a time. It is SQL that ends with the key's column."""
    # One parameter for all keys, so that it is one statement, prepared once.
    db = connection()
    sqlite = is_sqlite(db)
    wanted = list(keys)
    for start in range(0, len(wanted), KEYS_PER_QUERY):
        some = wanted[start : start + KEYS_PER_QUERY]
        # An array as it is would be planned each time, for its length, which takes longer than to read a row.
        condition = (
            "IN (SELECT value FROM json_each(?))"
            if sqlite
            else f"= ANY(ARRAY(SELECT unnest($1::{_kind(some[0])}[])))"
        )
        value = to_json(some) if sqlite else some
        _, found = await db.execute_query(f"{query} {condition}", [value])
        for number, cells in enumerate(found, start=1):
            if number % ROWS_PER_TURN == 0:
                await asyncio.sleep(0)
            yield tuple(cells)


async def select_exceeding(query: str, known: Mapping[Any, int]) -> list[Any]:
    """The keys of `known` whose version is above the known one. `query` selects each `id` and `version`."""
    if not known:
        return []
    if is_sqlite():
        # Not `->>`, which SQLite has since 3.38 (2022): Ubuntu 22.04 has an earlier one.
        given = (
            "SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS version"
            " FROM json_each(?)"
        )
        value = to_json(list(known.items()))
    else:
        # Arrays as parameters take asyncpg 0.5 µs for each element, and PostgreSQL a plan each time, for
        # their lengths. Of arrays made here it expects ten elements, and finds rows by the index.
        kind = _kind(next(iter(known)))
        given = (
            f"SELECT unnest(array_agg(key::{kind})) AS id, unnest(array_agg(value::bigint)) AS version"
            " FROM json_each_text($1)"
        )
        value = to_json(known)
    _, found = await connection().execute_query(
        f"SELECT newest.id FROM ({given}) AS known JOIN ({query}) AS newest ON newest.id = known.id"
        " WHERE newest.version > known.version",
        [value],
    )
    return [cells[0] for cells in found]


def _kind(key: Any) -> str:
    """PostgreSQL's type of keys such as this one."""
    return "bigint" if isinstance(key, int) else "text"


async def execute(statement: str, *values: Any, durable: bool = True) -> int:
    """The number of rows that `statement` changed. It is SQL with $1, $2 and so on for `values`."""
    db = connection()
    if not is_sqlite(db):
        return await _change(db, statement, values, durable)
    query = statement.replace("$", "?")
    return await sqlite.run(db, lambda connection: connection.execute(query, values).rowcount, durable)


async def insert_many(
    model: type[Model], columns: Sequence[str], rows: Sequence[Sequence[Any]], durable: bool = True
) -> None:
    """Insert `rows`, each the values of `columns`."""
    db = connection()
    if is_sqlite(db):
        parameters = [to_parameters(model, dict(zip(columns, row, strict=True))) for row in rows]
        await _change_each(db, sqlite_insert_sql(model, tuple(columns)), parameters, durable)
    else:
        await _change(db, _insert_sql(model, tuple(columns)), to_arrays(model, columns, rows), durable)


async def _change(db: BaseDBAsyncClient, statement: str, values: Sequence[Any], durable: bool) -> int:
    """On PostgreSQL: the number of rows that `statement` changed."""
    if durable or isinstance(db, TransactionalDBClient):
        changed, _ = await db.execute_query(statement, list(values))
        return changed
    _, found = await db.execute_query(_undurable_sql(statement), list(values))
    return int(found[0][0])


@cache
def _undurable_sql(statement: str) -> str:
    """The statement in one that selects the number of rows, and whose commit does not wait for the disk."""
    setting = "set_config('synchronous_commit', 'off', TRUE)"  # of this transaction alone
    return f"WITH changed AS ({statement} RETURNING 1) SELECT count(*), {setting} FROM changed"


async def _change_each(
    db: BaseDBAsyncClient, query: str, rows: Sequence[Sequence[Any]], durable: bool
) -> None:
    """On SQLite: once for each of `rows`, in one transaction."""

    def change(connection: sqlite3.Connection) -> None:
        connection.executemany(query, rows)

    within = isinstance(db, TransactionalDBClient)
    await sqlite.run(db, change if within else partial(sqlite.in_transaction, change), durable)


@cache
def sqlite_insert_sql(model: type[Model], columns: tuple[str, ...]) -> str:
    marks = ", ".join("?" * len(columns))
    return f'INSERT INTO "{model._meta.db_table}" ({quote_names(columns)}) VALUES ({marks})'


async def insert_missing(
    model: type[Model], columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> set[Any]:
    """Insert those of `rows` whose primary key is new. Returns the new keys."""
    db = connection()
    if is_sqlite(db):
        return await _insert_each_missing(db, model, columns, rows)
    query = (
        f'{_insert_sql(model, tuple(columns))} ON CONFLICT DO NOTHING RETURNING "{model._meta.db_pk_column}"'
    )
    # In a WITH: Tortoise takes the answer to a statement that begins with INSERT for a row count.
    query = f"WITH new AS ({query}) SELECT * FROM new"
    _, found = await db.execute_query(query, to_arrays(model, columns, rows))
    return {cells[0] for cells in found}


async def _insert_each_missing(
    db: BaseDBAsyncClient, model: type[Model], columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> set[Any]:
    """On SQLite: in one transaction."""
    query = f"{sqlite_insert_sql(model, tuple(columns))} ON CONFLICT DO NOTHING"
    key, given = model._meta.db_pk_column, [dict(zip(columns, row, strict=True)) for row in rows]

    def insert(connection: sqlite3.Connection) -> set[Any]:
        return {
            values[key]
            for values in given
            if connection.execute(query, to_parameters(model, values)).rowcount
        }

    return await sqlite.write(db, insert)


@cache
def _insert_sql(model: type[Model], columns: tuple[str, ...]) -> str:
    names = quote_names(columns)
    return f'INSERT INTO "{model._meta.db_table}" ({names}) SELECT * FROM {unnest_sql(model, columns)}'


async def update_many(
    model: type[Model],
    changes: str,
    where: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    skip_locked: bool = False,
    durable: bool = True,
) -> None:
    """Make `changes` to each of `rows` for which `where` holds. A row's first value is its primary key.

    Both are SQL, in which {column} stands for the row's value of that column. With `skip_locked`,
    PostgreSQL leaves out rows that another transaction has locked.
    """
    db = connection()
    if is_sqlite(db):
        query = sqlite_update_sql(model, changes, where, tuple(columns))
        await _change_each(db, query, rows, durable)
    else:
        query = update_sql(model, changes, where, tuple(columns), skip_locked)
        await _change(db, query, to_arrays(model, columns, rows), durable)


@cache
def sqlite_update_sql(model: type[Model], changes: str, where: str, columns: tuple[str, ...]) -> str:
    """The statement of `update_many`, for one row."""
    query = f"UPDATE {model._meta.db_table} SET {changes} WHERE {model._meta.db_pk_column} = ?1 AND {where}"
    return query.format(**{name: f"?{number}" for number, name in enumerate(columns, start=1)})


@cache
def update_sql(
    model: type[Model], changes: str, where: str, columns: tuple[str, ...], skip_locked: bool = False
) -> str:
    """The statement of `update_many` on PostgreSQL, whose parameters `to_arrays` makes."""
    table, key = model._meta.db_table, model._meta.db_pk_column
    ctes = f"given AS (SELECT * FROM {unnest_sql(model, columns)} AS given({', '.join(columns)}))"
    source = "given"
    if skip_locked:
        ctes += f""", free AS (SELECT given.* FROM given JOIN {table} USING ({key})
            FOR NO KEY UPDATE OF {table} SKIP LOCKED)"""
        source = "free"
    condition = f"{table}.{key} = {source}.{key} AND {where}"
    query = f"WITH {ctes} UPDATE {table} SET {changes} FROM {source} WHERE {condition}"
    return query.format(**{name: f"{source}.{name}" for name in columns})


def unnest_sql(model: type[Model], columns: Sequence[str], first: int = 1) -> str:
    """Rows of these columns, from `to_arrays` as the parameters from `first` on."""
    types = [array_type(model._meta.fields_map[name]) for name in columns]
    return f"unnest({', '.join(f'${number}::{each}' for number, each in enumerate(types, start=first))})"


def array_type(field: Any) -> str:
    """PostgreSQL's type of an array of the field's values."""
    match field:
        case fields.DatetimeField():
            return "timestamptz[]"
        case fields.JSONField():
            return "jsonb[]"
        case fields.IntField():  # includes BigIntField
            return "bigint[]"
        case fields.BooleanField():
            return "boolean[]"
        case _:
            assert issubclass(field.field_type, str)
            return "text[]"


def to_arrays(model: type[Model], columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The values of `rows`, column by column."""
    by_column = zip(*rows, strict=True) if rows else ((),) * len(columns)
    as_json = _json_columns(model)
    return [
        [None if value is None else to_json(value) for value in values] if name in as_json else list(values)
        for name, values in zip(columns, by_column, strict=True)
    ]


def to_parameters(model: type[Model], values: Mapping[str, Any]) -> list[Any]:
    """`values` by column, as PostgreSQL's driver takes them: JSON as text, everything else as it is."""
    as_json = _json_columns(model)
    return [
        to_json(value) if name in as_json and value is not None else value for name, value in values.items()
    ]


@cache
def _json_columns(model: type[Model]) -> frozenset[str]:
    found = model._meta.fields_map.items()
    return frozenset(name for name, field in found if isinstance(field, fields.JSONField))


def quote_names(columns: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


def to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
