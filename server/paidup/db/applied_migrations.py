"""Which migrations of this release the database has, and which it lacks."""

from __future__ import annotations

from tortoise.exceptions import OperationalError

from paidup.db.connection import connection, migrate, open_database, storage_errors
from paidup.db.migrations import migrations_of_this_release
from paidup.errors import ConfigurationError, StorageUnavailable


async def applied_migrations() -> set[str]:
    """The names of the migrations that were applied; none where the database has never been migrated."""
    query = "SELECT name FROM tortoise_migrations WHERE app = 'paidup'"
    try:
        with storage_errors():
            return {row["name"] for row in await connection().execute_query_dict(query)}
    except StorageUnavailable as error:
        if isinstance(error.__cause__, OperationalError) and "tortoise_migrations" in str(error):
            return set()
        raise


async def missing_migrations() -> set[str]:
    """Those of this release that the database lacks. One of a later release is no fault."""
    return migrations_of_this_release() - await applied_migrations()


async def migrate_where_needed(url: str) -> None:
    """Apply what the database lacks. To find that it lacks nothing takes a tenth of what Tortoise takes."""
    async with open_database(url, pool=1):
        if not await missing_migrations():
            return
    await migrate(url)


async def require_migrated() -> None:
    """Raises ConfigurationError if the database lacks a migration."""
    if missing := await missing_migrations():
        raise ConfigurationError(
            [
                f"DATABASE_URL: the database has not been migrated ({len(missing)} migrations to apply): "
                "run `paidup migrate`, or start with `paidup serve --migrate`"
            ]
        )
