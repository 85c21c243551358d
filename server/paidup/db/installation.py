"""When this installation began: what was paid at Stripe before is not credited here by itself."""

from __future__ import annotations

from datetime import UTC, datetime

from paidup.db.connection import connection, storage_errors

_FIRST_MIGRATION = "SELECT MIN(applied_at) AS at FROM tortoise_migrations WHERE app = 'paidup'"


async def installed_at() -> datetime:
    """When the database got its first migration. Raises StorageUnavailable."""
    with storage_errors():
        (row,) = await connection().execute_query_dict(_FIRST_MIGRATION)
    at = row["at"]
    found = datetime.fromisoformat(at) if isinstance(at, str) else at
    assert isinstance(found, datetime), "a database without migrations"
    return found if found.tzinfo else found.replace(tzinfo=UTC)
