"""Writes the units of work of many callers in one transaction: on PostgreSQL by one statement, on SQLite in
one call of the connection's thread.

Each is written as a whole, or left out: where a row that it was decided from has changed since, is locked by
another transaction, or one that it inserts exists already, by a primary key that it has. No row that was read
is waited for. Knows no table.
"""

# ruff: noqa: S608 - statements are made of the models' names and the callers' constants, never of a value

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache, partial
from typing import Any

import msgspec
from tortoise.models import Model

from paidup.db import sqlite
from paidup.db.bulk import array_type, quote_names, to_arrays, to_json
from paidup.db.connection import connection, is_sqlite
from paidup.db.instances import columns_of
from paidup.db.unit_of_work import (
    Insert,
    Row,
    UnitOfWork,
    insert_columns,
    rows_of,
    select_sql,
    set_created_at,
)

_Kind = type[Model]


class VersionedRows(msgspec.Struct, frozen=True):
    """Rows read without a lock, the version of each, and what is to be written if none has changed.

    A version is PostgreSQL's xmin, which each update changes; on SQLite, all that the row had.
    """

    rows: tuple[Row, ...]
    versions: tuple[Any, ...]
    writes: UnitOfWork = msgspec.field(default_factory=UnitOfWork)


class ReadCells(msgspec.Struct, frozen=True):
    """What the database has answered, of which rows are made as often as they are decided on."""

    models: tuple[_Kind, ...]
    cells: tuple[Any, ...]
    """Each model's columns and, from PostgreSQL, each row's version."""
    sqlite: bool

    def rows(self) -> VersionedRows:
        versions = _by_model(self.models, self.cells) if self.sqlite else self.cells[-len(self.models) :]
        return VersionedRows(rows_of(self.models, self.cells, self.sqlite), versions)


async def read_versioned(
    condition: str, values: Sequence[Sequence[str]], *models: type[Model]
) -> list[VersionedRows]:
    """The rows of these models for which `condition` holds: SQL that tests columns with `= ANY($1)`."""
    db = connection()
    if is_sqlite(db):
        query, parameters = _among_sql(condition, models), [to_json(each) for each in values]
        kept = await sqlite.run(db, lambda db: db.execute(query, parameters).fetchall())
        return [ReadCells(models, tuple(cells), True).rows() for cells in kept]
    _, found = await db.execute_query(select_sql(condition, False, models), list(values))
    return [ReadCells(models, tuple(cells), False).rows() for cells in found]


@cache
def _among_sql(condition: str, models: tuple[_Kind, ...]) -> str:
    """For SQLite, to which a list is passed as JSON."""
    return select_sql(
        re.sub(r"= ANY\((.*?)\)", r"IN (SELECT value FROM json_each(\1))", condition), True, models
    )


def _by_model(models: Sequence[_Kind], cells: tuple[Any, ...]) -> tuple[tuple[Any, ...], ...]:
    places = iter(cells)
    return tuple(tuple(next(places) for _ in columns_of(model)) for model in models)


async def write_unchanged(units: Sequence[VersionedRows]) -> list[bool]:
    """Which of these units were written: one at least, all with rows of the same models.

    Raises IntegrityError, with nothing written, where one of them breaks another key than a new row's own.
    """
    db = connection()
    if is_sqlite(db):
        return await sqlite.run(db, partial(sqlite.in_transaction, partial(_write_each, units)))
    read = tuple(type(row) for row in units[0].rows)
    parameters = [column for place in range(len(read)) for column in _read_columns(units, place)]
    inserts, updates, unread = _Inserts(units), _updates(units), _unread(units)
    for columns in (inserts.columns(), _update_columns(updates), _unread_columns(unread)):
        parameters += columns
    statement = _write_sql(
        read, inserts.shape, tuple((model, names) for model, (names, _) in updates.items()), tuple(unread)
    )
    _, found = await db.execute_query(statement, parameters)
    written = {cells[0] for cells in found}
    return [number in written for number in range(1, len(units) + 1)]


# On SQLite: one after the other, in a transaction that holds the write lock


def _write_each(units: Sequence[VersionedRows], db: sqlite3.Connection) -> list[bool]:
    return [_write_if_unchanged(unit, db) for unit in units]


def _write_if_unchanged(unit: VersionedRows, db: sqlite3.Connection) -> bool:
    for row, version in zip(unit.rows, unit.versions, strict=True):
        if read_again(row, db) != version:
            return False
    for row in unit.writes.inserted:
        if not row._meta.pk.generated and read_again(row, db) is not None:
            return False
    unit.writes.write_row_by_row(db)
    return True


def read_again(row: Row, db: sqlite3.Connection) -> tuple[Any, ...] | None:
    """On SQLite: the columns of the row with this key, as it is now."""
    model: _Kind = type(row)
    found = db.execute(_select_by_key_sql(model), [row.pk]).fetchone()
    return found and tuple(found)


@cache
def _select_by_key_sql(model: _Kind) -> str:
    meta = model._meta
    return f'SELECT {quote_names(columns_of(model))} FROM "{meta.db_table}" WHERE "{meta.db_pk_column}" = ?'


# On PostgreSQL
# The parameters: columns of rows. The first column is the number of the row's unit, from 1 on.


def _read_columns(units: Sequence[VersionedRows], place: int) -> tuple[list[Any], list[str]]:
    return [unit.rows[place].pk for unit in units], [unit.versions[place] for unit in units]


class _Inserts:
    """The rows to insert, by model: those that refer to none, then those that refer to some of these."""

    def __init__(self, units: Sequence[VersionedRows]) -> None:
        self._rows: dict[_Kind, list[tuple[int, Insert]]] = {}
        self._places: dict[int, int] = {}
        for number, unit in enumerate(units, start=1):
            for insert in unit.writes.inserts:
                rows = self._rows.setdefault(type(insert.row), [])
                rows.append((number, insert))
                self._places[id(insert.row)] = len(rows)
        references: dict[_Kind, dict[str, _Kind]] = {
            model: {name: type(row) for _, insert in rows for name, row in insert.references.items()}
            for model, rows in self._rows.items()
        }
        in_order = sorted(references, key=lambda model: (bool(references[model]), model._meta.db_table))
        self.shape = tuple((model, tuple(sorted(references[model].items(), key=str))) for model in in_order)

    def columns(self) -> Iterable[list[Any]]:
        for model, references in self.shape:
            rows = self._rows[model]
            set_created_at(model, [insert.row for _, insert in rows])
            names = insert_columns(model)
            yield [number for number, _ in rows]
            yield from to_arrays(model, names, [_values(insert.row, names) for _, insert in rows])
            for name, _ in references:
                yield [self._places.get(id(insert.references.get(name))) for _, insert in rows]


def _values(row: Row, names: Sequence[str]) -> list[Any]:
    state = vars(row)
    return [state[name] for name in names]


_Updates = dict[_Kind, tuple[tuple[str, ...], list[tuple[int, Row]]]]
"""By model: the columns that one of its rows changes, the key first, and the rows."""


def _updates(units: Sequence[VersionedRows]) -> _Updates:
    rows: dict[_Kind, list[tuple[int, Row]]] = {}
    names: dict[_Kind, set[str]] = {}
    for number, unit in enumerate(units, start=1):
        for row, columns in unit.writes.changes:
            rows.setdefault(type(row), []).append((number, row))
            names.setdefault(type(row), set()).update(columns)
    return {
        model: ((model._meta.db_pk_column, *sorted(names[model])), rows[model])
        for model in sorted(rows, key=lambda model: model._meta.db_table)
    }


def _update_columns(updates: _Updates) -> Iterable[list[Any]]:
    for model, (names, rows) in updates.items():
        yield [number for number, _ in rows]
        yield from to_arrays(model, names, [_values(row, names) for _, row in rows])


_Unread = dict[tuple[_Kind, str, tuple[str, ...]], list[tuple[int, Sequence[Any]]]]
"""Updates of rows that were not read, by model, changes and the columns of the values, the key first."""


def _unread(units: Sequence[VersionedRows]) -> _Unread:
    found: _Unread = {}
    for number, unit in enumerate(units, start=1):
        for model, changes, values in unit.writes.unread:
            found.setdefault((model, changes, tuple(values)), []).append((number, tuple(values.values())))
    return found


def _unread_columns(unread: _Unread) -> Iterable[list[Any]]:
    for (model, _, names), found in unread.items():
        rows = sorted(found, key=lambda each: str(each[1][0]))  # in one order: see `_insert_sql`
        yield [number for number, _ in rows]
        yield from to_arrays(model, names, [values for _, values in rows])


# The statement


class _Parameters:
    """Hands out the numbers of the parameters, in the order of the functions above."""

    def __init__(self) -> None:
        self._taken = 0

    def unnest(self, *types: str) -> str:
        first, self._taken = self._taken + 1, self._taken + len(types)
        return f"unnest({', '.join(f'${first + place}::{kind}' for place, kind in enumerate(types))})"


def _types(model: _Kind, names: Iterable[str]) -> list[str]:
    return [array_type(model._meta.fields_map[name]) for name in names]


@cache
def _write_sql(
    read: tuple[_Kind, ...],
    inserts: tuple[tuple[_Kind, tuple[tuple[str, _Kind], ...]], ...],
    updates: tuple[tuple[_Kind, tuple[str, ...]], ...],
    unread: tuple[tuple[_Kind, str, tuple[str, ...]], ...],
) -> str:
    """One statement that writes rows of these models. It selects the numbers of the units that it wrote."""
    parameters = _Parameters()
    steps = [_given_sql(read, parameters), _unchanged_sql(read)]
    known = []
    referred = {model for _, references in inserts for _, model in references}
    for model, references in inserts:
        steps.append(_new_rows_sql(model, references, model in referred, parameters))
        if not model._meta.pk.generated:
            known.append(f"SELECT new.member FROM {_new(model)} AS new WHERE {_exists(model)}")
    among = f" WHERE member NOT IN ({' UNION ALL '.join(known)})" if known else ""
    steps.append(f"free AS (SELECT member FROM unchanged{among})")
    steps += [_insert_sql(model, references, model in referred) for model, references in inserts]
    for number, (model, names) in enumerate(updates):
        changes = ", ".join(f'"{name}" = {{{name}}}' for name in names[1:])
        steps.append(_update_sql(f"update{number}", model, changes, names, parameters))
    for number, (model, changes, names) in enumerate(unread):
        steps.append(_update_sql(f"unread{number}", model, changes, names, parameters))
    return f"WITH {', '.join(steps)} SELECT member FROM free"


def _given_sql(read: Sequence[_Kind], parameters: _Parameters) -> str:
    types = [kind for model in read for kind in (*_types(model, [model._meta.db_pk_column]), "text[]")]
    names = ", ".join(f"key{place}, seen{place}" for place in range(len(read)))
    return f"given AS (SELECT * FROM {parameters.unnest(*types)} WITH ORDINALITY AS given({names}, member))"


def _unchanged_sql(read: Sequence[_Kind]) -> str:
    """Lock the rows that were read, where none has changed: a locked row is compared as it is then."""
    joined = " ".join(
        f'JOIN "{model._meta.db_table}" AS read{place}'
        f' ON read{place}."{model._meta.db_pk_column}" = key{place} AND read{place}.xmin::text = seen{place}'
        for place, model in enumerate(read)
    )
    rows = ", ".join(f"read{place}" for place in range(len(read)))
    return f"unchanged AS (SELECT member FROM given {joined} FOR NO KEY UPDATE OF {rows} SKIP LOCKED)"


def _new(model: _Kind) -> str:
    return f'"new_{model._meta.db_table}"'


def _place(reference: str) -> str:
    """The column of a new row that has the place of the new row that it refers to."""
    return f"{reference}_place"


def _exists(model: _Kind) -> str:
    """By the index, for each row: a join could read the whole table where its statistics are old."""
    table, key = f'"{model._meta.db_table}"', f'"{model._meta.db_pk_column}"'
    return f"(SELECT TRUE FROM {table} WHERE {table}.{key} = new.{key})"


def _new_rows_sql(
    model: _Kind, references: Sequence[tuple[str, _Kind]], referred: bool, parameters: _Parameters
) -> str:
    """The rows to insert, with their places; with their keys, where others refer to them."""
    names = insert_columns(model)
    source = parameters.unnest("bigint[]", *_types(model, names), *("bigint[]" for _ in references))
    columns = quote_names(["member", *names, *(_place(name) for name, _ in references), "place"])
    sequence = f"pg_get_serial_sequence('{model._meta.db_table}', '{model._meta.db_pk_column}')::regclass"
    key = f", nextval((SELECT {sequence})) AS new_key" if referred else ""
    return f"{_new(model)} AS (SELECT *{key} FROM {source} WITH ORDINALITY AS given({columns}))"


def _insert_sql(model: _Kind, references: Sequence[tuple[str, _Kind]], referred: bool) -> str:
    # Rows with keys of their own in the order of these: so that two processes that insert the same ones at
    # the same time cannot deadlock.
    order = "new.place" if model._meta.pk.generated else f'new."{model._meta.db_pk_column}"'
    written = {name: f'new."{name}"' for name in insert_columns(model)}
    # Of one that refers to no new row, as it is.
    written |= {name: f'COALESCE("{name}".new_key, new."{name}")' for name, _ in references}
    if referred:
        written[model._meta.db_pk_column] = "new.new_key"
    joined = "".join(
        f' LEFT JOIN {_new(other)} AS "{name}" ON "{name}".place = new."{_place(name)}"'
        for name, other in references
    )
    return (
        f'"insert_{model._meta.db_table}" AS (INSERT INTO "{model._meta.db_table}" ({quote_names(written)})'
        f" SELECT {', '.join(written.values())} FROM {_new(model)} AS new{joined}"
        f" WHERE new.member IN (SELECT member FROM free) ORDER BY {order})"
    )


def _update_sql(step: str, model: _Kind, changes: str, names: Sequence[str], parameters: _Parameters) -> str:
    table, key = f'"{model._meta.db_table}"', f'"{names[0]}"'
    source = parameters.unnest("bigint[]", *_types(model, names))
    new = f"{source} AS new({quote_names(['member', *names])})"
    assigned = changes.format(**{name: f'new."{name}"' for name in names})
    return (
        f"{step} AS (UPDATE {table} SET {assigned} FROM {new}"
        f" WHERE {table}.{key} = new.{key} AND new.member IN (SELECT member FROM free))"
    )
