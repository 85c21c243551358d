"""Counts what the statements of this process read in a database: rows of tables, or SQLite's steps.

A statement of PostgreSQL is executed twice, first with EXPLAIN ANALYZE in a transaction that is rolled back.
Source: https://www.postgresql.org/docs/current/using-explain.html#USING-EXPLAIN-ANALYZE
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import asyncpg
import msgspec
import pytest

from paidup.db.connection import connection, is_sqlite
from tests.support.statement_plans import EXPLAINED, nodes_of

_counted = ContextVar("counted", default=False)
"""Not in tasks that had begun before, such as the dispatcher's: what they read is nobody's here."""
STEPS = 100
"""SQLite's instructions, between two calls of the handler that counts them."""


@asynccontextmanager
async def counting() -> AsyncIterator[Counter[str]]:
    """How much each statement has read so far."""
    read: Counter[str] = Counter()
    if is_sqlite():
        running = ["BEGIN"]

        def count() -> int:
            read[running[0]] += STEPS
            return 0

        def begin(statement: str) -> None:
            running[0] = statement

        database: Any = connection()
        await database._connection.set_trace_callback(begin)
        await database._connection.set_progress_handler(count, STEPS)
        yield read
        await database._connection.set_progress_handler(None, 0)
        await database._connection.set_trace_callback(None)
        return
    _counted.set(True)
    with _analyzing(read):
        yield read
    _counted.set(False)


@contextmanager
def _analyzing(read: Counter[str]) -> Iterator[None]:
    execute = asyncpg.Connection._execute

    async def analyzed(connection: Any, query: str, args: Any, *rest: Any, **named: Any) -> Any:
        if _counted.get() and query.lstrip().startswith(EXPLAINED):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("SET LOCAL enable_seqscan = off")  # as where the tables are large
            plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *args)
            await transaction.rollback()
            read[query] += rows_of(msgspec.json.decode(plan)[0]["Plan"])
        return await execute(connection, query, args, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "_execute", analyzed)
        yield


def rows_of(plan: dict[str, Any]) -> int:
    """The rows that the plan's scans looked at."""
    rows = 0.0
    for node in nodes_of(plan):
        if "Relation Name" in node:
            removed = sum(node.get(f"Rows Removed by {why}", 0) for why in _REMOVED)
            rows += (node["Actual Rows"] + removed) * node["Actual Loops"]
    return round(rows)


_REMOVED = ("Filter", "Index Recheck")
