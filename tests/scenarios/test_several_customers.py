"""S51: an account with several Stripe customers.

Without `customer`, Checkout in subscription mode makes a new customer for each session, and so does each
use of a Payment Link or a pricing table: https://docs.stripe.com/payments/checkout/how-checkout-works.
"""

from __future__ import annotations

from typing import Any

import pytest

from paidup.db.customers import account_id_of, customers_of
from paidup.db.models import Account, StripeEvent, Subscription
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup
from tests.support.stripe_sandbox import StripeSide, forged_event
from tests.support.waiting import wait_until


async def subscribed(
    stripe_side: StripeSide, customer: str, account: str | None = None, plan: str = "pro"
) -> Any:
    """A subscription made past Paidup, paid at once with a stored card; its first invoice."""
    card = await stripe_side.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    form = {"default_payment_method": card["id"], "payment_behavior": "allow_incomplete"}
    made = await stripe_side.subscribe(customer, plan, account, **form)
    assert made["status"] == "active"
    return made["latest_invoice"]


async def paid_body(stripe_side: StripeSide, invoice: str) -> bytes:
    """The `invoice.paid` of this invoice, as it was delivered."""
    event = await stripe_side.event("invoice.paid", invoice)
    return forged_event("invoice.paid", event["data"]["object"])


async def top_up_paid(stripe_side: StripeSide, customer: str, metadata: dict[str, str]) -> Any:
    """An invoice for the packaged top-up, made past Paidup, that the customer has paid."""
    prices = await stripe_side.api("GET", "prices?lookup_keys[0]=paidup_extra")
    form = {f"metadata[{name}]": value for name, value in metadata.items()}
    draft = await stripe_side.api("POST", "invoices", customer=customer, **form)
    item = {"customer": customer, "invoice": draft["id"], "pricing[price]": prices["data"][0]["id"]}
    await stripe_side.api("POST", "invoiceitems", **item)
    await stripe_side.api("POST", f"invoices/{draft['id']}/finalize")
    card = await stripe_side.api("POST", "payment_methods/pm_card_visa/attach", customer=customer)
    return await stripe_side.api("POST", f"invoices/{draft['id']}/pay", payment_method=card["id"])


async def known(paidup: Paidup, name: str = "ada") -> Customer:
    """A customer whom Paidup knows, and who has bought pro with a Stripe customer of their own."""
    customer = paidup.customer(name)
    await customer.buy("pro")
    return customer


async def own_customer(name: str) -> str:
    found = (await Account.get(external_id=name)).stripe_customer
    assert found is not None
    return found


async def test_metadata_names_the_account_of_a_new_customer(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S51: the account has a customer already, and pays with another one: credited, and remembered."""
    ada = await known(paidup)
    first = await own_customer("ada")
    second = await stripe_side.customer()
    invoice = await subscribed(stripe_side, second, "ada")
    await wait_until(lambda: ada_has(ada, 2000))
    account = await Account.get(external_id="ada")
    assert account.stripe_customer == first, "new purchases go on with it"
    assert await customers_of(account) == [first, second]
    status, adopted = await ada.call("POST", "/api/invoices", {"invoice": invoice["id"]})
    assert (status, adopted["status"]["status"]) == (200, "active")
    await assert_books_balance(grants=1)


async def ada_has(ada: Customer, credits: int) -> bool:
    return await ada.balance() == credits


async def test_later_invoices_of_a_remembered_customer_need_no_metadata(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S51: a renewal whose subscription lost its metadata, and another subscription without any."""
    ada = await known(paidup)
    second = await stripe_side.customer()
    invoice = await subscribed(stripe_side, second, "ada")
    await wait_until(lambda: ada_has(ada, 2000))
    subscription = invoice["parent"]["subscription_details"]["subscription"]
    await stripe_side.api("POST", f"subscriptions/{subscription}", **{"metadata[paidup_account]": ""})
    await stripe_side.control(f"subscriptions/{subscription}/renew")
    await wait_until(lambda: ada_has(ada, 4000))
    await subscribed(stripe_side, second, plan="basic")
    await wait_until(lambda: ada_has(ada, 4500))
    await assert_books_balance(grants=3)


@pytest.mark.parametrize("webhook_first", [True, False], ids=["webhook", "adoption"])
async def test_an_invoices_own_metadata_names_the_account(
    world: World, stripe_side: StripeSide, webhook_first: bool
) -> None:
    """S51: a top-up's, and a subscription invoice's, whose subscription has none."""
    paidup = await world.server(webhooks=False)
    ada = await known(paidup)
    top_up = await top_up_paid(stripe_side, await stripe_side.customer(), {"paidup_account": "ada"})
    third = await stripe_side.customer()
    plan = await subscribed(stripe_side, third)
    await stripe_side.api("POST", f"invoices/{plan['id']}", **{"metadata[paidup_account]": "ada"})
    plan = await stripe_side.api("GET", f"invoices/{plan['id']}")
    for invoice in (top_up, plan):
        if webhook_first:
            _, answer = await paidup.webhook(forged_event("invoice.paid", invoice))
            assert answer["outcome"] == "settled"
        status, adopted = await ada.call("POST", "/api/invoices", {"invoice": invoice["id"]})
        assert (status, adopted["status"]["status"]) == (200 if webhook_first else 201, "active")
    assert await ada.balance() == 3000
    assert await account_id_of(third) == (await Account.get(external_id="ada")).id
    await assert_books_balance(grants=2)


async def test_the_account_that_metadata_names_is_paid_for_and_takes_no_customer(
    world: World, stripe_side: StripeSide
) -> None:
    """The SaaS wrote Ada's name on what Bob's customer pays: Ada's credits, and still Bob's customer."""
    paidup = await world.server(webhooks=False)
    bob, ada = await known(paidup, "bob"), paidup.customer("ada")
    assert await ada.balance() == 0
    bobs = await own_customer("bob")
    gift = await subscribed(stripe_side, bobs, "ada")
    status, problem = await bob.call("POST", "/api/invoices", {"invoice": gift["id"]})
    assert (status, problem["type"].rpartition("/")[2]) == (404, "not-found"), "it is not Bob's"
    _, answer = await paidup.webhook(await paid_body(stripe_side, gift["id"]))
    assert answer["outcome"] == "settled"
    assert (await ada.balance(), await bob.balance()) == (2000, 0)
    owner = await Account.get(external_id="ada")
    assert (owner.stripe_customer, await customers_of(owner)) == (None, [])
    assert await account_id_of(bobs) == (await Account.get(external_id="bob")).id
    status, adopted = await ada.call("POST", "/api/invoices", {"invoice": gift["id"]})
    assert (status, adopted["status"]["status"]) == (200, "active")
    own = await subscribed(stripe_side, bobs, plan="basic")
    _, answer = await paidup.webhook(await paid_body(stripe_side, own["id"]))
    assert (await ada.balance(), await bob.balance()) == (2000, 500)
    await assert_books_balance(grants=2)


async def test_a_renewal_stays_with_the_account_of_its_subscription(
    world: World, stripe_side: StripeSide
) -> None:
    """Once Ada's, it does not become Bob's when its metadata is cleared, though the customer is Bob's."""
    paidup = await world.server(webhooks=False)
    bob, ada = await known(paidup, "bob"), paidup.customer("ada")
    assert await ada.balance() == 0
    gift = await subscribed(stripe_side, await own_customer("bob"), "ada")
    await paidup.webhook(await paid_body(stripe_side, gift["id"]))
    subscription = gift["parent"]["subscription_details"]["subscription"]
    await stripe_side.api("POST", f"subscriptions/{subscription}", **{"metadata[paidup_account]": ""})
    renewal = await stripe_side.control(f"subscriptions/{subscription}/renew")
    assert renewal["parent"]["subscription_details"]["metadata"] == {}
    _, answer = await paidup.webhook(await paid_body(stripe_side, renewal["id"]))
    assert answer["outcome"] == "settled"
    assert (await ada.balance(), await bob.balance()) == (4000, 0)


async def test_metadata_with_an_unknown_name_credits_nobody_else(
    world: World, stripe_side: StripeSide
) -> None:
    """The customer is Bob's, but the invoice says whom it is for: it waits, visibly, until Ada is known."""
    paidup = await world.server(webhooks=False)
    bob = await known(paidup, "bob")
    invoice = await subscribed(stripe_side, await own_customer("bob"), "ada")
    body = await paid_body(stripe_side, invoice["id"])
    _, answer = await paidup.webhook(body)
    assert answer["outcome"] == "unknown_customer"
    status, _ = await bob.call("POST", "/api/invoices", {"invoice": invoice["id"]})
    assert (status, await bob.balance()) == (404, 0)
    (row,) = await StripeEvent.filter(handled_at__isnull=True)
    assert row.error == "parked: unknown_customer"
    ada = paidup.customer("ada")
    assert await ada.balance() == 0
    await paidup.services.events.retry(row)
    assert (await ada.balance(), await bob.balance()) == (2000, 0)


async def test_a_subscription_of_a_second_customer_is_followed(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S51: its own events register it, before any invoice is paid; the account remembers the customer."""
    ada = paidup.customer("ada")
    assert await ada.balance() == 0
    second = await stripe_side.customer()
    made = await stripe_side.subscribe(second, "pro", "ada")
    await wait_until(lambda: Subscription.exists(id=made["id"]))
    other = await stripe_side.subscribe(second, "basic")
    await wait_until(lambda: Subscription.exists(id=other["id"]))
    assert {row.account_id for row in await Subscription.all()} == {(await Account.get()).id}


async def test_a_token_adds_a_customer(world: World, stripe_side: StripeSide) -> None:
    """S51: the backend signs it. One that is another account's stays there, and locks nobody out."""
    paidup = await world.server(webhooks=False)
    ada, bob = await known(paidup, "ada"), await known(paidup, "bob")
    mine, bobs = await own_customer("ada"), await own_customer("bob")
    second = await stripe_side.customer()
    for named in (second, second, bobs):
        status, _ = await ada.call("GET", "/api/account", stripe_customer=named)
        assert status == 200
    assert await customers_of(await Account.get(external_id="ada")) == [mine, second]
    assert await customers_of(await Account.get(external_id="bob")) == [bobs]
    invoice = await subscribed(stripe_side, second)
    await paidup.webhook(await paid_body(stripe_side, invoice["id"]))
    assert (await ada.balance(), await bob.balance()) == (2000, 0)
