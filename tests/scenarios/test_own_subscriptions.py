"""Which subscriptions are Paidup's: those alone are shown, changed, cancelled, or a reason to refuse."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from paidup.db.models import CreditGrant, Subscription
from tests.conftest import World
from tests.support.installation import began
from tests.support.ledger_asserts import assert_books_balance
from tests.support.subscription_lifecycle import Life, a_life, subscription_of
from tests.support.waiting import wait_until

TEN_DAYS = timedelta(days=10)


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world)


async def subscribe_to_another_product(life: Life, customer: str) -> Any:
    """A paid subscription of this customer to a product that is not in the catalogue."""
    price = await life.stripe.api(
        "POST",
        "prices",
        **{
            "currency": "usd",
            "unit_amount": 500,
            "recurring[interval]": "month",
            "product_data[name]": "Support plan",
        },
    )
    made = await life.stripe.subscribe(customer, **{"items[0][price]": price["id"]})
    await life.stripe.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    return made


async def subscribe_in_stripe(life: Life, customer: str, plan: str = "pro", **form: Any) -> Any:
    """A paid subscription to a plan, made in Stripe without naming the account."""
    made = await life.stripe.subscribe(customer, plan, **form)
    await life.stripe.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    return made


async def at_stripe(life: Life, subscription: str) -> Any:
    return await life.stripe.api("GET", f"subscriptions/{subscription}")


def kind_of(problem: Any) -> str:
    return str(problem["type"].rpartition("/")[2])


async def test_another_products_subscription_is_never_touched(life: Life) -> None:
    """S52: newer than ours, on the same customer; each call acts on ours, the other one stays as it is."""
    await life.buy("pro")
    own = (await subscription_of(life))["id"]
    customer = str((await life.row()).stripe_customer)
    other = (await subscribe_to_another_product(life, customer))["id"]
    await life.calm()
    await life.work()
    before = await at_stripe(life, other)
    assert before["status"] == "active"
    seen = await life.account()
    assert [each["id"] for each in seen["subscriptions"]] == [own]
    assert await life.change("basic")
    _, answer = await life.post("/api/subscriptions/cancel")
    assert answer["subscription"]["id"] == own
    _, answer = await life.post("/api/subscriptions/resume")
    assert (answer["subscription"]["id"], answer["subscription"]["plan"]) == (own, "basic")
    _, answer = await life.post("/api/subscriptions/cancel", when="now")
    assert (answer["subscription"]["id"], answer["subscription"]["status"]) == (own, "canceled")
    status, problem = await life.post("/api/subscriptions/cancel", subscription=other)
    assert (status, kind_of(problem)) == (404, "not-found")
    for path in ("cancel", "resume"):
        status, problem = await life.post(f"/api/subscriptions/{path}")
        assert (status, kind_of(problem)) == (409, "not-subscribed")
    await life.calm()
    await life.work()
    assert await at_stripe(life, other) == before
    assert not await Subscription.exists(id=other)


async def test_another_products_subscription_is_no_reason_to_refuse(life: Life) -> None:
    """S52: a top-up bought here, a subscription to something else; a plan can be bought."""
    await life.top_up()
    customer = str((await life.row()).stripe_customer)
    await subscribe_to_another_product(life, customer)
    await life.calm()
    await life.work()
    assert await subscription_of(life) is None
    await life.buy("pro")
    await life.calm()
    await life.work()
    assert (await subscription_of(life))["plan"] == "pro"
    await assert_books_balance(grants=2)


async def test_an_existing_subscriber_is_taken_up_and_sold_nothing(world: World) -> None:
    """S51: subscribed and paid ten days before this server first started; only what comes is credited."""
    customer = await world.stripe_side.customer()
    made = await world.stripe_side.subscribe(customer, "pro")
    await world.stripe_side.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    await world.stripe_side.control("clock", {"advance_seconds": 10 * 24 * 3600})
    life = await a_life(world, webhooks=False)
    life.clock.ahead += TEN_DAYS
    await began(world, life.clock())
    tied = {"stripe_customer": customer}
    status, problem = await life.customer.call("POST", "/api/subscriptions", {"plan": "basic"}, **tied)
    assert (status, kind_of(problem)) == (409, "already-subscribed")
    assert problem["subscriptions"] == [{"id": made["id"], "plan": "pro", "status": "active"}]
    await life.work()
    seen = await life.account()
    assert (seen["balance"], seen["subscription"]["id"]) == (0, made["id"])
    assert (seen["subscription"]["plan"], seen["subscription"]["status"]) == ("pro", "active")
    _, answer = await life.post("/api/subscriptions/cancel", when="now")
    await life.deliver("customer.subscription.deleted", made["id"])
    await life.work()
    assert (answer["subscription"]["status"], await life.balance()) == ("canceled", 0)
    assert not await CreditGrant.exists()


async def test_a_taken_up_subscription_is_credited_when_it_renews(world: World) -> None:
    """S51: the payments that come after it was taken up give the plan's credits."""
    customer = await world.stripe_side.customer()
    saved = {"payment_settings[save_default_payment_method]": "on_subscription"}
    made = await world.stripe_side.subscribe(customer, "pro", **saved)
    await world.stripe_side.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    life = await a_life(world, webhooks=False)
    await began(world, life.clock() + timedelta(minutes=1))
    status, _ = await life.customer.call(
        "POST", "/api/subscriptions", {"plan": "pro"}, stripe_customer=customer
    )
    assert (status, await life.balance()) == (409, 0)
    await life.pass_days(32)
    assert await life.balance() == 2000
    await assert_books_balance(grants=1)


@pytest.mark.parametrize("call", ["buy", "cancel"])
async def test_a_payment_whose_webhook_is_late_is_credited_with_the_take_up(world: World, call: str) -> None:
    """S51: bought by a Payment Link a moment ago; the customer's next call meets the subscription first."""
    life = await a_life(world, webhooks=False)
    customer = await world.stripe_side.customer()
    made = await world.stripe_side.subscribe(customer, "pro", life.customer.name)
    await world.stripe_side.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    path, body = ("", {"plan": "basic"}) if call == "buy" else ("/cancel", {})
    tied = {"stripe_customer": customer}
    await life.customer.call("POST", f"/api/subscriptions{path}", body, **tied)
    assert await life.balance() == 2000
    await life.deliver("invoice.paid", made["latest_invoice"]["id"])
    assert await life.balance() == 2000
    await assert_books_balance(grants=1)


@pytest.mark.parametrize(("paid", "credits"), [("before", 0), ("since", 2000)])
async def test_a_subscription_that_an_event_registers_is_credited_what_was_paid_here(
    world: World, paid: str, credits: int
) -> None:
    """S51: of a lost webhook or of the past: it is of the past if it was paid before the installation."""
    life = await a_life(world, webhooks=False)
    await life.balance()
    saved = {"payment_settings[save_default_payment_method]": "on_subscription"}
    made = await world.stripe_side.subscribe(
        await world.stripe_side.customer(), "pro", life.customer.name, **saved
    )
    await world.stripe_side.confirm(made["latest_invoice"]["confirmation_secret"]["client_secret"])
    if paid == "before":
        await began(world, life.clock() + timedelta(minutes=1))
    for _ in range(2):
        await life.deliver("customer.subscription.updated", made["id"])
        await Subscription.all().update(refresh_at=life.clock())
        await life.work()
        assert await life.balance() == credits
    await life.pass_days(32)
    assert await life.balance() == credits + 2000


async def test_a_pending_payment_is_not_resumed_once_another_subscription_runs(life: Life) -> None:
    """S51: begun here, then bought by a Payment Link: the first one is not offered again."""
    first = await life.customer.buy("pro")
    customer = str((await life.row()).stripe_customer)
    bought = await subscribe_in_stripe(life, customer, "basic")
    status, problem = await life.post("/api/subscriptions", plan="pro")
    assert (status, kind_of(problem)) == (409, "already-subscribed")
    assert [each["id"] for each in problem["subscriptions"]] == [bought["id"]]
    assert (await life.status(first["invoice"]))["status"] == "open"


async def test_abandoned_attempts_hide_no_running_subscription(life: Life) -> None:
    """More attempts than one page of Stripe's list holds, all newer than the running subscription."""
    await life.buy("pro")
    customer = str((await life.row()).stripe_customer)
    for _ in range(101):
        await life.stripe.subscribe(customer, "basic")
    status, problem = await life.post("/api/subscriptions", plan="basic")
    assert (status, kind_of(problem)) == (409, "already-subscribed")
    _, answer = await life.post("/api/subscriptions/cancel")
    assert (answer["subscription"]["plan"], answer["subscription"]["status"]) == ("pro", "active")


async def test_of_several_subscriptions_the_request_says_which(life: Life) -> None:
    """Each is followed by its own id; without one, the answer lists them and nothing is changed."""
    await life.buy("pro")
    first = (await subscription_of(life))["id"]
    customer = str((await life.row()).stripe_customer)
    second = (await subscribe_in_stripe(life, customer, "basic"))["id"]
    await life.wait_for_balance(2500)
    await life.calm()

    async def followed() -> bool:
        await life.work()
        seen = await life.account()
        plans = {each["id"]: each["plan"] for each in seen["subscriptions"]}
        return plans == {first: "pro", second: "basic"}

    await wait_until(followed)
    for path, body in (("cancel", {"when": "now"}), ("resume", {}), ("change", {"plan": "advanced"})):
        status, problem = await life.post(f"/api/subscriptions/{path}", **body)
        assert (status, kind_of(problem)) == (409, "several-subscriptions")
        named = {each["id"]: each["plan"] for each in problem["subscriptions"]}
        assert named == {first: "pro", second: "basic"}
    status, problem = await life.post("/api/subscriptions/cancel", subscription="sub_of_nobody")
    assert (status, kind_of(problem)) == (404, "not-found")
    _, answer = await life.post("/api/subscriptions/cancel", subscription=first, when="now")
    assert (answer["subscription"]["id"], answer["subscription"]["status"]) == (first, "canceled")
    assert (await at_stripe(life, second))["status"] == "active"
    _, answer = await life.post("/api/subscriptions/cancel")
    assert answer["subscription"]["id"] == second


async def test_different_plans_requested_at_once_conflict_and_never_fail(life: Life) -> None:
    """S08: each request gives up the other's payment, and finds it given up: 409 at most."""
    await life.customer.buy("pro")
    wanted = ["basic", "pro", "advanced"] * 4
    answers = await asyncio.gather(*(life.post("/api/subscriptions", plan=plan) for plan in wanted))
    assert {status for status, _ in answers} <= {200, 201, 409}, answers
    await life.calm()
    status, purchase = await life.post("/api/subscriptions", plan="pro")
    assert status in (200, 201), purchase
    await life.pay(purchase)
    assert await life.balance() == 2000
    await assert_books_balance(grants=1)
