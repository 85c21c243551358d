"""What `paidup serve` checks before it starts a process: every mistake is found at once, in one list.

A worker process that fails at its start would show a traceback instead. Stripe and Redis may be away:
both are retried while serving, so that only what they say can be a mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from redis.exceptions import AuthenticationError, ResponseError

from paidup.db.applied_migrations import migrate_where_needed, require_migrated
from paidup.db.connection import open_database
from paidup.domain.catalog import Catalogue
from paidup.errors import ConfigurationError, DatabaseUnreachable, StripeError
from paidup.operations.stripe_setup import open_gateway_only
from paidup.operations.unit_names import check_units
from paidup.runtime.connection_urls import without_password
from paidup.runtime.listening import listening_problem
from paidup.runtime.plans_file import read_catalogue
from paidup.runtime.redis_client import REDIS_ERRORS, connect_redis
from paidup.runtime.return_page_file import read_return_page
from paidup.settings import Settings, authentication_problems
from paidup.stripe_api.price_differences import differences

PRICES_WITHIN_S = 5.0
REFUSALS = (AuthenticationError, ResponseError)
"""What Redis answers where the password, or what REDIS_CLUSTER says of it, is wrong."""


async def check_before_serving(settings: Settings, migrate_first: bool = False) -> list[str]:
    """Raises ConfigurationError that lists every mistake. Returns warnings, of what may come right by itself.

    With `migrate_first`, the database is migrated; safe where several processes do so at once.
    """
    problems = authentication_problems(settings)
    if problem := listening_problem(settings.host, settings.port):
        problems.append(problem)
    catalogue = None
    try:
        catalogue = read_catalogue(settings.plans_file)
    except ConfigurationError as error:
        problems += error.problems
    try:
        read_return_page(settings.return_page_file)
    except ConfigurationError as error:
        problems += error.problems
    problems += await _problems_of(_check_database(settings, migrate_first, catalogue))
    redis_problems, warnings = await _check_redis(settings)
    problems += redis_problems
    if catalogue is not None and not problems:
        problems += await _check_prices(settings, catalogue)
    if problems:
        raise ConfigurationError(problems)
    return warnings


async def _problems_of(check: Awaitable[None]) -> list[str]:
    try:
        await check
    except ConfigurationError as error:
        return error.problems
    except DatabaseUnreachable as error:
        return [str(error)]
    return []


async def _check_database(settings: Settings, migrate_first: bool, catalogue: Catalogue | None) -> None:
    if migrate_first:
        await migrate_where_needed(settings.effective_database_url)
    async with open_database(settings.effective_database_url, pool=1):
        await require_migrated()
        problems = await check_units(catalogue) if catalogue is not None else []
    if problems:
        raise ConfigurationError([f"{settings.plans_file}: {problem}" for problem in problems])


async def _check_redis(settings: Settings) -> tuple[list[str], list[str]]:
    """Problems, and warnings: an address that does not answer may answer later."""
    place = without_password(settings.redis_url)
    redis = connect_redis(settings.redis_url, settings.redis_cluster)
    try:
        await redis.ping()
    except REDIS_ERRORS as error:
        if isinstance(error, REFUSALS) or isinstance(error.__cause__, REFUSALS):
            return [f"REDIS_URL: {place} refuses: {error} Correct the password, or REDIS_CLUSTER"], []
        return [], [
            f"REDIS_URL: {place} does not answer ({error}): start it, or correct the address. Until then, "
            "pages are told of payments by reading the database"
        ]
    finally:
        await redis.aclose()
    return [], []


async def _check_prices(settings: Settings, catalogue: Catalogue) -> list[str]:
    if settings.sells_at_stripes_prices:
        return []
    try:
        async with asyncio.timeout(PRICES_WITHIN_S), open_gateway_only(settings) as gateway:
            active = await gateway.account.list_prices(catalogue.lookup_keys)
    except (StripeError, TimeoutError):
        return []  # the first purchase compares them
    return list(differences(catalogue, active).values())
