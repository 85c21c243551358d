"""The database: SQLite's write lock, PostgreSQL's row locks, and the schema that the migrations create."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextvars import Context
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tortoise import Tortoise
from tortoise.backends.base.executor import EXECUTOR_CACHE
from tortoise.exceptions import DBConnectionError, OperationalError

from paidup.db import applied_migrations, sqlite
from paidup.db.applied_migrations import migrate_where_needed
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


async def test_tortoises_own_transaction_waits_for_another_process(
    sqlite_template: Path, tmp_path: Path
) -> None:
    """update_or_create reads before it writes: a deferred transaction would fail with SQLITE_BUSY."""
    EXECUTOR_CACHE.clear()
    sqlite_file = tmp_path / "two.db"
    shutil.copy(sqlite_template, sqlite_file)
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    async with open_database(f"sqlite://{sqlite_file}"):
        values: dict[str, Any] = {"lookup_key": "k", "plan": "pro", "unit_amount_minor": 1, "currency": "usd"}
        await KnownPrice.create(id="price_1", **values)
        # A real write, so that what was read before is stale: SQLite never waits in that case.
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


async def test_sqlites_log_keeps_its_file(sqlite_template: Path, tmp_path: Path) -> None:
    """A commit that has to make it longer again waits for the file system, too."""
    sqlite_file = tmp_path / "log.db"
    shutil.copy(sqlite_template, sqlite_file)
    log = f"{sqlite_file}-wal"
    async with open_database(f"sqlite://{sqlite_file}"):
        await connection().execute_script("CREATE TABLE big (text)")
        await connection().execute_query("INSERT INTO big VALUES (hex(zeroblob(2000000)))")
        size = os.stat(log).st_size
        assert size > 4_000_000
        await connection().execute_query("PRAGMA wal_checkpoint(RESTART)")
        await connection().execute_query("INSERT INTO big VALUES ('small')")
        assert os.stat(log).st_size == size


async def test_the_address_may_say_how_long_sqlites_log_stays(sqlite_template: Path, tmp_path: Path) -> None:
    shutil.copy(sqlite_template, tmp_path / "log.db")
    async with open_database(f"sqlite://{tmp_path / 'log.db'}?journal_size_limit=4096"):
        _, found = await connection().execute_query("PRAGMA journal_size_limit")
        assert found[0][0] == 4096


async def test_what_sqlite_writes_in_one_call_is_written_whole_or_not_at_all(sqlite_url: str) -> None:
    """A spend's entry without its account's balance would be a wrong balance for ever."""

    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO big VALUES ('entry')")
        raise sqlite3.OperationalError("the disk is full")

    async with open_database(sqlite_url):
        await connection().execute_script("CREATE TABLE big (text)")
        with pytest.raises(OperationalError):
            await sqlite.write(connection(), work)
        assert await sqlite.read(connection(), ("SELECT * FROM big", [])) == [[]]


async def test_what_sqlite_reads_in_one_call_is_of_one_moment(sqlite_url: str) -> None:
    """Another process may write between two of its statements."""
    other = sqlite3.connect(
        sqlite_url.removeprefix("sqlite://"), check_same_thread=False, isolation_level=None
    )

    def write() -> int:
        return other.execute("INSERT INTO big VALUES ('new')").rowcount

    async with open_database(sqlite_url):
        await connection().execute_script("CREATE TABLE big (text)")
        client: Any = connection()
        await client._connection.create_function("write", 0, write)
        count: tuple[str, list[Any]] = ("SELECT count(*) FROM big", [])
        found = await sqlite.read(connection(), count, ("SELECT write()", []), count)
        assert found == [[(0,)], [(1,)], [(0,)]]
        assert await sqlite.read(connection(), count) == [[(1,)]]
    other.close()


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_row_that_references_a_locked_row_can_be_inserted(database_url: str) -> None:
    """Otherwise this insert and a settlement that holds the account would deadlock."""
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


async def test_the_migrations_create_every_key_and_index_of_the_models(database_url: str) -> None:
    """S10: a migration that rebuilds a table without its unique keys would allow a second grant."""
    async with open_database(database_url):
        migrated = await keys_and_indexes()
        tables = {table for table, _, _ in migrated}
        for table in sorted(tables):
            cascade = "" if is_sqlite() else " CASCADE"
            if not table.startswith("sqlite_"):
                await connection().execute_script(f'DROP TABLE "{table}"{cascade}')
        await Tortoise.generate_schemas()
        expected = await keys_and_indexes()
    assert {key for key in expected if key[2]} <= migrated
    assert expected <= migrated


def test_a_connection_that_postgresql_terminated_is_an_outage() -> None:
    """Found by the chaos test: asyncpg raises InternalClientError between termination message and close."""
    with pytest.raises(StorageUnavailable), storage_errors():
        raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")


async def test_a_query_after_close_opens_no_connection(database_url: str) -> None:
    """A late background write is refused instead of connecting again."""
    async with open_database(database_url):
        late = connection()
    with pytest.raises(DBConnectionError, match="closed"):
        await late.execute_query("SELECT 1")


async def test_a_database_that_lacks_no_migration_is_not_migrated(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `paidup serve --migrate` would import and compare all of them."""
    begun: list[bool] = []
    monkeypatch.setattr(applied_migrations, "migrate", lambda _: _noted(begun))
    await migrate_where_needed(database_url)
    assert not begun
    async with open_database(database_url):
        await connection().execute_query("DELETE FROM tortoise_migrations WHERE name LIKE '0009%'")
    await migrate_where_needed(database_url)
    assert begun


async def _noted(begun: list[bool]) -> None:
    begun.append(True)
