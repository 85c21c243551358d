"""Runs schedules, a fresh shop for each batch of them, and collects what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.db.connection import migrate
from tests.schedules.schedule import Schedule
from tests.schedules.shop import a_shop

BATCH = 25
"""The sandbox's lists grow, and every schedule reads them."""


async def run_schedules(
    count: int, first_seed: int, folder: Path, on_done: Callable[[int], object] = lambda _: None
) -> list[str]:
    """What is wrong with which seed, in words; empty where all schedules end well."""
    template = folder / "template.db"
    await migrate(f"sqlite://{template}")
    wrong: list[str] = []
    for start in range(0, count, BATCH):
        EXECUTOR_CACHE.clear()
        path = folder / "shop.db"
        shutil.copy(template, path)
        async with a_shop(f"sqlite://{path}") as shop:
            for seed in range(first_seed + start, first_seed + min(count, start + BATCH)):
                schedule = Schedule(shop, f"user-{seed}", seed)
                await schedule.run()
                found = await schedule.verdict()
                wrong += [f"seed {seed}: {each} after {schedule.told}" for each in found]
                on_done(seed)
        path.unlink()
    return wrong
