"""Cancels tasks and waits for their end."""

from __future__ import annotations

import asyncio
from typing import Any


async def cancel_tasks(*tasks: asyncio.Task[Any], again_after_s: float = 10.0) -> None:
    """Cancel `tasks` and wait until they have ended; what they raise is dropped.

    A task that goes on is cancelled again after `again_after_s`: redis-py swallows a cancellation
    that meets a failing connection.
    """
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=again_after_s)
    await asyncio.gather(*tasks, return_exceptions=True)
