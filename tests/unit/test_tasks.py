"""Tasks are cancelled until they have ended, whatever they do with a cancellation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from paidup.runtime.tasks import cancel_tasks, until_one_ends
from tests.support.waiting import wait_until


class Stubborn:
    """Loses so many cancellations."""

    def __init__(self, losses: int) -> None:
        self.losses = losses
        self.cancelled = self.expected = 0

    async def __call__(self) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                if self.cancelled > self.losses:
                    raise


async def test_a_task_that_goes_on_is_cancelled_again() -> None:
    stubborn = Stubborn(2)
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    await cancel_tasks(task, again_after_s=0.01)
    assert (task.cancelled(), stubborn.cancelled) == (True, 3)


async def test_a_task_that_never_ends_is_left_with_a_line_in_the_log() -> None:
    stubborn = Stubborn(1_000_000)
    task = asyncio.create_task(stubborn(), name="stubborn")
    await asyncio.sleep(0)
    with capture_logs() as logs:
        await cancel_tasks(task, again_after_s=0.01, give_up_after_s=0.05)
    assert [(line["event"], line["tasks"]) for line in logs] == [("tasks_not_ended", ["stubborn"])]
    stubborn.losses = 0
    await cancel_tasks(task)


async def test_a_caller_that_is_cancelled_waits_for_the_end_all_the_same() -> None:
    stubborn = Stubborn(2)
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    cancelling = asyncio.create_task(cancel_tasks(task, again_after_s=60))
    for stubborn.expected in (1, 2, 3):
        await wait_until(lambda: stubborn.cancelled == stubborn.expected)
        cancelling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelling
    assert task.cancelled()


async def test_tasks_that_run_together_end_together() -> None:
    """With what the first has raised. A group of asyncio's would wait for ever."""
    stubborn, failing = Stubborn(1), asyncio.Event()

    async def fail() -> None:
        await failing.wait()
        raise OSError("the connection has ended")

    for ended_by in ("error", "caller"):
        stubborn.cancelled = 0
        failing.clear()
        running = asyncio.create_task(until_one_ends(stubborn(), fail()))
        await asyncio.sleep(0)
        if ended_by == "error":
            failing.set()
            with pytest.raises(OSError, match="has ended"):
                await running
        else:
            await cancel_tasks(running, again_after_s=0.01)
            assert running.cancelled()
        assert stubborn.cancelled == 2
    with suppress(asyncio.CancelledError):
        await running
