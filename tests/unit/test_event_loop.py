"""The delay of the event loop, as its metric has it."""

from __future__ import annotations

import asyncio
import time

from paidup.runtime.event_loop import EVERY_S, measure_delays
from paidup.runtime.tasks import cancel_tasks
from tests.support.waiting import wait_until

BLOCKED_S = 4 * EVERY_S


async def test_what_blocks_the_loop_is_observed() -> None:
    observed: list[float] = []
    measuring = asyncio.create_task(measure_delays(observed.append))
    try:
        await wait_until(lambda: observed)
        time.sleep(BLOCKED_S)  # noqa: ASYNC251 - it is the fault that is to be seen
        blocked = len(observed)
        await wait_until(lambda: len(observed) > blocked)
    finally:
        await cancel_tasks(measuring)
    assert observed[blocked] >= BLOCKED_S - EVERY_S
