"""The database connection, transactions and migrations, on SQLite and PostgreSQL. Knows no table."""

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
from tortoise.backends.base.client import BaseDBAsyncClient
from tortoise.backends.base.config_generator import expand_db_url
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

from paidup.db import tortoise_patches
from paidup.errors import ConfigurationError, StorageUnavailable
from paidup.runtime.private_files import PRIVATE_DIRECTORY, private_file

BUSY_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 10.0

tortoise_patches.apply()

OUTAGES: tuple[type[BaseException], ...] = (
    OperationalError,
    DBConnectionError,
    TransactionManagementError,
    OSError,
    TimeoutError,
    sqlite3.Error,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # between PostgreSQL's termination message and the close of the connection
)
"""What an unreachable, full or restarting database raises through Tortoise."""

M = TypeVar("M", bound=Model)


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Skip asyncpg's reset query on release: it costs a round trip, and Paidup sets no session state."""

    def get_reset_query(self) -> str:
        return ""


def tortoise_config(url: str, pool: int = 20) -> dict[str, Any]:
    """Tortoise's configuration for `url` (sqlite:// or postgres://)."""
    connection = expand_db_url(url.replace("postgresql://", "postgres://", 1))
    credentials = connection["credentials"]
    if connection["engine"] == "tortoise.backends.sqlite":
        credentials.setdefault("busy_timeout", BUSY_TIMEOUT_MS)
        if credentials["file_path"] != ":memory:":
            _restrict_permissions(Path(credentials["file_path"]))
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


def _restrict_permissions(file: Path) -> None:
    """Create the file with private permissions. SQLite gives its journals the mode of the database file."""
    file.parent.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    private_file(file)
    for journal in (Path(f"{file}-wal"), Path(f"{file}-shm")):
        if journal.exists():
            private_file(journal)


@asynccontextmanager
async def open_database(url: str, pool: int = 20) -> AsyncIterator[None]:
    """Connect for the length of the block.

    Raises StorageUnavailable if it cannot connect, and ConfigurationError if this process already has
    a Tortoise connection: Paidup's, or that of a host application that uses Tortoise itself.
    """
    # A context of its own: Tortoise.init would close and replace the one that the host has in this task.
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
                tortoise_patches.refuse_new_connections(client)
        await context.close_connections()
        with suppress(ValueError):  # closed by another task than the one that opened it
            context.__exit__(None, None, None)


async def migrate(url: str) -> None:
    """Bring the schema up to date. Safe to run again; Tortoise records what it applied.

    On PostgreSQL an advisory lock lets one process migrate at a time: every server of a release may run
    this at its start.
    """
    if expand_db_url(url.replace("postgresql://", "postgres://", 1))["engine"].endswith("sqlite"):
        await _migrate(url)
        return
    async with open_database(url, pool=1), write_transaction() as db:
        while not (await db.execute_query_dict(_TRY_LOCK))[0]["mine"]:
            await asyncio.sleep(0.2)  # a wait inside the statement would hit its timeout
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
    """Raise StorageUnavailable in place of what an unreachable database raises."""

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


def locked(query: QuerySet[M], skip: bool = False) -> QuerySet[M]:
    """The rows of `query`, locked until the transaction ends. On SQLite the write lock already suffices.

    With `skip`, rows that another transaction has locked are left out instead of waited for.
    """
    # NO KEY: an INSERT that references this row does not wait for the lock, so the two cannot deadlock.
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
