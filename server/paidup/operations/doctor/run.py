"""Run every check of `paidup doctor`: the items of docs/going-live.md that a program can check.

Checks are independent: if the database is down, Stripe is still checked. No check changes anything.
"""

from __future__ import annotations

from collections.abc import Callable

from paidup.operations.doctor import (
    database_checks,
    network_checks,
    settings_checks,
    stripe_checks,
)
from paidup.operations.doctor.report import Check, ok
from paidup.settings import Settings

CHECKS = (
    *("settings", "mode", "plans", "tokens", "origins", "rate limit"),
    *(
        "stripe",
        "permissions",
        "clock",
        "prices",
        "endpoint",
        "endpoint state",
        "endpoint events",
        "endpoint version",
    ),
    *(
        "database",
        "migrations",
        "events",
        "webhooks",
        "event version",
        "reconciler",
        "ledger",
        "redis",
        "public url",
    ),
)
"""Names of all checks; docs/going-live.md has a section for each."""
STEPS = 5
"""How many times `on_step` is called at most."""


async def run_checks(
    settings: Settings,
    webhook_url: str | None = None,
    url: str | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> list[Check]:
    """Run all checks in the order of CHECKS. Takes a few seconds.

    `webhook_url` is the exact URL of the webhook endpoint; without it any endpoint with Paidup's
    path counts. `url` is the server's public URL; without it, "public url" is not checked. `on_step`
    gets the name of what is checked next.
    """
    on_step("settings")
    catalogue, plans = settings_checks.check_plans(settings)
    checks = [
        ok("settings", "complete and consistent"),
        settings_checks.check_mode(settings),
        plans,
        await settings_checks.check_tokens(settings),
        settings_checks.check_origins(settings),
        settings_checks.check_rate_limit(settings),
    ]
    async with network_checks.open_redis(settings) as redis:
        on_step("Stripe")
        checks += await stripe_checks.check_stripe_account(settings, redis.client, catalogue, webhook_url)
        on_step("database")
        checks += await database_checks.check_database(settings)
        on_step("Redis")
        checks.append(await network_checks.check_redis(redis))
    if url:
        on_step(url)
        checks.append(await network_checks.check_public_url(settings, url))
    return checks
