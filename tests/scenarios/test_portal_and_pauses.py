"""What the customer portal, the dashboard and support do to a subscription, and what Stripe refuses then."""

from __future__ import annotations

from typing import Any

import pytest

from paidup.db.models import Invoice
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import Life, a_life, subscription_of


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def in_stripe(life: Life, subscription: str, **form: Any) -> Any:
    """Change the subscription in Stripe, until every event of it is handled."""
    changed = await life.stripe.api("POST", f"subscriptions/{subscription}", **form)
    await life.calm()
    await life.work()
    return changed


async def period_end_of(life: Life, subscription: str) -> int:
    read = await life.stripe.api("GET", f"subscriptions/{subscription}")
    return int(read["items"]["data"][0]["current_period_end"])


@pytest.mark.parametrize("how", ["portal", "api", "both"])
async def test_an_end_is_shown_and_undone_however_it_was_scheduled(life: Life, how: str) -> None:
    """The portal sets `cancel_at` alone, the API `cancel_at_period_end` alone, and either leaves the other.

    https://docs.stripe.com/billing/subscriptions/billing-mode/compare
    """
    await life.buy("pro")
    subscription = (await subscription_of(life))["id"]
    if how != "portal":
        await life.post("/api/subscriptions/cancel")
    if how != "api":
        await in_stripe(life, subscription, cancel_at=await period_end_of(life, subscription))
    seen = await subscription_of(life)
    assert seen["cancel_at"] == seen["current_period_end"]
    status, answer = await life.post("/api/subscriptions/resume")
    assert (status, answer["subscription"]["cancel_at"]) == (200, None)
    read = await life.stripe.api("GET", f"subscriptions/{subscription}")
    assert (read["cancel_at"], read["cancel_at_period_end"]) == (None, False)
    await life.pass_days(32)
    assert (await subscription_of(life))["status"] == "active"
    assert await life.balance() == 4000


async def test_the_earlier_of_two_scheduled_ends_is_shown(life: Life) -> None:
    await life.buy("pro")
    subscription = (await subscription_of(life))["id"]
    end = await period_end_of(life, subscription)
    await in_stripe(life, subscription, cancel_at=end + 40 * 24 * 3600)
    later = (await subscription_of(life))["cancel_at"]
    _, answer = await life.post("/api/subscriptions/cancel")
    seen = answer["subscription"]
    assert seen["cancel_at"] == seen["current_period_end"] < later
    await life.pass_days(32)
    assert (await subscription_of(life))["status"] == "canceled"


async def test_a_paused_subscription_gives_nothing_until_it_resumes(life: Life) -> None:
    """Its credits stay; no plan change is accepted; the payment that resumes it is credited."""
    await life.buy("pro")
    subscription = (await subscription_of(life))["id"]
    await life.stripe.api("POST", f"subscriptions/{subscription}/pause")
    await life.calm()
    await life.work()
    assert (await subscription_of(life))["status"] == "paused"
    status, problem = await life.post("/api/subscriptions/change", plan="basic")
    assert (status, problem["type"].rpartition("/")[2]) == (409, "change-refused")
    assert problem["reason"] == "paused"
    status, problem = await life.post("/api/subscriptions", plan="basic")
    assert (status, problem["subscriptions"][0]["status"]) == (409, "paused")
    await life.pass_days(40)
    assert await life.balance() == 2000
    await life.stripe.api("POST", f"subscriptions/{subscription}/resume")
    await life.wait_for_balance(4000)
    await life.calm()
    await life.work()
    assert (await subscription_of(life))["status"] == "active"
    await assert_books_balance(grants=2)


async def test_a_pause_without_a_webhook_is_found(world: World) -> None:
    life = await a_life(world, webhooks=False)
    await life.buy_by_hand("pro")
    await life.work()
    subscription = (await subscription_of(life))["id"]
    await life.stripe.api("POST", f"subscriptions/{subscription}/pause")
    await life.deliver("customer.subscription.paused", subscription)
    await life.work()
    assert (await subscription_of(life))["status"] == "paused"
    await life.stripe.api("POST", f"subscriptions/{subscription}/resume")
    await life.deliver("customer.subscription.resumed", subscription)
    await life.work()
    assert (await subscription_of(life))["status"] == "active"


@pytest.mark.parametrize("behavior", ["void", "mark_uncollectible"])
async def test_paused_collection_gives_nothing_and_is_shown(life: Life, behavior: str) -> None:
    """The subscription stays active; renewals that nobody pays give nothing, and those after the pause do."""
    await life.buy("pro")
    subscription = (await subscription_of(life))["id"]
    await in_stripe(life, subscription, **{"pause_collection[behavior]": behavior})
    seen = await subscription_of(life)
    assert (seen["status"], seen["collection_paused"]) == ("active", True)
    status, problem = await life.post("/api/subscriptions/change", plan="basic")
    assert (status, problem["reason"]) == (409, "collection_paused")
    await life.pass_days(32)
    assert await life.balance() == 2000
    assert (await life.account())["activating"] is None
    await in_stripe(life, subscription, pause_collection="")
    assert (await subscription_of(life))["collection_paused"] is False
    await life.pass_days(31)
    assert await life.balance() == 4000
    await assert_books_balance(grants=2)


async def test_a_subscription_with_invoices_by_email_is_not_changed_here(life: Life) -> None:
    """Stripe takes no change of it that waits for its payment: 409, and nothing is changed or billed."""
    await life.balance()
    customer = await life.stripe.customer()
    made = await life.stripe.subscribe(
        customer, "basic", life.customer.name, collection_method="send_invoice", days_until_due=30
    )
    await life.calm()
    await life.work()
    status, problem = await life.post("/api/subscriptions/change", plan="pro")
    assert (status, problem["type"].rpartition("/")[2]) == (409, "change-refused")
    assert problem["reason"] == "send_invoice"
    assert await life.balance() == 0
    invoice = made["latest_invoice"]["id"]
    await life.stripe.api("POST", f"invoices/{invoice}/pay", paid_out_of_band="true")
    await life.wait_for_balance(500)
    _, answer = await life.post("/api/subscriptions/cancel", when="now")
    assert answer["subscription"]["status"] == "canceled"
    assert await Invoice.all().count() == 1
