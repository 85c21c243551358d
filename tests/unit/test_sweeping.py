"""How the reconciler keeps its pace: each sweep by itself, hurrying only where there is much to do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from paidup.metrics import Metrics
from paidup.reconciliation.reconciler import BATCH, Reconciler
from tests.support.waiting import wait_until


class Rounds:
    """Sweeps that count their rounds, in a reconciler that has nothing else."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        needs: list[Any] = [*([None] * 6), Metrics(), None]
        self.reconciler = Reconciler(*needs)

    def sweep(self, name: str, found: list[int]) -> Any:
        """Finds so many things in one round after another, and then nothing more."""

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
    async def running(self, pace_s: float, **sweeps: tuple[Any, float]) -> AsyncIterator[None]:
        self.reconciler._sweeps = sweeps
        task = asyncio.create_task(self.reconciler.run_forever(pace_s))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_sweep_that_hangs_or_fails_keeps_no_other_waiting() -> None:
    """S34: Stripe's lists may take half a minute to fail; what was committed is published meanwhile."""
    rounds = Rounds()
    sweeps = {"hanging": (rounds.hang, 0.0), "failing": (rounds.fail, 0.0)}
    async with rounds.running(0.001, **sweeps, quick=(rounds.sweep("quick", []), 0.0)):
        await wait_until(lambda: rounds.made["quick"] > 5 and rounds.made["failing"] > 5)
    assert rounds.made["hanging"] == 1


async def test_only_what_is_due_here_hurries() -> None:
    """A sweep with a pace of its own (the audit takes five hundred accounts a round) keeps to it."""
    rounds = Rounds()
    due = rounds.sweep("due", [BATCH] * 5)
    paced = rounds.sweep("paced", [10 * BATCH] * 5)
    async with rounds.running(3600, due=(due, 0.0), paced=(paced, 3600.0)):
        await wait_until(lambda: rounds.made["due"] == 6)
    assert rounds.made["paced"] == 1
