"""Patches for faults of Tortoise ORM 1.1.9. `db/connection.py` applies them when it is imported.

Each docstring names the upstream fault. tests/unit/test_tortoise_patches.py shows each fault without its
patch: when one of those tests fails, Tortoise has fixed it and the patch can be removed. They are set on
Tortoise's classes, because Tortoise also opens transactions of its own (get_or_create, bulk_create).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiosqlite
import msgspec
from tortoise import context as tortoise_context
from tortoise.apps import Apps
from tortoise.backends.base.client import BaseDBAsyncClient, TransactionContext, TransactionContextPooled
from tortoise.backends.sqlite.client import (
    SqliteClient,
    SqliteTransactionContext,
    SqliteTransactionWrapper,
)
from tortoise.context import TortoiseContext
from tortoise.exceptions import DBConnectionError, TransactionManagementError
from tortoise.migrations.schema_generator.state_apps import StateApps

SQLITES_OWN_MS = 5_000
"""How long Python's sqlite3 waits for a lock where nothing else is said."""
LOOKS_EACH_S = 0.02
ENDS_WITHIN_S = 5.0


class Patch(msgspec.Struct, frozen=True):
    """One attribute of a Tortoise class, as it was and as it is replaced."""

    owner: type
    name: str
    original: Any
    replacement: Any


def _release_on_failed_enter(context: type[TransactionContext]) -> Callable[..., Any]:
    """Release what a transaction acquired when it cannot begin.

    Fault: if `begin` fails (the connection was cut) or its task is cancelled (a deadline passed),
    `__aexit__` never runs. SQLite's one connection stays locked for good, PostgreSQL's pool loses a
    connection, and the task keeps the dead transaction as its current connection.
    """
    enter = context.__aenter__

    async def enter_or_release(self: TransactionContext) -> Any:
        try:
            return await enter(self)
        except BaseException as error:
            if hasattr(self, "token"):  # set once the connection is acquired, just before `begin`
                with suppress(Exception):  # the first error is the one to report
                    await self.__aexit__(type(error), error, error.__traceback__)
            raise

    return enter_or_release


async def _execute_many(self: SqliteClient, query: str, values: list[list[Any]]) -> None:
    """Roll back when the task is cancelled.

    Fault: `SqliteClient.execute_many` rolls back on `Exception` only, so a cancelled task leaves the
    transaction open.
    """
    async with self._in_transaction() as db:
        await db.execute_many(query, values)


async def _begin_immediate(self: SqliteTransactionWrapper) -> None:
    """Take SQLite's write lock at the start of the transaction, waiting for it if need be.

    Fault: Tortoise begins deferred transactions. One that reads before it writes (get_or_create and
    update_or_create do) fails with SQLITE_BUSY, without waiting, if a second process wrote in between. It
    also commits first, a statement that another thread runs: no transaction is ever open there.
    """
    try:
        await self._connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        raise TransactionManagementError(error) from error


_commit = SqliteTransactionWrapper.commit


async def _commit_or_roll_back(self: SqliteTransactionWrapper) -> None:
    """Roll back what cannot be committed.

    Fault: SQLite keeps a transaction open whose commit finds a reader, without a write-ahead log
    (https://sqlite.org/lang_transaction.html). What is written next would be part of it, and no other could
    begin.
    """
    try:
        await _commit(self)
    except BaseException:
        with suppress(Exception):  # the first error is the one to report
            await self.rollback()
        raise


_create_connection = SqliteClient.create_connection


async def _connect_once_unlocked(self: SqliteClient, with_db: bool) -> None:
    """Wait for a lock of another connection as a statement would.

    Fault: `create_connection` sets a new file's journal mode, and SQLite does not wait for a lock there
    (https://sqlite.org/c3ref/busy_handler.html): of two servers that start on it at once, one did not. It
    also keeps the connection on which that failed, without the pragmas that come after.
    """
    deadline = time.monotonic() + int(self.pragmas.get("busy_timeout", SQLITES_OWN_MS)) / 1000
    while True:
        try:
            return await _create_connection(self, with_db)
        except sqlite3.OperationalError as error:
            await self.close()
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # or a kind of it, as BUSY_RECOVERY
            if not busy or time.monotonic() > deadline:
                raise
        await asyncio.sleep(LOOKS_EACH_S)


_connect = aiosqlite.Connection._connect


async def _connect_or_end(self: aiosqlite.Connection) -> aiosqlite.Connection:
    """End the thread of a connection that cannot be made.

    Fault: aiosqlite only tells it to end. Where the event loop is closed before, as after a command that says
    why it fails, the thread prints "Event loop is closed" and ends by a traceback.
    """
    try:
        return await _connect(self)
    except sqlite3.Error:
        self._thread.join(ENDS_WITHIN_S)  # it has answered, and has nothing else to do
        raise


def _share_models(self: StateApps, model_states: object = None) -> StateApps:
    """Let a copy of a migration's state have the same models.

    Fault: `clone`, which runs before each operation, makes every model again. An operation changes none of
    them: it puts new ones in the place of those that it concerns. Migrating a new database took over a
    second of a core for that, and most of another for the queries below.
    """
    copied = type(self)(dict(self._default_connections), self._connections)
    copied.apps = {label: dict(models) for label, models in self.apps.items()}
    return copied


def _prepare_no_queries(self: StateApps) -> None:
    """Prepare of a migration's models what its SQL needs: the expressions of their indexes.

    Fault: each operation prepares all filters and queries of every model again. Paidup's migrations have
    SQL of their own, and ask none of the models.
    """
    for models in self.apps.values():
        for model in models.values():
            model._meta._resolve_index_expressions()


_prepare = Apps._build_initial_querysets


def _prepare_once(self: Apps) -> None:
    """Keep what our models have prepared for databases of this kind.

    Fault: each connection prepares all filters and queries of every model again, which takes longer than to
    connect.
    """
    models = [model for app in self.apps.values() for model in app.values()]
    kinds = {type(model._meta.db) for model in models}
    if kinds == _prepared_for and all(model.__module__.startswith("paidup.") for model in models):
        return
    _prepared_for.clear()
    _prepare(self)
    _prepared_for.update(kinds)


_prepared_for: set[type] = set()


def refuse_new_connections(client: BaseDBAsyncClient) -> None:
    """Make a closed client raise DBConnectionError.

    Fault: a query on a closed client connects again, and nothing closes that connection.
    """

    async def refuse(with_db: bool) -> None:
        raise DBConnectionError("The database is closed.")

    client.create_connection = refuse  # type: ignore[method-assign]


def forget(context: TortoiseContext) -> None:
    """Let another context be the global one, whether or not this one's connections could be closed.

    Fault: where a connection's close fails or is cancelled, `close_connections` leaves its context the
    global one for good, and no database can be opened in this process again.
    """
    if tortoise_context._global_context is context:
        tortoise_context._global_context = None


def _patch(owner: type, name: str, replacement: Any) -> Patch:
    return Patch(owner, name, getattr(owner, name), replacement)


PATCHES = [
    _patch(SqliteTransactionContext, "__aenter__", _release_on_failed_enter(SqliteTransactionContext)),
    _patch(TransactionContextPooled, "__aenter__", _release_on_failed_enter(TransactionContextPooled)),
    _patch(SqliteTransactionWrapper, "begin", _begin_immediate),
    _patch(SqliteTransactionWrapper, "commit", _commit_or_roll_back),
    _patch(SqliteClient, "execute_many", _execute_many),
    _patch(SqliteClient, "create_connection", _connect_once_unlocked),
    _patch(aiosqlite.Connection, "_connect", _connect_or_end),
    _patch(Apps, "_build_initial_querysets", _prepare_once),
    _patch(StateApps, "clone", _share_models),
    _patch(StateApps, "_build_initial_querysets", _prepare_no_queries),
]


def apply() -> None:
    """Set every patch. Applying them again changes nothing."""
    for patch in PATCHES:
        setattr(patch.owner, patch.name, patch.replacement)
