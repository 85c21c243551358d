"""Takes a lease: changes one row where a condition holds, and reads it with another row, by one statement.

A lease is a hint of when others may do the same, so the disk is not awaited: see `bulk.py`. Knows no table.
"""

# ruff: noqa: S608 - statements are made of the models' names and the callers' constants, never of a value

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from typing import Any

from tortoise.models import Model

from paidup.db import sqlite
from paidup.db.bulk import quote_names
from paidup.db.connection import connection, is_sqlite
from paidup.db.instances import columns_of
from paidup.db.shared_writes import ReadCells
from paidup.db.unit_of_work import select_sql


async def take_lease(
    update: str, joined: str, models: tuple[type[Model], ...], values: Sequence[Any]
) -> ReadCells | None:
    """The row of the last of `models` that `update` has changed, and the others' that are `joined` to it.

    Both are SQL for both databases: an UPDATE, with $1, $2 and so on for `values`, of the row whose primary
    key is $1; and a condition. None where nothing was changed.
    """
    db = connection()
    if not is_sqlite(db):
        _, found = await db.execute_query(_postgres_sql(update, joined, models), list(values))
        return ReadCells(models, tuple(found[0])[:-1], False) if found else None
    query, select = update.replace("$", "?"), _sqlite_select(joined, models)

    def change(connection: sqlite3.Connection) -> Any:
        changed = connection.execute(query, values).rowcount
        return connection.execute(select, values[:1]).fetchone() if changed else None

    cells = await sqlite.run(db, change, durable=False)
    return None if cells is None else ReadCells(models, tuple(cells), True)


@cache
def _postgres_sql(update: str, joined: str, models: tuple[type[Model], ...]) -> str:
    """The changed row takes the place of its table, so that it is read as it is now."""
    names = quote_names([model._meta.db_table for model in models])
    versions = "".join(f'"{model._meta.db_table}".xmin::text, ' for model in models[:-1])
    selected = ", ".join(
        f'"{model._meta.db_table}"."{column}"' for model in models for column in columns_of(model)
    )
    setting = "set_config('synchronous_commit', 'off', TRUE)"  # of this transaction alone
    changed = f'"{models[-1]._meta.db_table}" AS ({update} RETURNING *, xmin::text AS row_version)'
    return f"WITH {changed} SELECT {selected}, {versions}row_version, {setting} FROM {names} WHERE {joined}"


@cache
def _sqlite_select(joined: str, models: tuple[type[Model], ...]) -> str:
    meta = models[-1]._meta
    return select_sql(f'"{meta.db_table}"."{meta.db_pk_column}" = $1 AND {joined}', True, models)
