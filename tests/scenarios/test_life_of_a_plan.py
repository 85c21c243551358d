"""The whole life of a plan: renewals, changes, years, ends. What Stripe does, and what credits do then."""

from __future__ import annotations

import pytest

from tests.conftest import World
from tests.support.books import assert_books_balance
from tests.support.life import Life, a_life, grants_of


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def test_a_renewal_is_credited(life: Life) -> None:
    await life.buy("pro")
    await life.pass_days(31)
    assert await life.entries() == [("grant", 2000), ("grant", 2000)]
    await assert_books_balance(grants=2)


async def test_an_upgrade_halfway_gives_half_the_difference(life: Life) -> None:
    await life.buy("basic")
    await life.pass_days(15)
    answer = await life.change("pro")
    assert answer["status"]["status"] == "active"
    (first, upgrade) = await life.entries()
    assert first == ("grant", 500)
    assert upgrade[0] == "grant"
    assert 740 <= upgrade[1] <= 800
    await assert_books_balance()


async def test_flapping_between_plans_farms_nothing(life: Life) -> None:
    """S26."""
    await life.buy("pro")
    await life.change("basic")
    await life.change("pro")
    await life.change("basic")
    await life.change("pro")
    assert await life.balance() in (2000, 2001)
    await assert_books_balance()


async def test_a_yearly_plan_gives_its_credits_month_by_month(life: Life) -> None:
    """S27."""
    invoice = await life.buy("pro", interval="year")
    assert await life.balance() == 2000
    await life.pass_days(32)
    assert await life.balance() == 4000
    await life.pass_days(320)
    assert await life.balance() == 24000
    assert len(await grants_of(invoice)) == 12
    await assert_books_balance()


async def test_a_refund_takes_the_credits_back(life: Life) -> None:
    """S25."""
    invoice = await life.buy("pro")
    await life.refund(invoice)
    await life.wait_for_balance(0)
    await assert_books_balance()


async def test_a_top_up_stays(life: Life) -> None:
    """S27."""
    await life.buy("basic")
    await life.top_up()
    assert await life.balance() == 1500
    await life.pass_days(32)
    assert await life.balance() == 1500
    await assert_books_balance()
