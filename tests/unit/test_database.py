"""The database: SQLite's lock between processes, and what the migrations make."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextvars import Context
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tortoise import Tortoise
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.exceptions import DBConnectionError

from paidup.db.connection import (
    connection,
    is_sqlite,
    locked,
    open_database,
    storage_errors,
    write_transaction,
)
from paidup.db.models import Account, KnownPrice, Subscription
from paidup.errors import StorageUnavailable
from tests.support.waiting import wait_until


async def test_a_transaction_of_tortoises_own_waits_for_another_processs_write(
    sqlite_template: Path, tmp_path: Path
) -> None:
    """update_or_create reads before it writes: begun deferred, it would fail at once with SQLITE_BUSY."""
    EXECUTOR_CACHE.clear()
    sqlite_file = tmp_path / "two.db"
    shutil.copy(sqlite_template, sqlite_file)
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    async with open_database(f"sqlite://{sqlite_file}"):
        values: dict[str, Any] = {"lookup_key": "k", "plan": "pro", "unit_amount_minor": 1, "currency": "usd"}
        await KnownPrice.create(id="price_1", **values)
        # A real write: what was read before it is stale after it, and that is never waited for.
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE prices SET unit_amount_minor = 2")
        waiting = asyncio.ensure_future(KnownPrice.update_or_create(values, id="price_1"))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        other.execute("COMMIT")
        await wait_until(waiting.done)
        assert waiting.exception() is None
        assert (await KnownPrice.get(id="price_1")).unit_amount_minor == 1
    other.close()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_row_that_refers_to_a_locked_one_is_inserted_meanwhile(database_url: str) -> None:
    """Or the inserter, and a settlement that makes the row with the account locked, wait for each other."""
    async with open_database(database_url):
        account = await Account.create(external_id="ada")
        async with write_transaction():
            await locked(Account.filter(id=account.id)).get()
            # A context of its own, so a connection of its own.
            inserting = Subscription.create(id="sub_1", account_id=account.id)
            await asyncio.wait_for(asyncio.create_task(inserting, context=Context()), 5)
        assert await Subscription.exists(id="sub_1")


async def keys_and_indexes() -> set[tuple[str, tuple[str, ...], bool]]:
    """(table, columns, unique) of each key and index that the open database has, whatever their names."""
    if is_sqlite():
        found = await connection().execute_query_dict(
            'SELECT m.name AS tab, i.name AS idx, i."unique" AS uniq, c.seqno AS seq, c.name AS col'
            " FROM sqlite_master m, pragma_index_list(m.name) i, pragma_index_info(i.name) c"
            " WHERE m.type = 'table'"
        )
    else:
        found = await connection().execute_query_dict(
            "SELECT t.relname AS tab, x.indexrelid AS idx, x.indisunique AS uniq, k.n AS seq,"
            " a.attname AS col FROM pg_index x JOIN pg_class t ON t.oid = x.indrelid"
            " JOIN pg_namespace s ON s.oid = t.relnamespace"
            " CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY k(num, n)"
            " JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.num WHERE s.nspname = 'public'"
        )
    columns: dict[tuple[str, str, bool], list[tuple[int, str]]] = {}
    for row in found:
        key = (str(row["tab"]), str(row["idx"]), bool(row["uniq"]))
        columns.setdefault(key, []).append((int(row["seq"]), str(row["col"])))
    return {
        (table, tuple(column for _, column in sorted(named)), unique)
        for (table, _, unique), named in columns.items()
    }


async def test_the_migrations_make_every_key_that_the_models_ask_for(database_url: str) -> None:
    """S10: a step that made a table anew without its unique keys would let a second grant in."""
    async with open_database(database_url):
        migrated = await keys_and_indexes()
        tables = {table for table, _, _ in migrated}
        for table in sorted(tables):
            cascade = "" if is_sqlite() else " CASCADE"
            if not table.startswith("sqlite_"):
                await connection().execute_script(f'DROP TABLE "{table}"{cascade}')
        await Tortoise.generate_schemas()
        asked_for = await keys_and_indexes()
    assert {key for key in asked_for if key[2]} <= migrated
    assert asked_for <= migrated


def test_a_connection_that_postgresql_has_taken_leave_of_is_an_outage() -> None:
    """Found by the hammer: between its farewell and its end asyncpg calls the next query our mistake."""
    with pytest.raises(StorageUnavailable), storage_errors():
        raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")


async def test_whoever_comes_after_the_end_opens_nothing(database_url: str) -> None:
    """What was still to be noted when all was closed is refused, instead of connecting once more."""
    async with open_database(database_url):
        late = connection()
    with pytest.raises(DBConnectionError, match="closed"):
        await late.execute_query("SELECT 1")
