"""Runs several statements on SQLite's connection in one call of its thread.

`_execute` is private to aiosqlite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from tortoise.backends.base.client import BaseDBAsyncClient, TransactionalDBClient
from tortoise.exceptions import IntegrityError, OperationalError

R = TypeVar("R")
Work = Callable[[sqlite3.Connection], R]

NORMAL = 1
"""Of `PRAGMA synchronous`: https://sqlite.org/pragma.html#pragma_synchronous"""


async def run(db: BaseDBAsyncClient, work: Work[R], durable: bool = True) -> R:
    """The result of `work`, which has the connection for itself. Raises what Tortoise raises.

    Not `durable`: see `bulk.py`. Where the caller is cancelled, `work` runs to its end all the same.
    """
    if not durable and not isinstance(db, TransactionalDBClient):
        work = partial(_unsynced, work)
    async with db.acquire_connection() as connection:
        try:
            return cast(R, await connection._execute(work, connection._conn))
        except sqlite3.OperationalError as error:
            raise OperationalError(error) from error
        except sqlite3.IntegrityError as error:
            raise IntegrityError(error) from error


async def write(db: BaseDBAsyncClient, work: Work[R]) -> R:
    """The result of `work`, in the transaction that `db` is, or in one of its own."""
    within = isinstance(db, TransactionalDBClient)
    return await run(db, work if within else partial(in_transaction, work))


async def read(db: BaseDBAsyncClient, *queries: tuple[str, Sequence[Any]]) -> list[list[tuple[Any, ...]]]:
    """What each of these finds, by its text and values, all as of one moment."""

    def work(connection: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
        return [[tuple(row) for row in connection.execute(*query)] for query in queries]

    def at_once(connection: sqlite3.Connection) -> list[list[tuple[Any, ...]]]:
        connection.execute("BEGIN")  # another process may write
        try:
            return work(connection)
        finally:
            connection.execute("COMMIT")

    return await run(db, work if isinstance(db, TransactionalDBClient) else at_once)


def in_transaction(work: Work[R], connection: sqlite3.Connection) -> R:
    """The result of `work`, in a transaction that takes the write lock at its start."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
        return result
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _unsynced(work: Work[R], connection: sqlite3.Connection) -> R:
    """With a write-ahead log, a commit that is not synced is whole or absent after a power cut."""
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    if mode != "wal" or level <= NORMAL:
        return work(connection)
    connection.execute(f"PRAGMA synchronous = {NORMAL}")
    try:
        return work(connection)
    finally:
        connection.execute(f"PRAGMA synchronous = {level}")
