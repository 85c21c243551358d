"""What the demo's server does before it first serves: migrates the database, and creates the prices."""

from __future__ import annotations

import asyncio

from paidup.db.applied_migrations import migrate_where_needed
from paidup.errors import StripeUnavailable
from paidup.operations.price_setup import ensure_prices
from paidup.operations.stripe_setup import open_gateway_only
from paidup.runtime.plans_file import read_catalogue
from paidup.settings import Settings
from paidup_demo.readiness import LOOK_EVERY_S, START_WITHIN_S, answers


async def prepare(settings: Settings, sandbox: str = "") -> None:
    """`sandbox` is a URL that it will answer: it starts meanwhile. Raises PaidupError."""
    catalogue = read_catalogue(settings.plans_file)
    await migrate_where_needed(settings.effective_database_url)
    if sandbox:
        await _wait_for(sandbox)
    async with open_gateway_only(settings) as gateway:
        await ensure_prices(gateway, catalogue)


async def _wait_for(url: str) -> None:
    try:
        async with asyncio.timeout(START_WITHIN_S):
            while not await answers(url):
                await asyncio.sleep(LOOK_EVERY_S)
    except TimeoutError:
        raise StripeUnavailable(f"{url} did not answer within {START_WITHIN_S:.0f} s") from None
