"""Free credits cannot be multiplied by quantity or repetition."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from paidup.db.models import Account, CreditGrant, Invoice
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.driver import race
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup, environment
from tests.support.processes import Child
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import Life, a_life, history, plans_with

FREE = """
[[plans]]
id = "free"
name = "Free"
credits = 20
rollover = "expire"
on_cancel = "expire"
[[plans.prices]]
lookup_key = "paidup_free_monthly"
amount_minor = 0
"""
RACES = 40


async def with_a_free_plan(world: World) -> Path:
    """A catalogue with a free plan, whose price Stripe has."""
    form = {"currency": "usd", "unit_amount": "0", "lookup_key": "paidup_free_monthly"}
    more = {"product_data[name]": "Free", "recurring[interval]": "month"}
    await world.stripe_side.api("POST", "prices", **form, **more)
    path = world.folder / "plans.toml"
    path.write_text(PACKAGED_PLANS.read_text() + FREE)
    return path


@pytest.fixture
async def life(world: World) -> Life:
    return await a_life(world, plans_file=await with_a_free_plan(world))


async def take(life: Life, plan: str = "free", **how: Any) -> str:
    """Subscribe to what costs nothing; the invoice."""
    status, purchase = await life.post("/api/subscriptions", plan=plan, **how)
    assert status in (200, 201), purchase
    assert purchase["status"]["status"] == "active"
    return str(purchase["invoice"])


async def cancel_now(life: Life) -> None:
    status, answer = await life.post("/api/subscriptions/cancel", when="now")
    assert status == 200, answer


async def test_a_free_plan_is_limited_to_its_largest_quantity(life: Life) -> None:
    """Refused before Stripe is asked, with the number that may be had; `GET /api/plans` says it as well."""
    before = await life.stripe.calls()
    status, refusal = await life.post("/api/subscriptions", plan="free", quantity=10_000)
    assert (status, refusal["type"].rpartition("/")[2]) == (422, "invalid-input")
    assert "at most 1, not 10000" in refusal["detail"]
    assert await life.stripe.calls() == before
    assert await Invoice.all().count() == 0
    shown = (await life.paidup.get("/api/plans"))[1]["plans"]
    assert {plan["id"]: plan["max_quantity"] for plan in shown} == {
        **dict.fromkeys(["basic", "advanced", "pro", "extra"], 100),
        "free": 1,
    }


async def test_plan_changes_and_top_ups_are_limited_to_the_largest_quantity(life: Life) -> None:
    """And nothing has changed: not the plan, not what is to be paid."""
    await life.buy("basic")
    for path, body in (
        ("/api/subscriptions/change", {"plan": "pro", "quantity": 101}),
        ("/api/subscriptions/change", {"plan": "free", "quantity": 2}),
        ("/api/top-ups", {"plan": "extra", "quantity": 101}),
    ):
        status, refusal = await life.post(path, **body)
        assert (status, refusal["type"].rpartition("/")[2]) == (422, "invalid-input")
        assert "at most" in refusal["detail"]
    assert await Invoice.all().count() == 1
    assert (await life.account())["subscription"]["quantity"] == 1


async def test_a_quantity_set_in_stripe_cannot_be_taken_to_another_plan(
    life: Life,
) -> None:
    """The SaaS sold more seats by itself: they are credited by their money. The customer cannot move them."""
    await life.buy("basic")
    subscription = (await life.account())["subscription"]["id"]
    shape = await life.stripe.api("GET", f"subscriptions/{subscription}")
    item = shape["items"]["data"][0]["id"]
    form = {"items[0][id]": item, "items[0][quantity]": "200", "proration_behavior": "always_invoice"}
    await life.stripe.api("POST", f"subscriptions/{subscription}", **form)
    await life.calm()
    await life.work()
    assert await life.balance() == pytest.approx(200 * 500, abs=200)
    status, refusal = await life.post("/api/subscriptions/change", plan="pro")
    assert (status, "at most 100, not 200" in refusal["detail"]) == (422, True)


async def test_an_amount_above_stripes_limit_fails_without_a_stripe_call(
    world: World, tmp_path: Path
) -> None:
    """99,999,999 is the most: https://docs.stripe.com/currencies."""
    plans = plans_with(tmp_path, "pro", "max_quantity = 3400")
    plans.write_text(plans.read_text().replace("amount_minor = 1500", "amount_minor = 1500000"))
    dear = {"currency": "usd", "unit_amount": 1_500_000, "product_data[name]": "Extra credits"}
    await world.stripe_side.api(
        "POST", "prices", lookup_key="paidup_extra", transfer_lookup_key="true", **dear
    )
    life = await a_life(world, plans_file=plans)
    before = await life.stripe.calls()
    status, refusal = await life.post("/api/top-ups", plan="extra", quantity=67)
    assert (status, "at most 66, not 67" in refusal["detail"]) == (422, True)
    assert await life.stripe.calls() == before


async def test_repeating_a_canceled_free_plan_gives_nothing_within_its_period(
    life: Life,
) -> None:
    """Each time a grant of 0, and the ledger says why; then the regular grants come again."""
    await take(life)
    for _ in range(3):
        await cancel_now(life)
        await take(life)
        await life.calm()
    grants = [(credits, reason) for kind, credits, reason in await life.reasons() if kind == "grant"]
    assert grants[0] == (20, "free, paid")
    assert grants[1:] == [(0, "free, paid; without 20 free credits, which are granted once per period")] * 3
    assert await life.balance() == 0, "the first ended with its subscription, as this plan says"
    await life.pass_days(31)
    assert await life.balance() == 20
    await life.pass_days(31)
    assert [credits for kind, credits in await life.entries() if kind == "grant"] == [20, 0, 0, 0, 20, 20]
    await assert_books_balance(grants=6)


async def test_a_free_plan_with_a_quantity_set_in_stripe_gives_one(life: Life) -> None:
    """Where there is no money, it decides nothing."""
    await life.balance()
    customer = await life.stripe.customer()
    await life.stripe.subscribe(customer, "free", life.customer.name, **{"items[0][quantity]": "10000"})
    await life.calm()
    assert await life.balance() == 20
    await assert_books_balance(grants=1)


async def test_a_trial_and_a_full_discount_give_credits_once_per_period(world: World) -> None:
    """Made by the SaaS, cancelled by the customer, and made again: it gives nothing more."""
    plans = await with_a_free_plan(world)
    plans.write_text(plans.read_text().replace("credits = 2000", "credits = 2000\ntrial_credits = 50"))
    life = await a_life(world, plans_file=plans)
    await life.balance()
    customer = await life.stripe.customer()
    coupon = (await life.stripe.api("POST", "coupons", percent_off=100, duration="forever"))["id"]
    for form in ({"trial_period_days": "14"}, {"discounts[0][coupon]": coupon}) * 2:
        made = await life.stripe.subscribe(customer, "pro", life.customer.name, **form)
        await life.calm()
        await life.stripe.api("DELETE", f"subscriptions/{made['id']}")
    assert await life.entries() == [("grant", 50), ("grant", 1950), ("grant", 0), ("grant", 0)]
    await take(life)
    assert await life.balance() == 2000
    await assert_books_balance(grants=5)


async def test_repeating_a_late_upgrade_in_full_gives_nothing(world: World, tmp_path: Path) -> None:
    """One quantity, one difference, once in a period, whether taken back or cancelled and bought again."""
    plans = tmp_path / "plans.toml"
    plans.write_text(PACKAGED_PLANS.read_text().replace("\ncredits = ", '\nupgrade = "full"\ncredits = '))
    plans.write_text(plans.read_text().replace('\nupgrade = "full"\ncredits = 1000', "\ncredits = 1000"))
    life = await a_life(world, plans_file=plans)
    await life.buy("basic")
    status, refusal = await life.post("/api/subscriptions/change", plan="basic", quantity=10_000)
    assert (status, "at most 1, not 10000" in refusal["detail"]) == (422, True)
    ends = (await life.account())["subscription"]["current_period_end"]
    left = datetime.fromisoformat(ends) - life.clock()
    await life.pass_days(left.total_seconds() / 86400 - 1 / 24)
    for plan in ("pro", "basic", "pro"):
        await life.change(plan)
        await life.calm()
    granted = [credits for kind, credits in await life.entries() if kind == "grant"]
    assert granted == [500, 1500, 0, 0]
    await assert_books_balance()


async def test_free_invoices_in_the_other_order_give_the_same_credits(
    world: World, stripe_side: StripeSide
) -> None:
    """The one that Stripe made first has the credits; what the other was given too early is corrected."""
    paidup = await world.server(webhooks=False, plans_file=await with_a_free_plan(world))
    (first,), (second,) = await _free_invoices(stripe_side, paidup, accounts=1)
    for facts in (second, first, second):
        await paidup.services.settlement.settle(facts, Source.WEBHOOK)
    (account,) = await Account.all()
    assert account.balance == 20
    assert await history(account) == [("grant", 20), ("grant", 20), ("adjust", -20)]
    given = {grant.invoice_id: grant.credits for grant in await CreditGrant.all()}
    assert first.invoice
    assert second.invoice
    assert given == {first.invoice.id: 20, second.invoice.id: 0}
    await assert_books_balance(grants=2)


@pytest.mark.timeout(180)
async def test_concurrent_settlements_of_two_free_invoices_give_one_grant(
    world: World, stripe_side: StripeSide
) -> None:
    """The account's row is locked: one grant for each account, whichever process comes first."""
    plans = await with_a_free_plan(world)
    paidup = await world.server(webhooks=False, plans_file=plans)
    here, there = await _free_invoices(stripe_side, paidup)
    file, place = world.folder / "facts.json", f"race:{uuid4().hex}"
    file.write_bytes(msgspec.json.encode(there))
    env = environment(**world.given(plans_file=plans))
    command = ["-m", "tests.support.driver", "race", str(file), place]
    child = Child(command, env, world.folder / "driver.log", forked=True)
    try:
        await race(paidup.services, here, Source.WEBHOOK, place)
    except TimeoutError:
        raise AssertionError(child.output) from None
    assert await asyncio.to_thread(child.process.wait, 30) == 0, child.output
    assert [account.balance for account in await Account.all()] == [20] * RACES
    assert await CreditGrant.filter(credits=20).count() == RACES
    await assert_books_balance(grants=2 * RACES)


async def _free_invoices(
    stripe_side: StripeSide, paidup: Paidup, accounts: int = RACES
) -> tuple[list[PaymentFacts], list[PaymentFacts]]:
    """Two paid invoices of a free plan for each account, of two subscriptions."""
    found: tuple[list[PaymentFacts], list[PaymentFacts]] = ([], [])
    for number in range(accounts):
        account = await paidup.services.accounts.get(f"user-{number}")
        customer = await stripe_side.customer()
        await Account.filter(id=account.id).update(stripe_customer=customer)
        for of_one in found:
            made = await stripe_side.subscribe(customer, "free")
            shape = await paidup.services.gateway.read_invoice(made["latest_invoice"]["id"])
            of_one.append(shape.facts())
    return found
