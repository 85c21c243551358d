"""What else Checkout Sessions may sell: currencies, quantities, inline prices, several lines; and wallets."""

from __future__ import annotations

from typing import Any

import pytest

from paidup.db.models import Account, CheckoutSession, Invoice, StripeEvent, Subscription
from tests.conftest import World
from tests.support.checkout_shop import EXTRA, PRO, CheckoutShop, linked
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup
from tests.support.waiting import wait_until

NAMED: dict[str, Any] = {"client_reference_id": "ada"}
ADJUSTABLE = {"enabled": "true", "minimum": "1", "maximum": "200"}


async def an_account(paidup: Paidup) -> Customer:
    await Account.create(external_id="ada")
    return paidup.customer("ada")


async def balance_becomes(customer: Customer, credits: int) -> None:
    async def reached() -> bool:
        return await customer.balance() == credits

    await wait_until(reached)


async def test_a_session_in_another_presentment_currency_is_credited_the_same(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S45: amounts are in the price's currency; `presentment_details` says what the customer was shown."""
    ada = await an_account(paidup)
    await shop.stripe.conditions(presentment_currency="eur")
    plan, extra = await shop.open(PRO, **NAMED), await shop.open(EXTRA, **NAMED)
    await shop.pay(plan)
    await shop.pay(extra)
    shown = await shop.stripe.api("GET", f"checkout/sessions/{extra}")
    assert shown["presentment_details"]["presentment_currency"] == "eur"
    assert shown["currency"] == "usd"
    await balance_becomes(ada, 3000)
    assert {row.currency for row in await Invoice.all()} == {"usd"}
    await assert_books_balance(grants=2)


async def test_the_quantity_that_was_paid_counts(paidup: Paidup, shop: CheckoutShop) -> None:
    """The money was taken: the plan's `max_quantity` limits what our own calls offer, not what was bought."""
    ada = await an_account(paidup)
    await shop.pay(await shop.open(EXTRA, 120, **NAMED))
    await balance_becomes(ada, 120_000)
    await assert_books_balance(grants=1)


async def test_a_quantity_that_the_customer_has_changed_on_the_page_counts(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """`adjustable_quantity`, with and without an invoice; also above what our own calls offer."""
    ada = await an_account(paidup)
    many = {f"line_items[0][adjustable_quantity][{key}]": value for key, value in ADJUSTABLE.items()}
    once = await shop.open(EXTRA, **many, **NAMED)
    billed = await shop.open(EXTRA, **many, **NAMED, **{"invoice_creation[enabled]": "true"})
    plan = await shop.open(PRO, **many, **NAMED)
    for session, quantity in ((once, 3), (billed, 120), (plan, 2)):
        await paidup.services.checkouts.verify(session)  # with the quantity that it was opened for
        paid = await shop.pay(session, quantity=quantity)
        await wait_until(lambda: CheckoutSession.exists(id=session, invoice__not_isnull=True))  # noqa: B023
        assert (await CheckoutSession.get(id=session)).quantity == quantity
    await balance_becomes(ada, 3_000 + 120_000 + 4_000)
    await paidup.services.subscriptions.read(paid["subscription"])
    assert await Subscription.exists(id=paid["subscription"], quantity=2)
    await assert_books_balance(grants=3)


async def test_a_plan_and_a_top_up_in_one_session(paidup: Paidup, shop: CheckoutShop) -> None:
    """Its invoice has both lines, and each gives its credits, once."""
    ada = await an_account(paidup)
    second = {"line_items[1][price]": await shop.price(EXTRA), "line_items[1][quantity]": "2"}
    await shop.pay(await shop.open(PRO, **second, **NAMED))
    await balance_becomes(ada, 4000)
    await assert_books_balance()


@pytest.mark.parametrize("of", ["another product", "the plan's own product"])
async def test_an_inline_price_gives_no_credits(paidup: Paidup, shop: CheckoutShop, of: str) -> None:
    """`price_data` names any amount: it is no price of a plan's, whatever its product."""
    ada = await an_account(paidup)
    price = await shop.stripe.api("GET", f"prices/{await shop.price(EXTRA)}")
    inline = {"currency": "usd", "unit_amount": "100"}
    if of == "another product":
        inline["product_data][name"] = "A poster"
    else:
        inline["product"] = price["product"]
    form = {f"line_items[0][price_data][{name}]": value for name, value in inline.items()}
    form |= {"mode": "payment", "line_items[0][quantity]": "1", "success_url": "https://app.example.test/"}
    made = await shop.stripe.api("POST", "checkout/sessions", **form, **NAMED)
    await shop.pay(made["id"])
    await wait_until(lambda: StripeEvent.exists(type="checkout.session.completed", attempts__gt=0))
    assert await ada.balance() == 0
    await assert_books_balance(grants=0)
    if of == "another product":
        assert not await CheckoutSession.exists(id=made["id"])


@pytest.mark.parametrize(
    ("method", "shown"),
    [
        ({"type": "card", "card": {"token": "tok_apple_pay"}}, {"brand": "visa", "last4": "4242"}),
        ({"type": "link", "billing_details": {"email": "jenny@example.com"}}, None),
    ],
)
async def test_wallets_and_link_are_paid_at_once(
    world: World, shop: CheckoutShop, method: dict[str, Any], shown: Any
) -> None:
    """A wallet is a card, which the preview of a plan change names; Link is charged and not named."""
    paidup = await world.server()
    ada = paidup.customer("ada")
    purchase = await ada.buy("basic")
    confirmed = await shop.stripe.confirm_with(purchase["client_secret"], method)
    assert confirmed["status"] == "succeeded", confirmed
    await balance_becomes(ada, 500)
    status, preview = await ada.call("POST", "/api/subscriptions/preview", {"plan": "pro"})
    assert (status, preview["card"]) == (200, shown), preview
    session = await shop.open(EXTRA, **NAMED)
    await shop.pay(session, payment_method_data=method)
    assert (await linked(session)).payment_method is None
    await balance_becomes(ada, 1500)
    await assert_books_balance(grants=2)
