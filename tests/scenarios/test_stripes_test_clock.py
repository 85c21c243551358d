"""Stripe's test clocks: Stripe is days ahead, while this server's clock is the real one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import Life, a_life, buy_without_webhooks, subscription_of

DAY_S = 24 * 3600


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def only_stripe_advances(life: Life, days: float) -> Any:
    """Move Stripe's clock alone, as `test_helpers.test_clocks.advance` does."""
    moved = await life.stripe.control("clock", {"advance_seconds": round(days * DAY_S)})
    await life.calm()
    await life.work()
    return moved


@pytest.mark.parametrize("plan", ["basic", "pro"])
async def test_renewals_of_a_test_clock_are_credited(life: Life, plan: str) -> None:
    """Three months in one jump: each renewal is credited once, by its webhook."""
    await life.buy(plan)
    credits = await life.balance()
    await only_stripe_advances(life, 93)
    entries = await life.entries()
    assert entries == [("grant", credits)] * 4
    assert (await subscription_of(life))["status"] == "active"
    await assert_books_balance(grants=4)


async def test_renewals_of_a_test_clock_are_found_without_webhooks(world: World) -> None:
    """Stripe's list names them, although they were created in our future."""
    life = await a_life(world, webhooks=False)
    await buy_without_webhooks(life, "pro")
    await life.stripe.control("clock", {"advance_seconds": 93 * DAY_S})
    assert await life.paidup.services.reconciler.lists.paid_invoices() == 3
    assert await life.entries() == [("grant", 2000)] * 4
    await assert_books_balance(grants=4)


async def test_a_change_of_plan_months_ahead_is_credited(life: Life) -> None:
    await life.buy("basic")
    await only_stripe_advances(life, 40)
    before = await life.balance()
    await life.change("pro")
    await life.calm()
    assert await life.balance() > before
    await assert_books_balance()


async def test_a_cancellation_and_a_refund_months_ahead(life: Life) -> None:
    bought = await life.buy("pro")
    await only_stripe_advances(life, 70)
    await life.refund(bought)
    await life.calm()
    status, answer = await life.post("/api/subscriptions/cancel", when="now")
    assert status == 200, answer
    await life.calm()
    assert (await life.entries())[-1] == ("reverse", -2000)
