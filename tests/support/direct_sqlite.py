"""An SQLite connection without a thread of its own, for worlds that live in one process.

aiosqlite hands each statement to a thread, which costs more than the statement. Here it runs at once, after
the task has given way to others as often as `yields` says: the order in which tasks go on is the test's.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import aiosqlite

T = TypeVar("T")


class DirectConnection:
    """The part of `aiosqlite.Connection` that Tortoise uses."""

    def __init__(self, connection: sqlite3.Connection, yields: Callable[[], int]) -> None:
        self._conn = connection
        self._yields = yields

    @property
    def total_changes(self) -> int:
        return self._conn.total_changes

    @property
    def in_transaction(self) -> bool:
        return self._conn.in_transaction

    async def execute(self, query: str, values: Any = ()) -> Any:
        return _Cursor(await self._run(lambda: self._conn.execute(query, values or ())))

    async def execute_insert(self, query: str, values: Any = ()) -> Any:
        def insert() -> Any:
            self._conn.execute(query, values or ())
            return self._conn.execute("SELECT last_insert_rowid()").fetchone()

        return await self._run(insert)

    async def execute_fetchall(self, query: str, values: Any = ()) -> list[Any]:
        return await self._run(lambda: self._conn.execute(query, values or ()).fetchall())

    async def executemany(self, query: str, values: Any) -> None:
        await self._run(lambda: self._conn.executemany(query, values))

    async def commit(self) -> None:
        await self._run(self._conn.commit)

    async def rollback(self) -> None:
        await self._run(self._conn.rollback)

    async def _execute(self, work: Callable[..., T], *values: Any) -> T:
        """As aiosqlite's: several statements in one call (`paidup.db.sqlite`)."""
        return await self._run(lambda: work(*values))

    async def _run(self, statement: Callable[[], T]) -> T:
        """A task that is cancelled has run its last statement, or has not."""
        await give_way(self._yields())
        done = statement()
        await give_way(self._yields())
        return done

    async def close(self) -> None:
        self._conn.close()


class _Cursor:
    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor

    async def close(self) -> None:
        self._cursor.close()


async def give_way(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


@contextmanager
def direct_sqlite(template: Path, yields: Callable[[], int]) -> Iterator[sqlite3.Connection]:
    """Have Tortoise use a copy in memory of the database in `template`, whichever file it opens."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    file = sqlite3.connect(template)
    file.backup(memory)
    file.close()

    async def connect(*_: Any, **__: Any) -> DirectConnection:
        return DirectConnection(memory, yields)

    with patch.object(aiosqlite, "connect", connect):
        yield memory
    memory.close()
