"""Cancels tasks and waits for their end; and runs several until one of them ends.

A cancellation may be lost: on Python 3.11, `asyncio.wait_for` returns its result instead, if that has come in
the same turn of the event loop (https://github.com/python/cpython/issues/86296), and redis-py sends each
command within one. So a task is cancelled until it has ended. `asyncio.TaskGroup` cancels its tasks once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)

GIVE_UP_AFTER_S = 60.0


async def cancel_tasks(
    *tasks: asyncio.Task[Any], again_after_s: float = 10.0, give_up_after_s: float = GIVE_UP_AFTER_S
) -> None:
    """Cancel `tasks` and wait until they have ended; what they raise is dropped.

    A task that goes on is cancelled again after `again_after_s`, and left after `give_up_after_s`, with a
    line in the log. Where the caller is cancelled meanwhile, that is raised at the end.
    """
    loop = asyncio.get_running_loop()
    ends, interrupted = loop.time() + give_up_after_s, False
    running = {task for task in tasks if not task.done()}
    while running and loop.time() < ends:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=again_after_s)
        except asyncio.CancelledError:
            interrupted = True
        running = {task for task in running if not task.done()}
    if running:
        log.error("tasks_not_ended", tasks=sorted(task.get_name() for task in running))
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # or asyncio reports that nobody has asked for it
    if interrupted:
        raise asyncio.CancelledError


async def until_one_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run these together until one ends, then end the others. Raises what it has raised."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_tasks(*tasks, again_after_s=0.1)
    for task in done:
        await task
