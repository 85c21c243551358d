"""Top-ups in the customer's currency, and drafts of theirs that Stripe does not keep."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from paidup.db.models import Account, Watermark
from paidup.errors import StripeUnavailable
from paidup.runtime.clock import now
from paidup.stripe_api.client import RateLimitedClient
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup
from tests.support.read_counts import count_reads
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import a_life, advance


async def drafts(stripe: StripeSide) -> list[Any]:
    listed: list[Any] = (await stripe.api("GET", "invoices?status=draft&limit=100"))["data"]
    pending: list[Any] = (await stripe.api("GET", "invoiceitems?pending=true&limit=100"))["data"]
    return listed + pending


async def top_up(customer: Customer) -> tuple[int, Any]:
    return await customer.call("POST", "/api/top-ups", {"plan": "extra", "quantity": 2})


async def test_a_top_up_can_be_the_first_purchase_whatever_the_accounts_currency(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """Without a currency, Stripe takes the account's default, in which the price is not sold."""
    await stripe_side.conditions(default_currency="eur")
    status, purchase = await top_up(paidup.customer())
    assert status == 201, purchase
    invoice = await stripe_side.api("GET", f"invoices/{purchase['invoice']}")
    assert (invoice["currency"], invoice["amount_due"]) == ("usd", 3000)
    assert await drafts(stripe_side) == []


async def test_a_top_up_is_charged_in_the_customers_currency(world: World) -> None:
    """A customer has one currency, and the top-up's price is sold in it."""
    stripe = world.stripe_side
    for key, amount in (("paidup_pro_monthly", 2700), ("paidup_extra", 1400)):
        price = (await stripe.api("GET", f"prices?lookup_keys[0]={key}"))["data"][0]["id"]
        await stripe.api("POST", f"prices/{price}", **{"currency_options[eur][unit_amount]": str(amount)})
    life = await a_life(world)
    customer = await stripe.customer()
    await Account.create(external_id="ada", stripe_customer=customer)
    card = await stripe.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    form = {"currency": "eur", "default_payment_method": card["id"]}
    await stripe.subscribe(customer, account="ada", payment_behavior="allow_incomplete", **form)
    await life.wait_for_balance(2000)
    invoice = await life.top_up(2)
    shown = await stripe.api("GET", f"invoices/{invoice}")
    assert (shown["currency"], shown["amount_paid"]) == ("eur", 2800)
    assert await life.balance() == 4000
    status, again = await top_up(life.customer)
    assert status == 201
    assert (await top_up(life.customer))[1]["invoice"] == again["invoice"], "the same pending one"
    await assert_books_balance(grants=2)


async def test_a_refused_top_up_leaves_no_draft(paidup: Paidup, stripe_side: StripeSide) -> None:
    """The price was archived: Stripe refuses the item, when the draft is there."""
    extra = (await stripe_side.api("GET", "prices?lookup_keys[0]=paidup_extra"))["data"][0]["id"]
    await stripe_side.api("POST", f"prices/{extra}", active="false")
    for _ in range(3):
        status, problem = await top_up(paidup.customer())
        assert (status, problem["type"].rpartition("/")[2]) == (502, "stripe-refused"), problem
        assert await drafts(stripe_side) == []
    await stripe_side.api("POST", f"prices/{extra}", active="true")
    status, _ = await top_up(paidup.customer())
    assert status == 201
    assert await drafts(stripe_side) == []


@pytest.mark.parametrize("endpoint", ["invoice_items.create", "invoices.finalize"])
@pytest.mark.parametrize("reached", [True, False], ids=["answer lost", "not reached"])
async def test_an_interrupted_top_up_leaves_no_draft(
    paidup: Paidup, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch, endpoint: str, reached: bool
) -> None:
    """Stripe does not answer one step; the next try gets an invoice, and there is one of it."""
    real, failures = RateLimitedClient.call, [endpoint]

    async def call(self: RateLimitedClient, name: str, *arguments: Any, **more: Any) -> Any:
        if name not in failures:
            return await real(self, name, *arguments, **more)
        failures.remove(name)
        if reached:
            await real(self, name, *arguments, **more)
        raise StripeUnavailable("no answer")

    monkeypatch.setattr(RateLimitedClient, "call", call)
    first, _ = await top_up(paidup.customer())
    if first != 201:
        assert first == 503
        assert await drafts(stripe_side) == []
        assert (await top_up(paidup.customer()))[0] == 201
    assert await drafts(stripe_side) == []
    open_ones = (await stripe_side.api("GET", "invoices?status=open"))["data"]
    assert [invoice["amount_due"] for invoice in open_ones] == [3000]


async def test_a_top_up_is_resumed_where_its_draft_could_not_be_deleted(
    paidup: Paidup, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The draft of the failed try becomes the invoice of the next one."""
    real, failing = RateLimitedClient.call, {"invoices.finalize", "invoices.delete", "invoice_items.delete"}

    async def call(self: RateLimitedClient, name: str, *arguments: Any, **more: Any) -> Any:
        if name in failing:
            raise StripeUnavailable("no answer")
        return await real(self, name, *arguments, **more)

    monkeypatch.setattr(RateLimitedClient, "call", call)
    assert (await top_up(paidup.customer()))[0] == 503
    (draft, *items) = await drafts(stripe_side)
    assert items == []
    failing.clear()
    status, purchase = await top_up(paidup.customer())
    assert (status, purchase["invoice"]) == (201, draft["id"])
    assert await drafts(stripe_side) == []


async def test_the_draft_of_a_process_that_died_is_deleted_after_a_day(world: World) -> None:
    """Between two of Stripe's calls. Drafts of other products, and those of today, stay."""
    life, stripe = await a_life(world), world.stripe_side
    customer = await stripe.customer()
    lists = life.paidup.services.reconciler.lists
    price = (await stripe.api("GET", "prices?lookup_keys[0]=paidup_extra"))["data"][0]["id"]

    async def a_draft(**metadata: str) -> str:
        made = await stripe.api("POST", "invoices", customer=customer, **metadata)
        item = {"customer": customer, "invoice": made["id"], "pricing[price]": price}
        await stripe.api("POST", "invoiceitems", **item)
        return str(made["id"])

    ours = {"metadata[paidup_account]": "ada", "metadata[paidup_purchase]": "top_up"}
    foreign, left = await a_draft(), await a_draft(**ours)
    assert await lists.leftover_drafts() == 0
    await advance(life, 2)
    young = await a_draft(**ours)
    assert await lists.leftover_drafts() == 0, "looked today already"
    await Watermark.filter(name="leftover_drafts").update(moved_at=now() - timedelta(days=1, minutes=1))
    before = await count_reads(stripe)
    assert await lists.leftover_drafts() == 1
    assert await count_reads(stripe) - before == 2
    kept = {each.get("invoice") or each["id"] for each in await drafts(stripe)}
    assert (kept, left in kept) == ({foreign, young}, False)
    assert await lists.leftover_drafts() == 0
