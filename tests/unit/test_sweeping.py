"""The reconciler runs each sweep by itself, and again at once where there is much to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import Mock

import pytest

from paidup.db.connection import is_sqlite, open_database, write_transaction
from paidup.reconciliation.due_rows import BATCH, ended_grants
from paidup.reconciliation.reconciler import Reconciler
from paidup.runtime.clock import now
from paidup.runtime.metrics import Metrics
from paidup.runtime.tasks import cancel_tasks
from tests.support.waiting import wait_until


@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
async def test_ended_grants_are_found_by_an_index(database_url: str) -> None:
    """Every two seconds: it reads neither the grants that have not ended, nor those that were spent."""
    async with open_database(database_url), write_transaction() as db:
        if not is_sqlite():
            # Else it reads the whole of a small table, or sorts the few rows that another index finds.
            await db.execute_script("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
        explain = "EXPLAIN QUERY PLAN" if is_sqlite() else "EXPLAIN"
        plan = await db.execute_query_dict(f"{explain} {ended_grants()}", [now()])
    text = str([tuple(row.values()) for row in plan])
    assert "idx_credit_gran_expires" in text
    assert "SORT" not in text.upper().replace("FOR ORDER BY", "SORT")


class Rounds:
    """A reconciler with sweeps that only count their rounds."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.reconciler = Reconciler(Mock(), Mock(), Mock(), Mock(), Metrics())

    def sweep(self, name: str, found: list[int]) -> Any:
        """A sweep that finds so many things in each round, and then none."""

        async def sweep() -> int:
            self.made[name] += 1
            return found.pop(0) if found else 0

        return sweep

    async def hang(self) -> int:
        self.made["hanging"] += 1
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def fail(self) -> int:
        self.made["failing"] += 1
        raise ValueError("a bug")

    @asynccontextmanager
    async def running(self, interval_s: float, **sweeps: tuple[Any, float]) -> AsyncIterator[None]:
        self.reconciler._sweeps = sweeps
        task = asyncio.create_task(self.reconciler.run_forever(interval_s))
        try:
            yield
        finally:
            await cancel_tasks(task)


async def test_a_sweep_that_hangs_or_fails_does_not_delay_the_others() -> None:
    """S34: Stripe's lists may take half a minute to fail; what was committed is published meanwhile."""
    rounds = Rounds()
    sweeps = {"hanging": (rounds.hang, 0.0), "failing": (rounds.fail, 0.0)}
    async with rounds.running(0.001, **sweeps, quick=(rounds.sweep("quick", []), 0.0)):
        await wait_until(lambda: rounds.made["quick"] > 5 and rounds.made["failing"] > 5)
    assert rounds.made["hanging"] == 1


async def test_only_sweeps_of_due_rows_run_again_at_once() -> None:
    """A sweep with its own interval (the audit takes 500 accounts a round) keeps to it."""
    rounds = Rounds()
    due = rounds.sweep("due", [BATCH] * 5)
    paced = rounds.sweep("paced", [10 * BATCH] * 5)
    async with rounds.running(3600, due=(due, 0.0), paced=(paced, 3600.0)):
        await wait_until(lambda: rounds.made["due"] == 6)
    assert rounds.made["paced"] == 1
