"""A unit of work: rows read by one statement, and all changes written by one. Knows no table.

Tortoise builds each statement's text each time and sends row by row, which was most of a settlement's time.
Here each text is built once. On PostgreSQL all writes are one statement (data-modifying CTEs), which those of
others may share (`shared_writes.py`). On SQLite, which has no round trips, they are written row by row, in
one call of the connection's thread.

`_saved_in_db` is private to Tortoise.
"""

# ruff: noqa: S608 - statements are made of the models' names and the callers' constants, never of a value

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from tortoise.models import Model

from paidup.db import sqlite
from paidup.db.bulk import quote_names, select_by_keys, sqlite_insert_sql, sqlite_update_sql, to_parameters
from paidup.db.connection import connection, is_sqlite
from paidup.db.instances import columns_of, row_of

M = TypeVar("M", bound=Model)
Row = Any
"""An instance of some model."""


async def read_locked(condition: str, values: Sequence[Any], *models: type[Model]) -> tuple[Row, ...] | None:
    """The first row of each of these models for which `condition` holds, locked in this order.

    `condition` is SQL with $1, $2 and so on for `values`, for both databases. Needs a transaction.
    """
    db = connection()
    query, lock = select_sql(condition, sqlite := is_sqlite(db), models), ""
    if not sqlite:  # NO KEY, as in connection.locked()
        lock = f" FOR NO KEY UPDATE OF {_tables(models)}"
    _, found = await db.execute_query(f"{query} LIMIT 1{lock}", list(values))
    return rows_of(models, tuple(found[0]), sqlite) if found else None


async def read_rows(condition: str, values: Sequence[Any], *models: type[Model]) -> tuple[Row, ...] | None:
    """Like `read_locked`, without locks or a transaction, and in less time than Tortoise's `get` takes."""
    db = connection()
    query = select_sql(condition, sqlite := is_sqlite(db), models)
    _, found = await db.execute_query(f"{query} LIMIT 1", list(values))
    return rows_of(models, tuple(found[0]), sqlite) if found else None


async def read_many(model: type[M], clause: str, *values: Any) -> list[M]:
    """The rows of a model's table that `clause` selects, in a third of the time that Tortoise's filter takes.

    It is SQL that begins with a condition, with $1, $2 and so on for `values`, for both databases.
    """
    db = connection()
    _, found = await db.execute_query(_many_sql(model, clause, sqlite := is_sqlite(db)), list(values))
    return [row_of(model, tuple(cells), sqlite) for cells in found]


async def count_up_to(most: int, model: type[Model], condition: str, *values: Any) -> int:
    """How many rows of a model's table there are, `most` at most: no more are read. `condition` as above."""
    query = f'SELECT 1 FROM "{model._meta.db_table}" WHERE {condition} LIMIT {most}'
    db = connection()
    query = query.replace("$", "?") if is_sqlite(db) else query
    _, found = await db.execute_query(f"SELECT count(*) FROM ({query}) AS some_of", list(values))
    return int(found[0][0])


async def read_by_keys(model: type[M], keys: Iterable[Any]) -> list[M]:
    """The rows of a model's table with these primary keys, in no order."""
    sqlite = is_sqlite()
    meta = model._meta
    query = f'SELECT {quote_names(columns_of(model))} FROM "{meta.db_table}" WHERE "{meta.db_pk_column}"'
    return [row_of(model, cells, sqlite) async for cells in select_by_keys(query, keys)]


@cache
def _many_sql(model: type[Model], clause: str, sqlite: bool) -> str:
    query = f'SELECT {quote_names(columns_of(model))} FROM "{model._meta.db_table}" WHERE {clause}'
    return query.replace("$", "?") if sqlite else query


@cache
def select_sql(condition: str, sqlite: bool, models: tuple[type[Model], ...]) -> str:
    """Each model's columns and, on PostgreSQL, its row's version."""
    selected = [f'"{model._meta.db_table}"."{name}"' for model in models for name in columns_of(model)]
    selected += [] if sqlite else [f'"{model._meta.db_table}".xmin::text' for model in models]
    query = f"SELECT {', '.join(selected)} FROM {_tables(models)} WHERE {condition}"
    return query.replace("$", "?") if sqlite else query


def rows_of(models: Sequence[type[Model]], cells: tuple[Any, ...], sqlite: bool) -> tuple[Row, ...]:
    rows, start = [], 0
    for model in models:
        end = start + len(columns_of(model))
        rows.append(row_of(model, cells[start:end], sqlite))
        start = end
    return tuple(rows)


def _tables(models: Sequence[type[Model]]) -> str:
    return quote_names(model._meta.db_table for model in models)


class Insert(NamedTuple):
    row: Row
    references: dict[str, Row]


class Update(NamedTuple):
    """`changes` is SQL as in `update_many`; `values` begin with the primary key."""

    model: type[Model]
    changes: str
    values: dict[str, Any]


class UnitOfWork:
    """Rows to insert and to update, sent together. A row's values are read when it is sent."""

    def __init__(self) -> None:
        self._inserts: list[Insert] = []
        self._changed: dict[int, tuple[Row, list[str]]] = {}
        self._updates: list[Update] = []

    def insert(self, row: Row, **references: Row) -> None:
        """`references`: columns that take the id which another row inserted here will get."""
        self._inserts.append(Insert(row, references))

    def update(self, row: Row, *columns: str) -> None:
        """Write `columns` of `row`. A row named several times is written once."""
        _, named = self._changed.setdefault(id(row), (row, []))
        named += (column for column in columns if column not in named)

    def update_unread(self, model: type[Model], changes: str, **values: Any) -> None:
        """Update a row that was not read: `changes` as in `update_many`; the first of `values` is its key."""
        self._updates.append(Update(model, changes, values))

    @property
    def empty(self) -> bool:
        return not (self._inserts or self._changed or self._updates)

    @property
    def inserts(self) -> Sequence[Insert]:
        return self._inserts

    @property
    def changes(self) -> Iterable[tuple[Row, Sequence[str]]]:
        """The rows to update, of those that were read, and the columns that have changed."""
        return self._changed.values()

    @property
    def unread(self) -> Sequence[Update]:
        """The updates of rows that were not read."""
        return self._updates

    @property
    def inserted(self) -> list[Row]:
        """The rows to insert."""
        return [insert.row for insert in self._inserts]

    @property
    def changed(self) -> list[Row]:
        """The rows to update, of those that were read."""
        return [row for row, _ in self._changed.values()]

    async def send(self) -> None:
        """Write it all in the caller's transaction. Raises tortoise's IntegrityError."""
        if self.empty:
            return
        if is_sqlite():
            await sqlite.run(connection(), self.write_row_by_row)
        else:
            await self._send_at_once()

    def write_row_by_row(self, db: sqlite3.Connection) -> None:
        """What `send` does on SQLite, in the connection's thread."""
        for row, references in self._inserts:
            _set_references(row, references)
            model: type[Model] = type(row)
            names = insert_columns(model)
            key = db.execute(sqlite_insert_sql(model, names), _insert_parameters(row, {})).lastrowid
            if model._meta.pk.generated:
                row.pk = key
            row._saved_in_db = True
        updates = [_to_update(row, columns) for row, columns in self._changed.values()]
        for model, changes, values in [*updates, *self._updates]:
            query = sqlite_update_sql(model, changes, "TRUE", tuple(values))
            db.execute(query, to_parameters(model, values))
        self._clear()

    async def _send_at_once(self) -> None:
        updates = [_to_update(row, columns) for row, columns in self._changed.values()] + self._updates
        number = {id(insert.row): number for number, insert in enumerate(self._inserts)}
        statement = _write_sql(
            tuple(
                (type(row), tuple((name, number[id(other)]) for name, other in references.items()))
                for row, references in self._inserts
            ),
            tuple((model, changes, tuple(values)) for model, changes, values in updates),
        )
        parameters = [value for insert in self._inserts for value in _insert_parameters(*insert)]
        for model, _, values in updates:
            parameters += to_parameters(model, values)
        _, found = await connection().execute_query(statement, parameters)
        _, *keys = tuple(found[0])
        for insert, key in zip(self._inserts, keys, strict=True):
            insert.row.pk, insert.row._saved_in_db = key, True
        for row, references in self._inserts:
            _set_references(row, references)
        self._clear()

    def _clear(self) -> None:
        self._inserts, self._changed, self._updates = [], {}, []


def _set_references(row: Row, references: dict[str, Row]) -> None:
    for column, other in references.items():
        setattr(row, column, other.pk)


def _to_update(row: Row, columns: Sequence[str]) -> Update:
    model: type[Model] = type(row)
    names = (model._meta.db_pk_column, *columns)
    return Update(model, _assignments(tuple(columns)), {name: getattr(row, name) for name in names})


@cache
def _assignments(columns: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}" = {{{name}}}' for name in columns)


@cache
def insert_columns(model: type[Model]) -> tuple[str, ...]:
    generated = model._meta.db_pk_column if model._meta.pk.generated else None
    return tuple(name for name in columns_of(model) if name != generated)


@cache
def _created_at_fields(model: type[Model]) -> tuple[str, ...]:
    found = model._meta.fields_map.items()
    return tuple(name for name, field in found if getattr(field, "auto_now_add", False))


def set_created_at(model: type[Model], rows: Iterable[Row]) -> None:
    """Set the columns of rows to insert that say when that is."""
    for name in _created_at_fields(model):
        for row in rows:
            model._meta.fields_map[name].to_db_value(getattr(row, name), row)  # sets it if it is not set


def _insert_parameters(row: Row, references: dict[str, Row]) -> list[Any]:
    model: type[Model] = type(row)
    set_created_at(model, [row])
    names = [name for name in insert_columns(model) if name not in references]
    return to_parameters(model, {name: getattr(row, name) for name in names})


@cache
def _write_sql(
    inserts: tuple[tuple[type[Model], tuple[tuple[str, int], ...]], ...],
    updates: tuple[tuple[type[Model], str, tuple[str, ...]], ...],
) -> str:
    """One statement that writes rows of these models. It selects TRUE, and the new rows' ids.

    Its parameters: each insert's values, then each update's.
    """
    steps, first = [], 1
    for number, (model, references) in enumerate(inserts):
        names, other = insert_columns(model), dict(references)
        values = _number([name for name in names if name not in other], first)
        first += len(values)
        values |= {name: f"(SELECT id FROM insert{position})" for name, position in references}
        steps.append(
            f'insert{number} AS (INSERT INTO "{model._meta.db_table}" ({quote_names(names)})'
            f" SELECT {', '.join(values[name] for name in names)}"
            f' RETURNING "{model._meta.db_pk_column}" AS id)'
        )
    for number, (model, changes, columns) in enumerate(updates):
        table, key, values = model._meta.db_table, model._meta.db_pk_column, _number(columns, first)
        first += len(values)
        steps.append(
            f'update{number} AS (UPDATE "{table}" SET {changes.format(**values)}'
            f' WHERE "{key}" = {values[columns[0]]})'
        )
    selected = ["TRUE"]
    selected += [f"(SELECT id FROM insert{number})" for number in range(len(inserts))]
    return f"WITH {', '.join(steps)} SELECT {', '.join(selected)}"


def _number(columns: Sequence[str], first: int) -> dict[str, str]:
    """A parameter for each column, from `first` on."""
    return {name: f"${number}" for number, name in enumerate(columns, start=first)}
