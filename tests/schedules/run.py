"""Runs schedules one after the other in one shop, which is emptied in between, and collects what is wrong."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from pathlib import Path

import uvloop
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.runtime.logs import configure_logging
from tests.schedules.schedule import Schedule
from tests.schedules.shop import a_shop


async def run_schedules(seeds: Iterable[int], template: Path) -> list[str]:
    """What is wrong with which seed, in words; empty where all schedules end well.

    `template`: an empty, migrated SQLite database, which is copied.
    """
    wrong: list[str] = []
    EXECUTOR_CACHE.clear()
    async with a_shop(template) as shop:
        gc.freeze()
        for seed in seeds:
            shop.reset(seed)
            schedule = Schedule(shop, "user")
            try:
                await schedule.run()
                found = await schedule.verdict()
            except Exception as error:
                found = [f"{type(error).__name__}: {error}"]
            again = f"python -m tests.schedules --seed {seed} --schedules 1"
            wrong += [f"seed {seed}: {each} after {schedule.told} ({again})" for each in found]
    return wrong


def run_part(seeds: range, template: Path) -> tuple[range, list[str]]:
    """The seeds, and what is wrong. Runs in a process of its own.

    On uvloop, which goes on with tasks in asyncio's order and leaves a sixth more schedules a second.
    """
    configure_logging("CRITICAL", "console")
    gc.set_threshold(50_000, 50, 50)  # little of what it looks through is garbage
    return seeds, uvloop.run(run_schedules(seeds, template))
