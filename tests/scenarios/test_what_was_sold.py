"""What was sold is not what is sold: archived prices, moved lookup keys, other currencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paidup.db.models import Account, KnownPrice, StripeEvent
from paidup.reconciliation.alarms import take_snapshot
from paidup.stripe_api import prices
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import Life, a_life, plans_with
from tests.support.waiting import wait_until

PRO = "paidup_pro_monthly"
OLD = {"currency": "usd", "recurring[interval]": "month"}


async def price_of(stripe: StripeSide, lookup_key: str = PRO) -> Any:
    return (await stripe.api("GET", f"prices?lookup_keys[0]={lookup_key}"))["data"][0]


async def subscriber(stripe: StripeSide, price: str, **form: str) -> Any:
    """Someone who subscribed and paid before Paidup was there; the subscription."""
    customer = await stripe.customer()
    card = await stripe.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    wanted = {"items[0][price]": price, "default_payment_method": card["id"]}
    wanted |= {"metadata[paidup_account]": "ada", **form}
    made = await stripe.api("POST", "subscriptions", customer=customer, **wanted)
    assert made["status"] == "active"
    return made


async def renewed(world: World, **changes: Any) -> Life:
    """A server that starts now, and the subscriber's next month."""
    life = await a_life(world, **changes)
    await Account.create(external_id="ada")
    await life.pass_days(32)
    return life


async def parked(error: str) -> StripeEvent:
    async def found() -> StripeEvent | None:
        return await StripeEvent.filter(type="invoice.paid", error=error).first()

    row = await wait_until(found)
    assert row is not None
    return row


async def test_an_archived_price_renews_with_its_plans_credits(world: World) -> None:
    """S51: it was archived before the server first saw it, and can be bought by nobody else."""
    price = await price_of(world.stripe_side)
    await subscriber(world.stripe_side, price["id"])
    await world.stripe_side.api("POST", f"prices/{price['id']}", active="false")
    life = await renewed(world)
    await life.wait_for_balance(2000)
    status, problem = await life.paidup.customer("bob").call("POST", "/api/subscriptions", {"plan": "pro"})
    assert (status, problem["type"].rpartition("/")[2]) == (503, "not-configured"), problem
    await assert_books_balance(grants=1)


async def test_an_old_price_whose_lookup_key_moved_renews_by_its_product(world: World) -> None:
    """S51: the key moved to a dearer price of the same product before the server first started."""
    price = await price_of(world.stripe_side)
    await subscriber(world.stripe_side, price["id"])
    dearer = {**OLD, "unit_amount": 3900, "product": price["product"]}
    await world.stripe_side.api("POST", "prices", lookup_key=PRO, transfer_lookup_key="true", **dearer)
    life = await renewed(world, price_source="stripe")
    await life.wait_for_balance(2000)
    kept = await KnownPrice.get(id=price["id"])
    assert (kept.plan, kept.unit_amount_minor, kept.lookup_key) == ("pro", 2900, "")
    assert await world.stripe_side.calls("GET /v1/prices/{id}") == 1, "read once, then kept"


async def test_an_old_price_renews_by_the_plan_that_its_product_names(world: World) -> None:
    """S51: a product of `stripe-setup`, none of whose prices is in the plans file."""
    form = {**OLD, "unit_amount": 2500, "product_data[name]": "Pro, early birds"}
    price = await world.stripe_side.api(
        "POST", "prices", **form, **{"product_data[metadata][paidup_plan]": "pro"}
    )
    await subscriber(world.stripe_side, price["id"])
    life = await renewed(world)
    await life.wait_for_balance(2000)


async def test_an_old_price_renews_by_a_previous_lookup_key(world: World, tmp_path: Path) -> None:
    """S51: whatever it cost, since the plans file names it."""
    form = {**OLD, "unit_amount": 100, "lookup_key": "pro_2019", "product_data[name]": "Old"}
    price = await world.stripe_side.api("POST", "prices", **form)
    await subscriber(world.stripe_side, price["id"])
    plans = plans_with(tmp_path, "pro", 'previous_lookup_keys = ["pro_2019"]')
    life = await renewed(world, plans_file=plans)
    await life.wait_for_balance(2000)


@pytest.mark.parametrize(
    "form",
    [
        {**OLD, "unit_amount": 29000},
        {**OLD, "unit_amount": 100},
        {**OLD, "unit_amount": 2900, "recurring[interval_count]": 3},
    ],
    ids=["a year's amount each month", "nearly free", "each quarter"],
)
async def test_a_price_of_a_plans_product_that_makes_no_sense_is_parked(
    world: World, form: dict[str, Any]
) -> None:
    """S51: nothing is granted, and the event is kept and shown."""
    life = await a_life(world)
    await Account.create(external_id="ada")
    pro = await price_of(world.stripe_side)
    price = await world.stripe_side.api("POST", "prices", product=pro["product"], **form)
    await subscriber(world.stripe_side, price["id"])
    await parked("parked: unknown_price")
    assert await life.balance() == 0
    assert price["id"] in life.paidup.services.prices.refused


async def in_currency(stripe: StripeSide, currency: str, unit_amount: int, lookup_key: str = PRO) -> str:
    price = await price_of(stripe, lookup_key)
    option = {f"currency_options[{currency}][unit_amount]": str(unit_amount)}
    await stripe.api("POST", f"prices/{price['id']}", **option)
    return str(price["id"])


@pytest.mark.parametrize(
    ("currency", "unit_amount"), [("krw", 39000), ("jpy", 4500), ("eur", 2700), ("inr", 240000)]
)
async def test_a_payment_in_another_currency_gives_the_plans_credits(
    world: World, currency: str, unit_amount: int
) -> None:
    """The price's option in that currency counts: https://docs.stripe.com/payments/currencies."""
    price = await in_currency(world.stripe_side, currency, unit_amount)
    await subscriber(world.stripe_side, price, currency=currency)
    life = await renewed(world)
    await life.wait_for_balance(2000)
    await assert_books_balance(grants=1)


async def test_a_currency_that_came_later_is_read_once(world: World) -> None:
    life = await a_life(world)
    await Account.create(external_id="ada")
    price = await in_currency(world.stripe_side, "inr", 240000)
    await world.stripe_side.control("calls/reset")
    await subscriber(world.stripe_side, price, currency="inr")
    await life.wait_for_balance(2000)
    assert await world.stripe_side.calls("GET /v1/prices/{id}") == 1
    assert (await KnownPrice.get(id=price)).currency_options == {"inr": 240000}


async def test_an_upgrade_in_another_currency_gives_the_difference(world: World) -> None:
    """A proration line's own unit amount is prorated, and never the price."""
    life = await a_life(world)
    await Account.create(external_id="ada")
    basic = await in_currency(world.stripe_side, "inr", 75000, "paidup_basic_monthly")
    pro = await in_currency(world.stripe_side, "inr", 240000)
    made = await subscriber(world.stripe_side, basic, currency="inr")
    await life.wait_for_balance(500)
    form = {"items[0][id]": made["items"]["data"][0]["id"], "items[0][price]": pro}
    await world.stripe_side.api(
        "POST", f"subscriptions/{made['id']}", proration_behavior="always_invoice", **form
    )
    await life.wait_for_balance(2000)


async def test_without_the_prices_amount_nothing_is_granted_until_it_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The price is not sold in the invoice's currency, as far as Stripe says: parked, with an alarm."""
    monkeypatch.setattr(prices, "READ_AGAIN_AFTER_S", 0)
    life = await a_life(world)
    await Account.create(external_id="ada")
    price = await price_of(world.stripe_side)
    await world.stripe_side.conditions(webhook_drop=True)
    made = await subscriber(world.stripe_side, price["id"])
    event = await life.stripe.event("invoice.paid", made["latest_invoice"])
    status, answer = await life.paidup.webhook(in_rupees(event))
    assert (status, answer["outcome"]) == (200, "unknown_currency")
    assert await life.balance() == 0
    row = await StripeEvent.get(id=event["id"])
    assert (row.error, row.handled_at) == ("parked: unknown_currency", None)
    assert "unknown_currency" in {alarm.name for alarm in (await take_snapshot()).alarms}
    await in_currency(world.stripe_side, "inr", 240000)
    await life.paidup.services.events.retry(row)
    assert await life.balance() == 2000
    assert "unknown_currency" not in {alarm.name for alarm in (await take_snapshot()).alarms}


def in_rupees(event: Any) -> bytes:
    """The same event, as if the invoice had been paid in rupees."""
    text = json.dumps(event).replace('"usd"', '"inr"').replace(": 2900", ": 240000")
    return text.encode()


@pytest.mark.parametrize(("inclusive", "paid"), [("false", 3480), ("true", 2900)])
async def test_a_tax_changes_no_credits(world: World, inclusive: str, paid: int) -> None:
    """The line's amount includes an inclusive tax, as the price does, and never an exclusive one.

    A refund takes back its share of all that was paid.
    """
    life = await a_life(world)
    await Account.create(external_id="ada")
    stripe = world.stripe_side
    rate = await stripe.api("POST", "tax_rates", display_name="VAT", percentage="20", inclusive=inclusive)
    made = await subscriber(stripe, (await price_of(stripe))["id"], **{"default_tax_rates[0]": rate["id"]})
    await life.wait_for_balance(2000)
    invoice = await stripe.api("GET", f"invoices/{made['latest_invoice']}")
    assert (invoice["amount_paid"], invoice["lines"]["data"][0]["amount"]) == (paid, 2900)
    assert invoice["total_taxes"][0]["amount"] == paid - invoice["total_excluding_tax"]
    link = (await stripe.api("GET", f"invoice_payments?invoice={invoice['id']}"))["data"][0]
    intent = link["payment"]["payment_intent"]
    await stripe.api("POST", "refunds", payment_intent=intent, amount=paid // 2)
    await life.wait_for_balance(1000)
