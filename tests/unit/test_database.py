"""Two processes on one SQLite file: whoever comes second waits for the lock, and is not refused."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from tortoise.backends.base.executor import EXECUTOR_CACHE

from server.database import open_database
from server.models import KnownPrice
from tests.support.waiting import wait_until


async def test_a_transaction_of_tortoises_own_waits_for_another_processs_write(
    sqlite_template: Path, tmp_path: Path
) -> None:
    """update_or_create reads before it writes: begun deferred, it would fail at once with SQLITE_BUSY."""
    EXECUTOR_CACHE.clear()
    sqlite_file = tmp_path / "two.db"
    shutil.copy(sqlite_template, sqlite_file)
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    async with open_database(f"sqlite://{sqlite_file}"):
        values: dict[str, Any] = {"lookup_key": "k", "plan": "pro", "unit_amount_minor": 1, "currency": "usd"}
        await KnownPrice.create(id="price_1", **values)
        # A real write: what was read before it is stale after it, and that is never waited for.
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE prices SET unit_amount_minor = 2")
        waiting = asyncio.ensure_future(KnownPrice.update_or_create(values, id="price_1"))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        other.execute("COMMIT")
        await wait_until(waiting.done)
        assert waiting.exception() is None
        assert (await KnownPrice.get(id="price_1")).unit_amount_minor == 1
    other.close()
