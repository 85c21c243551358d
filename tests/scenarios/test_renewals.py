"""Renewals as Stripe collects them: a draft for an hour, then a charge, then retries over days."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import (
    Life,
    a_life,
    advance,
    buy_without_webhooks,
    pay_on_with,
    plans_with,
    subscription_of,
)

DECLINES = "pm_card_chargeCustomerFail"
HOUR = 1 / 24


async def to_the_periods_end(life: Life) -> datetime:
    """Time passes until a minute after the period has ended."""
    end = datetime.fromisoformat((await subscription_of(life))["current_period_end"])
    await life.pass_days((end - life.clock() + timedelta(minutes=1)).total_seconds() / 86400)
    return end


async def refused_spend(life: Life, credits: int = 10_000) -> Any:
    status, problem = await life.customer.spend(credits, f"too-much-{life.clock().timestamp()}")
    assert status == 402, problem
    return problem


async def test_a_renewals_draft_locks_nobody_out(world: World) -> None:
    """S50: unused credits can be spent while the renewal's invoice is a draft, and expire as it settles."""
    life = await a_life(world)
    await life.buy("basic")
    await life.spend(100, "before")
    end = await to_the_periods_end(life)
    assert await life.balance() == 400
    await life.spend(150, "in the draft's hour")
    await life.pass_days(HOUR)
    await life.wait_for_balance(500)
    assert await life.entries() == [
        ("grant", 500), ("spend", -100), ("spend", -150), ("grant", 500), ("expire", -250),
    ]  # fmt: skip
    *_, (_, _, reason) = await life.reasons()
    assert reason == f"unused at its end, {end:%Y-%m-%d %H:%M} UTC"
    await assert_books_balance(grants=2)


async def test_a_refused_spend_names_the_renewal(world: World) -> None:
    """S50: the answer says that a renewal is under way and when it is expected, and asks for no payment."""
    life = await a_life(world)
    await life.buy("basic")
    before = await refused_spend(life)
    assert (before["renewing"], before["reason"]) == (None, None)
    end = await to_the_periods_end(life)
    problem = await refused_spend(life)
    assert (problem["reason"], problem["activating"], problem["balance"]) == ("subscription_cycle", None, 500)
    renewing = problem["renewing"]
    assert renewing["plan"] == "basic"
    assert datetime.fromisoformat(renewing["since"]) == end
    assert datetime.fromisoformat(renewing["expected_at"]) == end + timedelta(hours=1)
    account = await life.account()
    assert (account["renewing"], account["activating"]) == (renewing, None)
    _, credits = await life.customer.call("GET", "/api/credits")
    assert credits["renewing"] == renewing
    (grant,) = credits["grants"]
    assert datetime.fromisoformat(grant["expires_at"]) == end
    usable_until = datetime.fromisoformat(grant["usable_until"])
    assert usable_until == end + timedelta(hours=72)
    assert datetime.fromisoformat(credits["next_expiry"]["at"]) == usable_until
    await life.pass_days(HOUR)
    await life.wait_for_balance(500)
    assert (await refused_spend(life))["renewing"] is None


async def test_a_renewal_being_retried_keeps_credits_for_its_grace(world: World) -> None:
    """S50: past due is still in good standing for three days; then the credits expire, dated at the end."""
    life = await a_life(world)
    await life.buy("basic")
    await pay_on_with(life, DECLINES)
    end = await to_the_periods_end(life)
    await life.pass_days(HOUR)
    assert (await subscription_of(life))["status"] == "past_due"
    assert await life.balance() == 500
    renewing = (await refused_spend(life))["renewing"]
    next_attempt = datetime.fromisoformat(renewing["expected_at"])
    assert timedelta(days=3) <= next_attempt - end <= timedelta(days=3, hours=2)
    await life.pass_days(2.9)
    assert await life.balance() == 500
    await life.pass_days(0.2)
    assert await life.balance() == 0
    *_, (kind, credits, reason) = await life.reasons()
    assert (kind, credits) == ("expire", -500)
    assert f"{end:%Y-%m-%d}" in reason
    await assert_books_balance(grants=1)


async def test_a_plan_may_keep_credits_as_long_as_stripe_retries(world: World, tmp_path: Path) -> None:
    """S50: with `grace_while_retrying`, until Stripe gives up; the last retry ends the subscription."""
    plans = plans_with(tmp_path, "basic", "grace_while_retrying = true")
    life = await a_life(world, plans_file=plans)
    await life.buy("basic")
    await pay_on_with(life, DECLINES)
    await to_the_periods_end(life)
    await life.pass_days(HOUR)
    await life.pass_days(7.9)
    assert await life.balance() == 500
    await life.pass_days(7.2)
    assert (await subscription_of(life))["status"] == "canceled"
    assert await life.balance() == 0
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("call", ["void", "mark_uncollectible"])
async def test_a_renewal_that_is_given_up_ends_the_grace(world: World, call: str) -> None:
    """S50: once its invoice is void or uncollectible, no renewal is awaited any more."""
    life = await a_life(world)
    await life.buy("basic")
    await pay_on_with(life, DECLINES)
    await to_the_periods_end(life)
    await life.pass_days(HOUR)
    assert await life.balance() == 500
    renewal = (await subscription_of_stripe(life))["latest_invoice"]
    await life.stripe.api("POST", f"invoices/{renewal}/{call}")
    await life.calm()
    await life.wait_for_balance(0)
    assert (await life.account())["renewing"] is None
    await assert_books_balance(grants=1)


async def test_a_subscription_that_ends_in_its_grace_ends_the_credits(world: World) -> None:
    """S50: no renewal follows a canceled subscription."""
    life = await a_life(world)
    await life.buy("basic")
    await to_the_periods_end(life)
    status, answer = await life.post("/api/subscriptions/cancel", when="now")
    assert status == 200, answer
    await life.calm()
    await life.work()
    assert await life.balance() == 0


async def test_a_subscription_that_will_not_renew_has_no_grace(world: World) -> None:
    """S50: canceled at the period's end, it is known not to renew; undone, it renews and has its grace."""
    life = await a_life(world)
    await life.buy("basic")
    for path, grace in (("cancel", timedelta()), ("resume", timedelta(hours=72)), ("cancel", timedelta())):
        await life.post(f"/api/subscriptions/{path}")
        _, credits = await life.customer.call("GET", "/api/credits")
        (grant,) = credits["grants"]
        ends = (datetime.fromisoformat(grant[name]) for name in ("usable_until", "expires_at"))
        assert next(ends) - next(ends) == grace
    await to_the_periods_end(life)
    assert await life.balance() == 0
    assert (await refused_spend(life))["renewing"] is None


async def test_capped_credits_roll_over_as_the_renewal_settles(world: World) -> None:
    """S50: what is spent in the grace counts before the cap is applied."""
    life = await a_life(world)
    await life.buy("advanced")

    await to_the_periods_end(life)
    await life.spend(200, "in the draft's hour")
    await life.pass_days(HOUR)
    await life.wait_for_balance(2200)
    assert await life.entries() == [("grant", 1200), ("spend", -200), ("grant", 1200)]


async def test_a_years_months_last_until_the_next_ones_credits_have_come(world: World) -> None:
    """S50: a worker that is late with a month's credits locks nobody out."""
    life = await a_life(world, webhooks=False)
    await buy_without_webhooks(life, "basic", interval="year")
    await advance(life, 32)
    assert await life.balance() == 500
    await life.spend(120, "late")
    await life.work()
    await life.wait_for_balance(500)
    assert await life.entries() == [("grant", 500), ("spend", -120), ("grant", 500), ("expire", -380)]


async def test_renewals_may_be_collected_at_once(world: World, tmp_path: Path) -> None:
    """S50: the draft is finalised and paid as soon as it is known, and once."""
    plans = plans_with(tmp_path, "basic", 'collect_renewals = "at_once"')
    life = await a_life(world, plans_file=plans)
    await life.buy("basic")
    await life.spend(100, "before")
    await to_the_periods_end(life)
    await life.wait_for_balance(500)
    await life.deliver("invoice.created")
    await life.pass_days(2 * HOUR)
    assert await life.entries() == [("grant", 500), ("spend", -100), ("grant", 500), ("expire", -400)]
    assert await life.stripe.calls("POST /v1/invoices/{id}/pay") == 1


async def test_a_lost_draft_event_is_made_up_for_by_the_subscriptions_read(
    world: World, tmp_path: Path
) -> None:
    """S50: without the event, the worker meets the draft and collects it."""
    plans = plans_with(tmp_path, "basic", 'collect_renewals = "at_once"')
    life = await a_life(world, webhooks=False, plans_file=plans)
    await buy_without_webhooks(life, "basic")
    await life.work()
    await life.stripe.control("conditions", {"webhook_drop": True})
    end = datetime.fromisoformat((await subscription_of(life))["current_period_end"])
    days = (end - life.clock() + timedelta(minutes=1)).total_seconds() / 86400
    await advance(life, days)
    life.clock.ahead += timedelta(hours=2)  # ours alone: Stripe still has the draft
    await life.work()
    await life.wait_for_balance(500)
    assert [kind for kind, _ in await life.entries()] == ["grant", "grant", "expire"]


@pytest.mark.parametrize("trouble", ["declined", "away"])
async def test_collecting_at_once_fails_harmlessly(world: World, tmp_path: Path, trouble: str) -> None:
    """S50: where it fails, Stripe collects the renewal as usual, and the credits last until then."""
    plans = plans_with(tmp_path, "basic", 'collect_renewals = "at_once"')
    life = await a_life(world, plans_file=plans)
    await life.buy("basic")
    if trouble == "declined":
        await pay_on_with(life, DECLINES)
    else:
        await life.stripe.conditions(api_down=True)
    await to_the_periods_end(life)
    assert await life.balance() == 500
    await life.stripe.conditions(api_down=False)
    if trouble == "declined":
        await pay_on_with(life, "pm_card_visa")
    await life.pass_days(4)
    await life.wait_for_balance(500)
    assert [kind for kind, _ in await life.entries()] == ["grant", "grant", "expire"]


async def test_only_renewals_that_are_ours_are_collected_at_once(world: World, tmp_path: Path) -> None:
    """S50, S52: another product's renewal on the same customer stays a draft for its hour."""
    plans = plans_with(tmp_path, "basic", 'collect_renewals = "at_once"')
    life = await a_life(world, plans_file=plans)
    await life.buy("basic")
    customer = (await subscription_of_stripe(life))["customer"]
    product = await life.stripe.api("POST", "products", name="Support")
    recurring = {"recurring[interval]": "month"}
    price = await life.stripe.api(
        "POST", "prices", product=product["id"], unit_amount="500", currency="usd", **recurring
    )
    items = {"items[0][price]": price["id"], "default_payment_method": "pm_card_visa"}
    other = await life.stripe.api("POST", "subscriptions", customer=customer, **items)
    await to_the_periods_end(life)
    await life.wait_for_balance(500)
    assert await life.stripe.calls("POST /v1/invoices/{id}/pay") == 1
    renewal, _ = (await life.stripe.api("GET", f"invoices?subscription={other['id']}"))["data"]
    assert (renewal["billing_reason"], renewal["status"]) == ("subscription_cycle", "draft")


async def subscription_of_stripe(life: Life) -> Any:
    own = (await subscription_of(life))["id"]
    return await life.stripe.api("GET", f"subscriptions/{own}")
