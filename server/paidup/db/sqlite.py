"""Runs several statements on SQLite's connection in one call of its thread.

`_execute` is private to aiosqlite.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import TypeVar, cast

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
