"""How a subscription ends. Its events may arrive in any order, so its state is read from Stripe."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from paidup.db.models import StripeEvent, Subscription
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance, row_counts
from tests.support.stripe_sandbox import forged_event
from tests.support.subscription_lifecycle import (
    Life,
    a_life,
    advance,
    buy_without_webhooks,
    grants_of,
    plans_with,
    subscription_of,
)


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def test_a_canceled_subscription_runs_until_its_period_ends(life: Life) -> None:
    """S18: a cancellation has a date; resumed, the plan goes on; canceled again, it ends and credits stay."""
    await life.buy("pro")
    _, answer = await life.post("/api/subscriptions/cancel")
    ends = answer["subscription"]["cancel_at"]
    assert (answer["subscription"]["status"], ends) == (
        "active",
        answer["subscription"]["current_period_end"],
    )
    _, answer = await life.post("/api/subscriptions/resume")
    assert answer["subscription"]["cancel_at"] is None
    await life.pass_days(31)
    assert await life.balance() == 4000
    await life.post("/api/subscriptions/cancel", when="period_end")
    await life.pass_days(31)
    seen = await subscription_of(life)
    assert (seen["status"], seen["ended_at"] is not None) == ("canceled", True)
    assert await life.balance() == 4000
    status, problem = await life.post("/api/subscriptions/resume")
    assert (status, problem["type"].rpartition("/")[2]) == (409, "not-subscribed")
    await life.buy("basic")
    assert await life.balance() == 4500


async def test_an_immediate_cancellation_keeps_credits_and_installments(life: Life) -> None:
    """S27: paid credits stay, unless the plan says otherwise."""
    await life.buy("pro", interval="year")
    _, answer = await life.post("/api/subscriptions/cancel", when="now")
    assert answer["subscription"]["status"] == "canceled"
    await life.pass_days(32)
    assert await life.balance() == 4000
    assert len((await life.account())["installments"]) == 10


async def test_a_plan_may_end_its_credits_with_the_subscription(world: World, tmp_path: Path) -> None:
    """S27: `on_cancel = "expire"`: grants and later installments end, once; a top-up stays."""
    life = await a_life(world, plans_file=plans_with(tmp_path, "pro", 'on_cancel = "expire"'))
    invoice = await life.buy("pro", interval="year")
    await life.top_up()
    await life.spend(300, "a")
    await life.post("/api/subscriptions/cancel", when="now")
    assert await life.entries() == [("grant", 2000), ("grant", 1000), ("spend", -300), ("expire", -1700)]
    assert {state for state, _, _ in await grants_of(invoice)} == {"expired", "canceled"}
    await life.pass_days(370)
    assert await life.balance() == 1000
    await assert_books_balance(grants=2)


async def test_a_subscription_end_without_a_webhook_is_found(world: World, tmp_path: Path) -> None:
    """S18: `deleted` never arrives; the sweep reads the subscription when its renewal is overdue."""
    plans = plans_with(tmp_path, "pro", 'on_cancel = "expire"')
    life = await a_life(world, webhooks=False, plans_file=plans)
    await buy_without_webhooks(life, "pro")
    subscription = (await subscription_of(life))["id"]
    await advance(life, 0.1)
    await life.work()
    await life.stripe.api("DELETE", f"subscriptions/{subscription}")
    await life.work()
    assert (await subscription_of(life))["status"] == "active"
    await advance(life, 32)
    await life.paidup.services.reconciler.due.subscriptions()
    assert (await subscription_of(life))["status"] == "canceled"
    assert await life.balance() == 0


# Events in any order


async def test_repeated_subscription_events_in_any_order_change_nothing(life: Life) -> None:
    """S18: a late `created` (incomplete), an `updated` of last month, after the renewal: Stripe is asked."""
    await life.buy("pro")
    await life.change("advanced")
    await life.pass_days(31)
    before, seen = await row_counts(), await life.account()
    rows = await StripeEvent.filter(type__startswith="customer.subscription.")
    late = [json.loads(row.payload) for row in rows] * 10
    random.shuffle(late)
    for number, event in enumerate(late):
        body = forged_event(event["type"], event["data"]["object"], id=f"evt_late_{number}")
        assert (await life.paidup.webhook(body))[0] == 200
    await life.calm()
    await life.work()
    assert await life.account() == {**seen, "activating": None}
    after = await row_counts()
    assert after == {**before, "StripeEvent": before["StripeEvent"] + len(late)}
    await assert_books_balance(grants=3)


async def test_an_ended_subscription_stays_ended_after_late_events(life: Life) -> None:
    """S18: `updated` (active) after `deleted`."""
    await life.buy("pro")
    active = await life.stripe.event("customer.subscription.updated")
    await life.post("/api/subscriptions/cancel", when="now")
    await life.calm()
    body = forged_event(active["type"], active["data"]["object"])
    assert (await life.paidup.webhook(body))[0] == 200
    await life.calm()
    await life.work()
    assert (await subscription_of(life))["status"] == "canceled"


async def test_a_foreign_subscription_has_no_account(life: Life) -> None:
    """S18: for a customer without an account: stored, and nothing else."""
    await life.buy("pro")
    stranger = await life.stripe.customer()
    await life.stripe.subscribe(stranger, "pro")
    await life.calm()
    await life.work()
    assert await Subscription.all().count() == 1
    assert await life.balance() == 2000


async def test_a_subscription_created_in_stripe_is_imported_and_followed(life: Life) -> None:
    """S18: created in Stripe with the account in its metadata: credited, shown and ended like any other."""
    await life.balance()
    made = await life.stripe.subscribe(await life.stripe.customer(), "basic", account=life.customer.name)
    await life.stripe.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    await life.wait_for_balance(500)
    await life.calm()
    await life.work()
    seen = await subscription_of(life)
    assert (seen["id"], seen["status"], seen["plan"]) == (made["id"], "active", "basic")
    _, answer = await life.post("/api/subscriptions/cancel")
    assert answer["subscription"]["cancel_at"] is not None
