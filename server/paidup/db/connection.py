"""The database: its connection, its transactions and its migrations.

Owns the differences between SQLite and PostgreSQL, so that nobody else need know them.
Refuses to know any table.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from tortoise import Tortoise
from tortoise.backends.base.client import BaseDBAsyncClient, TransactionContext, TransactionContextPooled
from tortoise.backends.base.config_generator import expand_db_url
from tortoise.backends.sqlite.client import (
    SqliteClient,
    SqliteTransactionContext,
    SqliteTransactionWrapper,
)
from tortoise.connection import get_connection
from tortoise.context import TortoiseContext
from tortoise.exceptions import ConfigurationError as TortoiseMisconfigured
from tortoise.exceptions import (
    DBConnectionError,
    IntegrityError,
    NotExistOrMultiple,
    OperationalError,
    TransactionManagementError,
)
from tortoise.migrations.api import migrate as run_migrations
from tortoise.models import Model
from tortoise.queryset import QuerySet
from tortoise.transactions import in_transaction

from paidup.errors import ConfigurationError, StorageUnavailable
from paidup.private_files import PRIVATE_DIRECTORY, private_file

BUSY_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 10.0

OUTAGES: tuple[type[BaseException], ...] = (
    OperationalError,
    DBConnectionError,
    TransactionManagementError,
    OSError,
    TimeoutError,
    sqlite3.Error,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # of a connection that PostgreSQL has said goodbye to, until it is closed
)
"""What an unreachable, full or restarting database raises through Tortoise."""

M = TypeVar("M", bound=Model)


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Goes back to its pool without the round trip in which asyncpg resets what we never set."""

    def get_reset_query(self) -> str:
        return ""


def tortoise_config(url: str, pool: int = 20) -> dict[str, Any]:
    """Tortoise's configuration for `url` (sqlite:// or postgres://)."""
    connection = expand_db_url(url.replace("postgresql://", "postgres://", 1))
    credentials = connection["credentials"]
    if connection["engine"] == "tortoise.backends.sqlite":
        credentials.setdefault("busy_timeout", BUSY_TIMEOUT_MS)
        if credentials["file_path"] != ":memory:":
            _close_to_others(Path(credentials["file_path"]))
    else:
        credentials.setdefault("minsize", 1)
        credentials.setdefault("maxsize", pool)
        credentials.setdefault("timeout", CONNECT_TIMEOUT_S)
        credentials.setdefault("command_timeout", STATEMENT_TIMEOUT_S)
        credentials.setdefault("connection_class", _Connection)
    return {
        "connections": {"default": connection},
        "apps": {"paidup": {"models": ["paidup.db.models"], "migrations": "paidup.db.migrations"}},
        "use_tz": True,
        "timezone": "UTC",
    }


def _close_to_others(file: Path) -> None:
    """SQLite gives its journals the mode of the database's file, which we therefore make ourselves."""
    file.parent.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    private_file(file)
    for journal in (Path(f"{file}-wal"), Path(f"{file}-shm")):
        if journal.exists():
            private_file(journal)


@asynccontextmanager
async def open_database(url: str, pool: int = 20) -> AsyncIterator[None]:
    """Connect for the length of the block.

    Raises StorageUnavailable where it cannot, and ConfigurationError where this process holds
    one already, of ours or of a host that uses Tortoise itself.
    """
    # A context of our own: Tortoise.init would close and take over one that the host has in this task.
    context = TortoiseContext()
    context.__enter__()
    try:
        try:
            # The global fallback lets tasks that uvicorn started before the lifespan see the connection.
            await context.init(config=tortoise_config(url, pool), _enable_global_fallback=True)
        except TortoiseMisconfigured as error:
            raise ConfigurationError([f"The database cannot be opened in this process. {error}"]) from error
        with storage_errors():
            await connection().execute_query("SELECT 1")
        yield
    finally:
        if context.inited:
            for client in context.connections.all():
                client.create_connection = _refused  # type: ignore[method-assign]
        await context.close_connections()
        with suppress(ValueError):  # closed by another task than the one that opened it
            context.__exit__(None, None, None)


async def _refused(with_db: bool) -> None:
    """Whoever comes after the end would have Tortoise connect once more, and nobody would close that."""
    raise DBConnectionError("The database is closed.")


async def migrate(url: str) -> None:
    """Bring the schema up to date. Safe to run again; Tortoise records what it applied.

    On PostgreSQL one at a time: the servers of a release may each run it first, and all but one
    find it done.
    """
    if expand_db_url(url.replace("postgresql://", "postgres://", 1))["engine"].endswith("sqlite"):
        await _migrate(url)
        return
    async with open_database(url, pool=1), write_transaction() as db:
        while not (await db.execute_query_dict(_TRY_LOCK))[0]["mine"]:
            await asyncio.sleep(0.2)  # waiting inside the statement would end at its deadline
        # A context of its own: Tortoise initializes itself for the migration.
        await asyncio.create_task(_migrate(url), context=Context())


_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(7061696475) AS mine"


async def _migrate(url: str) -> None:
    try:
        await run_migrations(config=tortoise_config(url))
    finally:
        await Tortoise.close_connections()


def connection() -> BaseDBAsyncClient:
    return get_connection("default")


def is_sqlite() -> bool:
    return connection().capabilities.dialect == "sqlite"


class storage_errors:  # noqa: N801 - reads as a statement at its use
    """Turn what an unreachable database raises into StorageUnavailable."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, OUTAGES) and not isinstance(error, (IntegrityError, NotExistOrMultiple)):
            raise StorageUnavailable(f"{type(error).__name__}: {error}") from error


@asynccontextmanager
async def write_transaction() -> AsyncIterator[BaseDBAsyncClient]:
    """A transaction that will write. Raises StorageUnavailable on an outage."""
    with storage_errors():
        async with in_transaction() as db:
            yield db


def _mend(context: type[TransactionContext]) -> None:
    """Make Tortoise give back what a transaction took that could not begin.

    Where `begin` fails (the connection was cut) or its task is cancelled (a deadline passed), Tortoise
    1.1.9 never runs the exit: SQLite's one connection stays locked for good, PostgreSQL's pool
    is short of one, and the task goes on with a dead transaction as its connection. Mended in the
    class, because Tortoise also opens transactions of its own accord (get_or_create, bulk_create).
    """
    enter = context.__aenter__

    async def enter_or_leave(self: TransactionContext) -> Any:
        try:
            return await enter(self)
        except BaseException as error:
            if hasattr(self, "token"):  # set once the connection is taken, just before `begin`
                with suppress(*OUTAGES):
                    await self.__aexit__(type(error), error, error.__traceback__)
            raise

    context.__aenter__ = enter_or_leave  # type: ignore[method-assign]


async def _many_in_transaction(self: SqliteClient, query: str, values: list[list[Any]]) -> None:
    """Tortoise's own, for SQLite, leaves its transaction open where its task is cancelled."""
    async with self._in_transaction() as db:
        await db.execute_many(query, values)


async def _begin_immediate(self: SqliteTransactionWrapper) -> None:
    """Take SQLite's write lock at the start, waiting for it if need be.

    Tortoise begins deferred transactions, and one that reads before it writes (its own
    get_or_create and update_or_create do) fails with SQLITE_BUSY, without waiting, when a
    second process wrote in between.
    """
    try:
        await self._connection.commit()
        await self._connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        raise TransactionManagementError(error) from error


_mend(SqliteTransactionContext)
SqliteTransactionWrapper.begin = _begin_immediate  # type: ignore[method-assign]
_mend(TransactionContextPooled)
SqliteClient.execute_many = _many_in_transaction  # type: ignore[method-assign]


def locked(query: QuerySet[M], skip: bool = False) -> QuerySet[M]:
    """The rows of `query`, locked until the transaction ends (SQLite's one writer needs no more).

    With `skip`, rows that another transaction has locked are passed over instead of waited for.
    """
    # NO KEY: a row that refers to this one may be inserted meanwhile, or the two would wait for each other.
    return query if is_sqlite() else query.select_for_update(skip_locked=skip, no_key=True)


async def probe(within_s: float = 2.0) -> bool:
    """Whether the database answers in time."""
    try:
        async with asyncio.timeout(within_s):
            await connection().execute_query("SELECT 1")
    except OUTAGES:
        return False
    return True


TORTOISE = tortoise_config("sqlite://:memory:")
"""For `tortoise -c paidup.db.connection.TORTOISE makemigrations`, which connects to nothing."""
