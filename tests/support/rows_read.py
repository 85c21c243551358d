"""Counts what the statements of this process read in a database: rows of tables, or SQLite's steps.

A statement of PostgreSQL is executed twice, first with EXPLAIN ANALYZE in a transaction that is rolled back.
Source: https://www.postgresql.org/docs/current/using-explain.html#USING-EXPLAIN-ANALYZE
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import asyncpg
import msgspec
import pytest

from paidup.db.connection import connection, is_sqlite
from tests.support.statement_plans import EXPLAINED, nodes_of, product_frame

_counted: ContextVar[Counter[str] | None] = ContextVar("counted", default=None)
"""What a task's statements are added to. Not those of tasks that had begun before, such as the dispatcher's,
or of an earlier count, such as a batch that is written late: what they read is nobody's here.
"""
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
    _counted.set(read)

    def add(statement: str, rows: int, _: object) -> None:
        read[statement] += rows

    with _analyzing(add, lambda: _counted.get() is read):
        yield read
    _counted.set(None)


@contextmanager
def most_rows() -> Iterator[dict[str, Read]]:
    """The most that one execution of each statement of the product has read so far, in any task."""
    most: dict[str, Read] = {}

    def note(statement: str, rows: int, by: str) -> None:
        if statement not in most or most[statement].rows < rows:
            most[statement] = Read(rows, by)

    with _analyzing(note, product_frame):
        yield most


class Read(msgspec.Struct, frozen=True):
    """`by`: the module and function that ran the statement."""

    rows: int
    by: str


@contextmanager
def _analyzing(note: Callable[[str, int, Any], object], who: Callable[[], Any]) -> Iterator[None]:
    """`who` runs the statement: of nobody, none is noted."""
    execute = asyncpg.Connection._execute

    async def analyzed(connection: Any, query: str, args: Any, *rest: Any, **named: Any) -> Any:
        if query.lstrip().startswith(EXPLAINED) and (by := who()):
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("SET LOCAL enable_seqscan = off")  # as where the tables are large
            plan = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}", *args)
            await transaction.rollback()
            note(query, rows_of(msgspec.json.decode(plan)[0]["Plan"]), by)
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
