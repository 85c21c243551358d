"""Tortoise's engine for PostgreSQL, configured for Paidup: isolation, timeouts, poolers, and failovers.

Tortoise loads `client_class` from here. Each connection goes to the first host that can be written. The pool
drops all its connections once the database turns out to be read-only or does not answer at all: new ones
then reach the new primary. A statement that the database aborted for another transaction is run again.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import asyncpg
import msgspec
from tortoise.backends.asyncpg.client import AsyncpgDBClient, TransactionWrapper
from tortoise.backends.base.client import (
    NestedTransactionContext,
    TransactionContext,
    TransactionContextPooled,
)
from tortoise.backends.base_postgres.client import translate_exceptions
from tortoise.exceptions import TransactionManagementError

from paidup.runtime.postgres_address import Host, PostgresAddress

ABORTED = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""40001 and 40P01: the transaction was aborted for another one, has changed nothing, and may be run again."""
TRIES = 3
ANSWER_MARGIN_S = 2.0
"""How much longer than the server's own limit to wait for it. After that, the server is unreachable."""

_AT_ONCE = re.compile(r"\s*(SELECT|WITH|UPDATE)\b")
"""How statements begin that `execute_query` makes by itself."""
_UNREACHABLE = (OSError, TimeoutError, asyncpg.CannotConnectNowError, asyncpg.TargetServerAttributeNotMatched)
"""Why the next host is tried. A wrong password is wrong at each."""


class Timeouts(msgspec.Struct, frozen=True):
    """How long a statement may wait for a lock, and run in all."""

    lock_s: float = 5.0
    statement_s: float = 10.0

    def as_settings(self) -> dict[str, str]:
        """PostgreSQL's settings, in milliseconds."""
        limits = {"lock_timeout": self.lock_s, "statement_timeout": self.statement_s}
        return {name: str(max(1, round(limit * 1000))) for name, limit in limits.items()}


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Skip asyncpg's reset query on release: it costs a round trip, and Paidup sets no session state."""

    def get_reset_query(self) -> str:
        return ""


class _PooledConnection(_Connection):
    """Behind a pooler a session belongs to many. asyncpg turns its `jit` off to look up types, and on again:
    two statements, which reach two sessions.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._server_caps = self._server_caps._replace(jit=False)  # type: ignore[has-type]


class _Pool(asyncpg.Pool):  # type: ignore[misc]
    """Takes connections back without a task for each, which asyncpg makes in case the caller is cancelled.

    One that has answered is taken back at once, with no wait that could be cancelled. Where it has to be
    closed instead, a cancelled close ends it as well.

    `_con`, `_holder` and `_protocol` are private to asyncpg.
    """

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:
        opened = connection._con
        if opened is None or opened._protocol._is_cancelling():
            await super().release(connection, timeout=timeout)
        else:
            opened._on_release()
            await connection._holder.release(timeout)


class _Connector:
    """Opens connections for asyncpg's pool, and knows whether a pooler such as pgbouncer is in between."""

    def __init__(self, address: PostgresAddress, timeouts: Timeouts) -> None:
        self._address = address
        self._timeouts = timeouts
        self.pooled = address.pooled

    async def __call__(self, *_: Any, **__: Any) -> _Connection:
        """A connection to the first host that accepts one, each within its own time, as libpq does."""
        *others, last = self._address.hosts
        for host in others:
            with suppress(*_UNREACHABLE):
                return await self._connect(host)
        return await self._connect(last)

    async def _connect(self, host: Host) -> _Connection:
        if self.pooled is not None:
            return await self._open(host, self.pooled)
        connection = await self._open(host, pooled=True)
        try:
            # A pooler answers for its clients with numbers of its own.
            process = await connection.fetchval("SELECT pg_backend_pid()")
        except BaseException:
            connection.terminate()
            raise
        self.pooled = process != connection.get_server_pid()
        if self.pooled:
            return connection
        await connection.close()
        return await self._open(host, pooled=False)

    async def _open(self, host: Host, pooled: bool) -> _Connection:
        settings = {"application_name": self._address.application_name}
        if not pooled:
            settings |= {"default_transaction_isolation": "read committed", **self._timeouts.as_settings()}
            settings |= {"options": self._address.options} if self._address.options else {}
        # Behind a pooler a prepared statement stays in a session that is another client's next. Else asyncpg
        # would forget each after five minutes, and a payment now and then would wait for parser and planner.
        cached = {"statement_cache_size": 0} if pooled else {"max_cached_statement_lifetime": 0}
        try:
            opened: _Connection = await asyncpg.connect(
                **self._address.arguments(host),
                **cached,
                server_settings=settings,
                command_timeout=self._timeouts.statement_s + ANSWER_MARGIN_S,
                connection_class=_PooledConnection if pooled else _Connection,
            )
        except asyncpg.TargetServerAttributeNotMatched:
            raise asyncpg.TargetServerAttributeNotMatched("the database is read-only") from None
        return opened

    async def limit_transaction(self, connection: Any) -> None:
        """Behind a pooler, the limits are the transaction's; else they are the session's."""
        if self.pooled:
            limits = self._timeouts.as_settings().items()
            await connection.execute(";".join(f"SET LOCAL {name} = {value}" for name, value in limits))


class _Failover(AsyncpgDBClient):
    """Drops the pool's connections once they lead to a server that is no primary any more."""

    async def _translate_exceptions(self, func: Any, *arguments: Any, **named: Any) -> Any:
        try:
            return await super()._translate_exceptions(func, *arguments, **named)
        except TransactionManagementError as error:
            if not isinstance(error.__cause__, asyncpg.ReadOnlySQLTransactionError):
                raise
            await self._expire_connections()
            raise error.__cause__ from None  # Tortoise would not roll back after its own error
        except TimeoutError:
            await self._expire_connections()  # the server's own limit has passed: it does not answer
            raise


class PostgresClient(_Failover):
    """The pool. A statement on it is a transaction of its own."""

    def __init__(self, address: PostgresAddress, timeouts: Timeouts, **named: Any) -> None:
        super().__init__(**named)
        self.connector = _Connector(address, timeouts)

    async def create_pool(self, **_: Any) -> asyncpg.Pool:
        return await _Pool(
            min_size=self.pool_minsize,
            max_size=self.pool_maxsize,
            max_queries=50_000,
            max_inactive_connection_lifetime=300.0,
            connection_class=_Connection,
            record_class=asyncpg.Record,
            connect=self.connector,
            loop=None,
        )

    def _in_transaction(self) -> TransactionContext:
        return TransactionContextPooled(PostgresTransaction(self, self.connector), self._pool_init_lock)

    async def execute_query(self, query: str, values: list[Any] | None = None) -> tuple[int, list[Any]]:
        """As Tortoise's, in one call instead of six. What fails is tried again, or translated, as there."""
        begins = _AT_ONCE.match(query)
        if self._pool is None or begins is None:
            return await super().execute_query(query, values)  # type: ignore[no-any-return]
        try:
            async with self._pool.acquire() as connection:
                if begins[1] == "UPDATE":
                    _, changed = (await connection.execute(query, *(values or ()))).split()
                    return int(changed), []
                rows = await connection.fetch(query, *(values or ()))
        except ABORTED:
            return await super().execute_query(query, values)  # type: ignore[no-any-return]
        except Exception as error:
            await self._translate_exceptions(_raise, error)
            raise
        return len(rows), rows

    async def _translate_exceptions(self, func: Any, *arguments: Any, **named: Any) -> Any:
        for _ in range(TRIES - 1):
            with suppress(*ABORTED):
                return await super()._translate_exceptions(func, *arguments, **named)
        return await super()._translate_exceptions(func, *arguments, **named)


async def _raise(_: PostgresClient, error: Exception) -> None:
    raise error


class PostgresTransaction(_Failover, TransactionWrapper):
    """Read committed, whatever the database's default is: the locks are made for it."""

    def __init__(self, connection: AsyncpgDBClient, connector: _Connector) -> None:
        TransactionWrapper.__init__(self, connection)
        self._connector = connector

    def _in_transaction(self) -> TransactionContext:
        return NestedTransactionContext(PostgresTransaction(self, self._connector))

    async def _expire_connections(self) -> None:
        await self._parent._expire_connections()

    @translate_exceptions
    async def begin(self) -> None:
        self.transaction = self._connection.transaction(isolation="read_committed")
        await self.transaction.start()
        await self._connector.limit_transaction(self._connection)


client_class = PostgresClient
