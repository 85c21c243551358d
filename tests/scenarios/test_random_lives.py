"""Random lives of subscriptions, through the real sandbox and the real product.

`RANDOM_LIVES_EXAMPLES` sets how many towns, `RANDOM_LIVES_STEPS` how much happens in each, for each database:
`RANDOM_LIVES_EXAMPLES=100 RANDOM_LIVES_STEPS=25 pytest tests/scenarios/test_random_lives.py --timeout=0`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tortoise.backends.base.executor import EXECUTOR_CACHE

from tests.conftest import World
from tests.support.contracts import checked_session
from tests.support.lives_invariants import Sold, check_access, check_all, prices_of, read_truth
from tests.support.postgres import Databases
from tests.support.random_lives import MINUTE, RATES, Town, amount_in
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import a_life

EXAMPLES = int(os.environ.get("RANDOM_LIVES_EXAMPLES", "0"))
"""Without a number, the same three each time."""
STEPS = int(os.environ.get("RANDOM_LIVES_STEPS", "10"))
ACTS = [
    *("buy", "buy_at_stripe", "top_up", "spend", "spend", "change", "cancel", "resume", "portal", "pause"),
    *("card", "refund", "fail_refund", "dispute", "dispute_goes_on", "other_product"),
]
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
HOURS = [1, 20, 71, 100, 24 * 10, 24 * 31]

Step = tuple[str, int, int, str]
STEP = st.tuples(
    st.sampled_from(["wait", "wait", "wait", *ACTS, *ACTS]),
    st.integers(0, 1),
    st.integers(0, 59),
    st.sampled_from(["now", "now", "late", "mixed", "lost"]),
)
LIVES = st.tuples(
    st.lists(st.sampled_from(sorted(RATES)), min_size=2, max_size=2),
    st.lists(STEP, min_size=STEPS, max_size=STEPS),
    st.integers(0, 999),
)


@pytest.fixture
def fresh_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """Makes an empty database of the test's kind for each town."""
    if request.param == "sqlite":
        template, numbers = request.getfixturevalue("sqlite_template"), count()

        def copied() -> str:
            path = tmp_path / f"lives{next(numbers)}.db"
            shutil.copy(template, path)
            return f"sqlite://{path}"

        yield copied
        return
    databases: Databases = request.getfixturevalue("databases")
    taken: list[str] = []

    def lent() -> str:
        if taken:
            databases.give_back(taken.pop())
        taken.append(databases.take())
        return databases.server.get_uri(database=taken[-1])

    yield lent
    for name in taken:
        databases.give_back(name)


@pytest.mark.parametrize("fresh_database", ["sqlite", "postgres"], indirect=True)
def test_whatever_happens_the_customer_has_what_was_paid_for(
    fresh_database: Callable[[], str], sandbox_url: str, valkey: str, tmp_path: Path
) -> None:
    """S50, S51, S52, S54: never locked out while paid up, never credited more, nothing parks or alarms."""
    with asyncio.Runner() as runner:

        @hypothesis_settings(
            max_examples=EXAMPLES or 3,
            derandomize=not EXAMPLES,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        )
        @given(LIVES)
        def check(lives: Any) -> None:
            runner.run(_in_a_town(lives, fresh_database(), sandbox_url, valkey, tmp_path))

        check()


async def _in_a_town(lives: Any, database: str, sandbox_url: str, valkey: str, folder: Path) -> None:
    currencies, steps, seed = lives
    EXECUTOR_CACHE.clear()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(checked_session())
        stripe = StripeSide(sandbox_url, http)
        await stripe.begin()
        for price in (await stripe.api("GET", "prices?limit=100"))["data"]:
            form = {
                f"currency_options[{currency}][unit_amount]": str(amount_in(currency, price["unit_amount"]))
                for currency in RATES
                if currency != "usd"
            }
            await stripe.api("POST", f"prices/{price['id']}", **form)
        servers = await stack.enter_async_context(AsyncExitStack())
        world = World(servers, valkey, database, stripe, http, folder)
        life = await a_life(world, webhooks=False, reconciler_in_server=False)
        town = Town(life, seed)
        await town.begin(currencies)
        prices = await prices_of(town)
        try:
            await _live(town, steps, prices)
        except Exception as error:
            raise AssertionError("\n".join([repr(error), str(currencies), *town.told])) from error


async def _live(town: Town, steps: list[Step], prices: dict[str, Sold]) -> None:
    for act, who, n, webhooks in steps:
        town.told.append(f"{act} {who} {n} {webhooks}")
        if act == "wait":
            await _wait(town, timedelta(hours=HOURS[n % len(HOURS)]), webhooks, prices)
        else:
            await getattr(town, act)(town.people[who], n)
            # What the portal and support do to a subscription is told within the hour.
            await town.hear("late" if webhooks == "lost" and act in ("portal", "pause") else webhooks)
    await town.hear("now")
    await town.recover()
    await check_all(town, prices)


async def _wait(town: Town, by: timedelta, webhooks: str, prices: dict[str, Sold]) -> None:
    """Time passes, and over the end of each period in small steps, as for a server that runs."""
    await town.hear("now")
    await town.recover()
    truth = await check_all(town, prices)
    until = town.at + int(by.total_seconds())
    while ends := await town.period_ends(until):
        await town.advance(timedelta(seconds=ends[0] - town.at) + MINUTE)
        known = {each.id for each in truth.payments}
        await check_access(town, await read_truth(town, prices), known)
        await town.hear(webhooks)
        await town.advance(65 * MINUTE)
        await check_access(town, await read_truth(town, prices), known)
        await town.hear("mixed" if webhooks == "mixed" else "now")
        await town.advance(30 * MINUTE)
        await town.recover()
        truth = await check_all(town, prices)
    if until > town.at:
        await town.advance(timedelta(seconds=until - town.at))
        await town.hear(webhooks)
        await town.recover()
        await check_all(town, prices)
