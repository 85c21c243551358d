"""When the installation under test began."""

from __future__ import annotations

from datetime import datetime

from paidup.db.connection import connection, is_sqlite
from paidup.db.installation import installed_at
from tests.conftest import World


async def began(world: World, at: datetime) -> None:
    """As if the database had been made at `at`, until the test ends: what was paid before is of the past."""
    world.stack.push_async_callback(_set, await installed_at())
    await _set(at)


async def _set(at: datetime) -> None:
    await connection().execute_query(
        f"UPDATE tortoise_migrations SET applied_at = {'?' if is_sqlite() else '$1'}", [at]
    )
