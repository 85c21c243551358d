"""Rows in few round trips: several read by one statement, several written by one.

Tortoise composes each statement anew and sends them one by one, which on the road to a credit was most of
the time. Here the text is made once from the models' columns, and on PostgreSQL all writes of a batch are
one statement (data-modifying WITH). On SQLite, where nothing is far away, Tortoise writes them one after
another. Refuses to know any table.
"""

# ruff: noqa: S608 - the text is made of the models' names and the callers' constants, never of a value

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import cache
from typing import Any

import msgspec
from tortoise import fields
from tortoise.models import Model

from paidup.db.connection import connection, is_sqlite

Kind = type[Model]
Row = Any
"""An instance of some model."""


async def first_locked(condition: str, values: Sequence[Any], *kinds: Kind) -> tuple[Row, ...] | None:
    """The first row of each of these models for which `condition` holds, locked in this order.

    `condition` is SQL with $1, $2 and so on for `values`, the same for both databases. The
    transaction is the caller's.
    """
    sqlite = is_sqlite()
    query, end = _reading(condition, sqlite, kinds), ""
    if not sqlite:  # NO KEY, as in database.locked()
        end = f" FOR NO KEY UPDATE OF {', '.join(kind._meta.db_table for kind in kinds)}"
    _, found = await connection().execute_query(query + end, list(values))
    return _rows(kinds, found[0]) if found else None


class VersionedRows:
    """Rows that were read without a lock, and what tells whether somebody has changed them since."""

    def __init__(self, rows: tuple[Row, ...], versions: Sequence[str]) -> None:
        self.rows = rows
        self.versions = versions


async def first_seen(condition: str, values: Sequence[Any], *kinds: Kind) -> VersionedRows | None:
    """The same without locks and outside of a transaction, for `UnitOfWork.send_if_unchanged`.

    None where there is no such row, and on SQLite, where there is no telling who changed one.
    """
    if is_sqlite():
        return None
    _, found = await connection().execute_query(_reading(condition, False, kinds), list(values))
    if not found:
        return None
    cells = tuple(found[0])
    return VersionedRows(_rows(kinds, cells), cells[-len(kinds) :])


@cache
def _reading(condition: str, sqlite: bool, kinds: tuple[Kind, ...]) -> str:
    """Each model's columns, and on PostgreSQL what changes with each change of its row."""
    columns = [f'"{kind._meta.db_table}"."{name}"' for kind in kinds for name in _names(kind)]
    columns += [] if sqlite else [f'"{kind._meta.db_table}".xmin::text' for kind in kinds]
    tables = ", ".join(f'"{kind._meta.db_table}"' for kind in kinds)
    query = f"SELECT {', '.join(columns)} FROM {tables} WHERE {condition} LIMIT 1"
    return query.replace("$", "?") if sqlite else query


def _rows(kinds: Sequence[Kind], found: Any) -> tuple[Row, ...]:
    cells, rows, start = tuple(found), [], 0
    for kind in kinds:
        names = _names(kind)
        rows.append(kind._init_from_db(**dict(zip(names, cells[start:], strict=False))))
        start += len(names)
    return tuple(rows)


@cache
def _names(kind: Kind) -> tuple[str, ...]:
    return tuple(kind._meta.fields_db_projection.values())


READ_AT_ONCE = 500
# One parameter however many keys, so that it is one statement, prepared once.
_AMONG = {True: "IN (SELECT value FROM json_each(?))", False: "= ANY($1)"}


async def of_keys(query: str, keys: Iterable[Any]) -> AsyncIterator[tuple[Any, ...]]:
    """What `query` selects for these keys, 500 at a time; it is SQL that ends with the keys' column."""
    sqlite, wanted = is_sqlite(), list(keys)
    for start in range(0, len(wanted), READ_AT_ONCE):
        some = wanted[start : start + READ_AT_ONCE]
        value = msgspec.json.encode(some).decode() if sqlite else some
        _, found = await connection().execute_query(f"{query} {_AMONG[sqlite]}", [value])
        for number, cells in enumerate(found):
            if number % 25 == 24:
                await asyncio.sleep(0)  # a socket that has news does not wait for all of them
            yield tuple(cells)


async def execute(statement: str, *values: Any) -> int:
    """How many rows `statement` changed. It is SQL with $1, $2 and so on for `values`."""
    query = statement.replace("$", "?") if is_sqlite() else statement
    changed, _ = await connection().execute_query(query, list(values))
    return changed


async def insert_many(kind: Kind, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert these values of `columns`."""
    if is_sqlite():
        await kind.bulk_create([kind(**dict(zip(columns, row, strict=True))) for row in rows])
        return
    await connection().execute_query(_inserting(kind, tuple(columns)), _arrays(kind, columns, rows))


async def insert_unless_there(kind: Kind, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> set[Any]:
    """The same, but a row whose key is there already is passed over. The keys of those that are new."""
    if is_sqlite():
        made = [kind(**dict(zip(columns, row, strict=True))) for row in rows]
        there = await kind.filter(pk__in=[row.pk for row in made]).only(kind._meta.pk_attr)
        await kind.bulk_create(made, ignore_conflicts=True)
        return {row.pk for row in made} - {row.pk for row in there}
    query = f'{_inserting(kind, tuple(columns))} ON CONFLICT DO NOTHING RETURNING "{kind._meta.db_pk_column}"'
    # As a WITH: Tortoise takes the answer of what begins with INSERT to be a count.
    query = f"WITH new AS ({query}) SELECT * FROM new"
    _, found = await connection().execute_query(query, _arrays(kind, columns, rows))
    return {cells[0] for cells in found}


def _arrays(kind: Kind, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """The rows' values, column by column."""
    converts = _converts(kind)
    return [
        [convert(value, kind) for value in cells] if (convert := converts[name]) else list(cells)
        for name, cells in zip(columns, zip(*rows, strict=True), strict=True)
    ]


@cache
def _inserting(kind: Kind, columns: tuple[str, ...]) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    return f'INSERT INTO "{kind._meta.db_table}" ({names}) SELECT * FROM {_unnest(kind, columns)}'


def _unnest(kind: Kind, columns: Sequence[str]) -> str:
    types = [_type(kind._meta.fields_map[name]) for name in columns]
    return f"unnest({', '.join(f'${number}::{each}[]' for number, each in enumerate(types, start=1))})"


def _type(field: Any) -> str:
    match field:
        case fields.DatetimeField():
            return "timestamptz"
        case fields.JSONField():
            return "jsonb"
        case fields.IntField():  # BigIntField is one, too
            return "bigint"
        case _:
            assert issubclass(field.field_type, str)
            return "text"


async def update_many(
    kind: Kind,
    changes: str,
    where: str,
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    pass_over_locked: bool = False,
) -> None:
    """For each of `rows`, whose first value is the key: make `changes` where `where` holds.

    Both are SQL, in which {name} stands for the row's value of that name.
    """
    sqlite = is_sqlite()
    query = _updating(kind, changes, where, tuple(names), sqlite, pass_over_locked)
    if sqlite:
        await connection().execute_many(query, [list(row) for row in rows])
    else:
        await connection().execute_query(query, _arrays(kind, names, rows))


@cache
def _updating(
    kind: Kind, changes: str, where: str, names: tuple[str, ...], sqlite: bool, pass_over_locked: bool
) -> str:
    table, key = kind._meta.db_table, kind._meta.db_pk_column
    if sqlite:
        marks = {name: f"?{number}" for number, name in enumerate(names, start=1)}
        return f"UPDATE {table} SET {changes} WHERE {key} = ?1 AND {where}".format(**marks)
    chosen = f"WITH given AS (SELECT * FROM {_unnest(kind, names)} AS given({', '.join(names)}))"
    among = "given"
    if pass_over_locked:
        chosen += f""", free AS (SELECT given.* FROM given JOIN {table} USING ({key})
            FOR NO KEY UPDATE OF {table} SKIP LOCKED)"""
        among = "free"
    query = (
        f"{chosen} UPDATE {table} SET {changes} FROM {among} WHERE {table}.{key} = {among}.{key} AND {where}"
    )
    return query.format(**{name: f"{among}.{name}" for name in names})


Inserts = list[tuple[Row, dict[str, Row]]]
Updates = list[tuple[Row, list[str]]]
Change = tuple[Kind, str, tuple[str, ...], tuple[Any, ...]]
"""Model, SQL, the names in it, and their values."""


class UnitOfWork:
    """Rows to insert and to update, sent together. Their values are read when they are sent."""

    def __init__(self) -> None:
        self._inserts: Inserts = []
        self._updates: dict[int, tuple[Row, list[str]]] = {}
        self._changes: list[Change] = []

    def insert(self, row: Row, **references: Row) -> None:
        """`references`: columns that take the id which another row inserted here will get."""
        self._inserts.append((row, references))

    def update(self, row: Row, *columns: str) -> None:
        """The same row may be named several times: it is written once."""
        _, named = self._updates.setdefault(id(row), (row, []))
        named += (column for column in columns if column not in named)

    def change(self, kind: Kind, changes: str, **values: Any) -> None:
        """A row that was not read: `changes` as in `update_many`; the first of `values` is its key."""
        self._changes.append((kind, changes, tuple(values), tuple(values.values())))

    @property
    def empty(self) -> bool:
        return not (self._inserts or self._updates or self._changes)

    async def send(self) -> None:
        """Write it all, in the caller's transaction. Raises tortoise's IntegrityError."""
        if self.empty:
            return
        if is_sqlite():
            await _one_by_one(*self._taken())
        else:
            await _at_once(*self._taken())

    async def send_if_unchanged(self, seen: VersionedRows) -> bool:
        """Write it all and commit, in a statement that locks what was seen, in that order.

        False, and nothing is written, where somebody has changed it. Raises IntegrityError.
        """
        return await _at_once(*self._taken(), seen)

    def _taken(self) -> tuple[Inserts, Updates, list[Change]]:
        taken = self._inserts, list(self._updates.values()), self._changes
        self._inserts, self._updates, self._changes = [], {}, []
        return taken


async def _one_by_one(inserts: Inserts, updates: Updates, changes: list[Change]) -> None:
    for row, references in inserts:
        for column, other in references.items():
            setattr(row, column, other.pk)
        await row.save(force_create=True)
    for row, columns in updates:
        await row.save(update_fields=columns)
    for kind, change, names, values in changes:
        await update_many(kind, change, "TRUE", names, [values])


async def _at_once(
    inserts: Inserts, updates: Updates, changes: list[Change], seen: VersionedRows | None = None
) -> bool:
    places = {id(row): number for number, (row, _) in enumerate(inserts)}
    shape = (
        tuple(
            (type(row), tuple((column, places[id(other)]) for column, other in references.items()))
            for row, references in inserts
        ),
        tuple((type(row), tuple(columns)) for row, columns in updates),
        tuple((kind, change, names) for kind, change, names, _ in changes),
    )
    values = [
        convert(getattr(row, name), row) if convert else getattr(row, name)
        for row, references in inserts
        for name, convert in _inserted(_kind(row))
        if name not in references
    ]
    for row, columns in updates:
        converts = _converts(_kind(row))
        values += [
            convert(getattr(row, name), row) if (convert := converts[name]) else getattr(row, name)
            for name in columns
        ]
        values.append(row.pk)
    for *_, given in changes:
        values += given
    held: tuple[Kind, ...] = ()
    if seen is not None:
        held = tuple(type(row) for row in seen.rows)
        values += [row.pk for row in seen.rows] + list(seen.versions)
    _, found = await connection().execute_query(_writing(*shape, held), values)
    unchanged, *keys = tuple(found[0])
    for (row, _), key in zip(inserts, keys, strict=True):
        row.pk, row._saved_in_db = key, True
    for row, references in inserts:
        for column, other in references.items():
            setattr(row, column, other.pk)
    return bool(unchanged)


def _kind(row: Row) -> Kind:
    return type(row)


Convert = Callable[[Any, Row], Any]


@cache
def _converts(kind: Kind) -> dict[str, Convert | None]:
    """For each column what makes its value one that PostgreSQL's driver takes; None: it does already."""
    found: dict[str, Convert | None] = {}
    for name, column in kind._meta.fields_db_projection.items():
        match kind._meta.fields_map[name]:
            case fields.JSONField():
                found[column] = _json
            case fields.DatetimeField(auto_now_add=True) as field:
                found[column] = field.to_db_value  # it sets what is not set
            case _:
                found[column] = None
    return found


def _json(value: Any, _: Row) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


@cache
def _inserted(kind: Kind) -> tuple[tuple[str, Convert | None], ...]:
    generated = kind._meta.db_pk_column if kind._meta.pk.generated else None
    return tuple(item for item in _converts(kind).items() if item[0] != generated)


@cache
def _writing(
    inserts: tuple[tuple[Kind, tuple[tuple[str, int], ...]], ...],
    updates: tuple[tuple[Kind, tuple[str, ...]], ...],
    changes: tuple[tuple[Kind, str, tuple[str, ...]], ...],
    held: tuple[Kind, ...],
) -> str:
    """The statement for rows of these models. It answers whether it wrote, and the inserted rows' ids."""
    count, steps = 0, []
    source = " FROM held" if held else ""
    for number, (kind, references) in enumerate(inserts):
        other, names, marks = dict(references), [], []
        for name, _ in _inserted(kind):
            names.append(f'"{name}"')
            if name in other:
                marks.append(f"(SELECT id FROM i{other[name]})")
            else:
                count += 1
                marks.append(f"${count}")
        steps.append(
            f'i{number} AS (INSERT INTO "{kind._meta.db_table}" ({", ".join(names)})'
            f' SELECT {", ".join(marks)}{source} RETURNING "{kind._meta.db_pk_column}" AS id)'
        )
    for number, (kind, columns) in enumerate(updates):
        marks = [f'"{name}" = ${count + place}' for place, name in enumerate(columns, start=1)]
        count += len(columns) + 1
        where = f'"{kind._meta.db_pk_column}" = ${count}'
        steps.append(
            f'u{number} AS (UPDATE "{kind._meta.db_table}" SET {", ".join(marks)}{source} WHERE {where})'
        )
    for number, (kind, change, given) in enumerate(changes):
        types = [_type(kind._meta.fields_map[name]) for name in given]
        places = {name: f"${count + place}::{types[place - 1]}" for place, name in enumerate(given, start=1)}
        where = f'"{kind._meta.db_pk_column}" = ${count + 1}'
        count += len(given)
        step = f'UPDATE "{kind._meta.db_table}" SET {change.format(**places)}{source} WHERE {where}'
        steps.append(f"c{number} AS ({step})")
    if held:
        steps.insert(0, f"held AS ({_holding(held, count)})")
    answers = ["EXISTS (SELECT FROM held)" if held else "TRUE"]
    answers += [f"(SELECT id FROM i{number})" for number in range(len(inserts))]
    return f"WITH {', '.join(steps)} SELECT {', '.join(answers)}"


def _holding(kinds: Sequence[Kind], count: int) -> str:
    """Lock these rows, if each is still the one that was seen. Their keys and versions come after `count`."""
    tables = [kind._meta.db_table for kind in kinds]
    same = []
    for place, kind in enumerate(kinds, start=count + 1):
        table = kind._meta.db_table
        same.append(f"{table}.{kind._meta.db_pk_column} = ${place}")
        same.append(f"{table}.xmin::text = ${place + len(kinds)}")
    listed = ", ".join(tables)
    return f"SELECT 1 AS one FROM {listed} WHERE {' AND '.join(same)} FOR NO KEY UPDATE OF {listed}"
