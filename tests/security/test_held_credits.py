"""Credits that are reserved while their payment is refunded or disputed."""

from __future__ import annotations

import pytest

from paidup.db.models import CreditGrant
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import Life, a_life


async def _reserve(life: Life, credits: int) -> None:
    status, answer = await life.post("/api/credits/reserve", credits=credits, key="job")
    assert status == 201, answer


async def _release(life: Life) -> None:
    status, answer = await life.post("/api/credits/release", key="job")
    assert status == 200, answer


@pytest.mark.parametrize("how", ["refund", "dispute"])
async def test_credits_reserved_during_a_refund_are_taken_back(world: World, how: str) -> None:
    """S25: reserve all, have the money back, release: nothing is there, though what is spent is forgiven."""
    plans = world.folder / "plans.toml"
    text = PACKAGED_PLANS.read_text()
    plans.write_text(text.replace('spent_then_refunded = "debt"', 'spent_then_refunded = "forgive"'))
    life = await a_life(world, plans_file=plans)
    invoice = await life.buy()
    await _reserve(life, 2000)
    if how == "refund":
        await life.refund(invoice)
    else:
        dispute = await life.dispute(invoice)
        await life.calm()
        await life.stripe.control(f"disputes/{dispute['id']}/close", {"status": "lost"})
    await life.wait_for_status(invoice, "reversed")
    await _release(life)
    assert await life.balance() == 0
    await assert_books_balance()


async def test_credits_released_during_a_dispute_are_frozen(world: World) -> None:
    """S25: they are frozen like those that were not held."""
    life = await a_life(world)
    invoice = await life.buy()
    await _reserve(life, 1500)
    await life.dispute(invoice)
    await life.wait_for_balance(0)
    await _release(life)
    assert await life.balance() == 0
    assert (await CreditGrant.get(invoice_id=invoice)).frozen == 2000
    await assert_books_balance()
