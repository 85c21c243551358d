"""The database connection, transactions and migrations, on SQLite and PostgreSQL. Knows no table."""

from __future__ import annotations

import asyncio
import fcntl
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import Context
from functools import wraps
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

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
from paidup.db.connect_errors import connecting
from paidup.db.migrations import migrations_of_this_release
from paidup.db.new_sqlite import create_tables
from paidup.db.postgres import ABORTED, TRIES, Timeouts
from paidup.errors import ConfigurationError, StorageUnavailable, TransactionAborted
from paidup.runtime.postgres_address import parse_address
from paidup.runtime.private_files import PRIVATE_DIRECTORY, close_to_others, private_file

BUSY_TIMEOUT_MS = 5_000
SQLITE_LOG_KEPT_BYTES = 8 * 1024 * 1024
"""Up to this size SQLite's write-ahead log keeps its file: a commit that makes it longer waits for blocks.
SQLite begins it again after 1,000 pages, which are 4 MB.
"""
MODELS = ["paidup.db.models", "paidup.db.outbound_models"]
DEFAULT_TIMEOUTS = Timeouts()
MIGRATED_WITHIN_S = 300.0
"""How long one statement of a migration may take, and how long one process waits for another's."""

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
P = ParamSpec("P")
R = TypeVar("R")


def tortoise_config(url: str, pool: int = 20, timeouts: Timeouts = DEFAULT_TIMEOUTS) -> dict[str, Any]:
    """Tortoise's configuration for `url` (sqlite:// or postgresql://). Raises ConfigurationError."""
    return {
        "connections": {
            "default": _sqlite(url) if _names_sqlite(url) else _postgres(url, pool, timeouts),
        },
        "apps": {"paidup": {"models": MODELS, "migrations": "paidup.db.migrations"}},
        "use_tz": True,
        "timezone": "UTC",
    }


def _names_sqlite(url: str) -> bool:
    return url.startswith("sqlite://")


def _sqlite(url: str) -> dict[str, Any]:
    connection = expand_db_url(url)
    credentials = connection["credentials"]
    credentials.setdefault("busy_timeout", BUSY_TIMEOUT_MS)
    if "journal_size_limit=" not in url:  # else Tortoise has taken it; its own is 16 KiB
        credentials["journal_size_limit"] = SQLITE_LOG_KEPT_BYTES
    if credentials["file_path"] != ":memory:":
        _restrict_permissions(Path(credentials["file_path"]))
    return connection


def _postgres(url: str, pool: int, timeouts: Timeouts) -> dict[str, Any]:
    credentials = {"address": parse_address(url), "timeouts": timeouts, "minsize": 0, "maxsize": pool}
    return {"engine": "paidup.db.postgres", "credentials": credentials}


def _restrict_permissions(file: Path) -> None:
    """Create the file with private permissions. SQLite gives its journals the mode of the database file."""
    file.parent.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
    private_file(file)
    for journal in (Path(f"{file}-wal"), Path(f"{file}-shm")):
        close_to_others(journal)  # another process may end now, and SQLite deletes them then


@asynccontextmanager
async def open_database(
    url: str, pool: int = 20, timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> AsyncIterator[None]:
    """Connect for the length of the block.

    Raises StorageUnavailable if it cannot connect, and ConfigurationError if the address, the database, the
    user or the password is wrong, or this process already has a Tortoise connection: Paidup's, or that of a
    host application that uses Tortoise.
    """
    with connecting(url):
        config = tortoise_config(url, pool, timeouts)
    # A context of its own: Tortoise.init would close and replace the one that the host has in this task.
    context = TortoiseContext()
    context.__enter__()
    try:
        with connecting(url):
            try:
                # The global fallback lets tasks that uvicorn started before the lifespan see the connection.
                await context.init(config=config, _enable_global_fallback=True)
            except TortoiseMisconfigured as error:
                raise ConfigurationError(
                    [f"The database cannot be opened in this process. {error}"]
                ) from error
            await _connect()
        yield
    finally:
        if context.inited:
            for client in context.connections.all():
                tortoise_patches.refuse_new_connections(client)
        try:
            await context.close_connections()
        finally:
            tortoise_patches.forget(context)
            with suppress(ValueError):  # closed by another task than the one that opened it
                context.__exit__(None, None, None)


async def _connect() -> None:
    try:
        await connection().execute_query("SELECT 1")
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise ConfigurationError([f"DATABASE_URL: {error}"]) from error


async def migrate(url: str, on_step: Callable[[str], None] = lambda step: None) -> None:
    """Bring the schema up to date. Safe to run again; Tortoise records what it applied.

    One process migrates at a time, by an advisory lock of PostgreSQL, or a lock on a file beside SQLite's:
    every server of a release may run this at its start. `on_step` gets the name of each migration as it
    begins. Raises StorageUnavailable also where another process does not come to its end.
    """
    if _names_sqlite(url):
        async with open_database(url):
            pass  # it can be opened; else one line says why not
        file = Path(expand_db_url(url)["credentials"]["file_path"])
        with private_file(Path(f"{file}.migrating")).open("wb") as lock:

            async def is_locked() -> bool:
                return _try_lock(lock)

            await _locked_by_this_process(is_locked)
            with storage_errors():
                created = await asyncio.to_thread(create_tables, file)
            for name in created:
                on_step(name)
            if not created or migrations_of_this_release() - {*created}:
                await asyncio.create_task(_migrate(url, on_step), context=Context())
        return
    async with open_database(url, pool=1), AsyncExitStack() as held:

        async def is_mine() -> bool:
            """Whether a transaction that stays open has the lock. One without it ends: an index that another
            process builds waits for all transactions that have read.
            """
            async with AsyncExitStack() as trying:
                db = await trying.enter_async_context(write_transaction())
                if not (await db.execute_query_dict(_TRY_LOCK))[0]["mine"]:
                    return False
                await db.execute_script("SELECT 1")  # PostgreSQL keeps a snapshot until the next statement
                held.push_async_exit(trying.pop_all())
            return True

        await _locked_by_this_process(is_mine)  # a wait inside the statement would hit its timeout
        # A context of its own: Tortoise initializes itself for the migration.
        await asyncio.create_task(_migrate(url, on_step), context=Context())


async def _locked_by_this_process(try_lock: Callable[[], Awaitable[bool]]) -> None:
    """Wait until no other process migrates. Raises StorageUnavailable where that takes too long."""
    try:
        async with asyncio.timeout(MIGRATED_WITHIN_S):
            while not await try_lock():
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise StorageUnavailable(
            f"another process has been migrating this database for {MIGRATED_WITHIN_S:.0f} s: "
            "end it, or wait for it, and run `paidup migrate` again"
        ) from None


def _try_lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_TRY_LOCK = "SELECT pg_try_advisory_xact_lock(7061696475) AS mine"


async def _migrate(url: str, on_step: Callable[[str], None]) -> None:
    def on_progress(event: str, app: str, name: str) -> None:
        if event == "apply_start":
            on_step(name)

    # A statement that changes a large table takes longer than a customer's call may.
    timeouts = Timeouts(statement_s=MIGRATED_WITHIN_S)
    try:
        await run_migrations(config=tortoise_config(url, timeouts=timeouts), progress=on_progress)
    finally:
        await Tortoise.close_connections()


def connection() -> BaseDBAsyncClient:
    return get_connection("default")


def is_sqlite(db: BaseDBAsyncClient | None = None) -> bool:
    """Whether the database is SQLite. Finding the connection takes a while: pass it where it is at hand."""
    return (db or connection()).capabilities.dialect == "sqlite"


class storage_errors:  # noqa: N801 - reads as a statement at its use
    """Raise StorageUnavailable in place of what an unreachable database raises.

    Where the database aborted the transaction for another one, it is TransactionAborted.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, OUTAGES) and not isinstance(error, (IntegrityError, NotExistOrMultiple)):
            kind_raised = TransactionAborted if isinstance(error, ABORTED) else StorageUnavailable
            raise kind_raised(f"{type(error).__name__}: {error}") from error


@asynccontextmanager
async def write_transaction() -> AsyncIterator[BaseDBAsyncClient]:
    """A transaction that will write. Raises StorageUnavailable on an outage.

    A function that can be run again from its start is `repeatable`: deadlocks happen.
    """
    with storage_errors():
        async with in_transaction() as db:
            yield db


def repeatable(work: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Run `work` again where the database aborted its transaction for another one, a few times at most.

    For functions that do all they do in one transaction: then nothing of it has happened.
    """

    @wraps(work)
    async def run(*arguments: P.args, **named: P.kwargs) -> R:
        for _ in range(TRIES - 1):
            with suppress(TransactionAborted):
                return await work(*arguments, **named)
        return await work(*arguments, **named)

    return run


def locked(query: QuerySet[M], skip: bool = False) -> QuerySet[M]:
    """The rows of `query`, locked until the transaction ends. On SQLite the write lock already suffices.

    With `skip`, rows that another transaction has locked are left out instead of waited for.
    """
    # NO KEY: an INSERT that references this row does not wait for the lock, so the two cannot deadlock.
    return query if is_sqlite() else query.select_for_update(skip_locked=skip, no_key=True)


async def probe(within_s: float = 2.0) -> bool:
    """Whether the database answers in time, and can be written.

    Where it is read-only, it was a primary before a failover: new connections reach the new one.
    """
    try:
        async with asyncio.timeout(within_s):
            if is_sqlite():
                await connection().execute_query("SELECT 1")
                return True
            (row,) = await connection().execute_query_dict(_READ_ONLY)
            if row["read_only"] == "on":
                await connection()._expire_connections()  # type: ignore[attr-defined]
    except OUTAGES:
        return False
    return bool(row["read_only"] == "off")


_READ_ONLY = "SELECT current_setting('transaction_read_only') AS read_only"

TORTOISE = tortoise_config("sqlite://:memory:")
"""For `tortoise -c paidup.db.connection.TORTOISE makemigrations`, which connects to nothing."""
