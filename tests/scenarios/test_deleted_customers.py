"""S53: the Stripe customer was deleted, by a support agent or with all test data.

https://docs.stripe.com/api/customers/delete: it is shown as deleted, and further operations are refused.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paidup.db.customers import account_id_of, customers_of
from paidup.db.models import Account, Invoice, StripeCustomer, StripeEvent, Subscription
from paidup.domain.catalog import Interval, PlanPrice
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import StripeRefused
from paidup.services import open_services
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup, settings
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until


async def subscriber(paidup: Paidup, stripe_side: StripeSide) -> tuple[Customer, str]:
    """Ada, on pro and paid up, and her Stripe customer."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await paid(ada, stripe_side, purchase, 2000)
    customer = (await Account.get(external_id="ada")).stripe_customer
    assert customer is not None
    return ada, customer


async def paid(ada: Customer, stripe_side: StripeSide, purchase: Any, balance: int) -> None:
    """Ada pays, and has this balance then."""
    confirmed = await stripe_side.confirm(purchase["client_secret"])
    assert confirmed["status"] == "succeeded"

    async def credited() -> bool:
        await ada.call("POST", "/api/invoices", {"invoice": purchase["invoice"]})
        return await ada.balance() == balance

    await wait_until(credited)


async def delete(stripe_side: StripeSide, customer: str) -> None:
    assert (await stripe_side.api("DELETE", f"customers/{customer}"))["deleted"]


@pytest.mark.parametrize("webhooks", [True, False], ids=["told", "not told"])
@pytest.mark.parametrize("what", ["subscription", "top-up"])
async def test_a_purchase_after_the_deletion_makes_a_new_customer(
    world: World, stripe_side: StripeSide, webhooks: bool, what: str
) -> None:
    """S53: the account, its ledger and its balance stay, and its next purchase succeeds at once."""
    paidup = await world.server(webhooks=webhooks)
    ada, first = await subscriber(paidup, stripe_side)
    await delete(stripe_side, first)
    if webhooks:
        await wait_until(lambda: StripeEvent.exists(type="customer.deleted", handled_at__isnull=False))
        (row,) = await StripeEvent.filter(type="customer.deleted")
        assert (row.outcome, await ada.balance()) == ("customer_deleted", 2000)
        assert (await Account.get()).stripe_customer is None
    path, plan = ("/api/subscriptions", "pro") if what == "subscription" else ("/api/top-ups", "extra")
    status, purchase = await ada.call("POST", path, {"plan": plan})
    assert status == 201, purchase
    await paid(ada, stripe_side, purchase, 4000 if what == "subscription" else 3000)
    account = await Account.get()
    assert account.stripe_customer not in (None, first)
    assert await customers_of(account) == [account.stripe_customer]
    assert await account_id_of(first) == account.id, "what was paid with it is still theirs"
    await assert_books_balance(grants=2)


async def test_a_token_with_a_customer_that_stripe_never_had(world: World, stripe_side: StripeSide) -> None:
    """S53: a customer of test mode in a token of live mode, say: replaced, once."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    claim = {"stripe_customer": "cus_gone"}
    status, bought = await ada.call("POST", "/api/subscriptions", {"plan": "pro"}, **claim)
    assert status == 201, bought
    customer = (await Account.get()).stripe_customer
    assert customer not in (None, "cus_gone")
    for _ in range(2):
        status, again = await ada.call("POST", "/api/subscriptions", {"plan": "pro"}, **claim)
        assert (status, again["invoice"]) == (200, bought["invoice"])
    assert (await Account.get()).stripe_customer == customer
    assert await stripe_side.calls("POST /v1/customers") == 1
    row = await StripeCustomer.get(id="cus_gone")
    assert row.deleted_at is not None


async def test_a_plan_of_a_deleted_customer_is_over(world: World, stripe_side: StripeSide) -> None:
    """S53: cancel, resume and change say that there is no subscription, whether or not an event came."""
    paidup = await world.server(webhooks=False)
    ada, customer = await subscriber(paidup, stripe_side)
    await delete(stripe_side, customer)
    for path, body in (("cancel", {}), ("resume", None), ("change", {"plan": "basic"})):
        status, problem = await ada.call("POST", f"/api/subscriptions/{path}", body)
        assert (status, problem["type"].rpartition("/")[2]) == (409, "not-subscribed"), problem
    await Subscription.all().update(refresh_at=paidup.services.clock())
    await paidup.services.reconciler.sweep()
    assert (await Subscription.get()).status == "canceled"


async def test_a_pending_payment_of_a_deleted_customer_is_not_offered_again(
    world: World, stripe_side: StripeSide
) -> None:
    """S53: nobody can pay it any more; the next purchase is another invoice, of a new customer.

    The event of the deletion was lost.
    """
    ada = (await world.server(webhooks=False)).customer("ada")
    for path, plan in (("/api/top-ups", "extra"), ("/api/subscriptions", "pro")):
        status, pending = await ada.call("POST", path, {"plan": plan})
        assert status == 201
        customer = (await Account.get()).stripe_customer
        assert customer is not None
        await delete(stripe_side, customer)
        status, purchase = await ada.call("POST", path, {"plan": plan})
        assert status == 201, purchase
        assert await StripeCustomer.exists(id=customer, deleted_at__isnull=False)
        assert purchase["invoice"] != pending["invoice"]
        confirmed = await stripe_side.confirm(purchase["client_secret"])
        assert confirmed["status"] == "succeeded"


async def test_all_test_data_was_deleted_with_a_payment_pending(
    world: World, stripe_side: StripeSide
) -> None:
    """S53: the pending invoice is gone, too: it is void here, and another is bought."""
    async with open_services(settings(**world.given())) as services:
        account = await services.accounts.get("ada")
        pending = await services.checkout.buy(account, "pro", Interval.MONTH)
    await stripe_side.begin()
    async with open_services(settings(**world.given())) as services:
        account = await services.accounts.get("ada")
        bought = await services.checkout.buy(account, "pro", Interval.MONTH)
        assert bought.created
        assert (await Invoice.get(id=pending.status.invoice)).status is InvoiceStatus.VOID
        again = await services.checkout.buy(await services.accounts.get("ada"), "pro", Interval.MONTH)
        assert (again.status.invoice, again.created) == (bought.status.invoice, False)


async def test_a_refund_of_a_deleted_customers_payment_is_taken_back(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S53: the ledger stays correct for what was paid before."""
    _, customer = await subscriber(paidup, stripe_side)
    intent = (await Invoice.get()).payment_intent
    await delete(stripe_side, customer)
    await stripe_side.api("POST", "refunds", payment_intent=intent)
    await wait_until(lambda: Account.exists(external_id="ada", balance=0))
    await assert_books_balance()


async def test_a_refusal_for_another_reason_forgets_no_customer(
    world: World, stripe_side: StripeSide
) -> None:
    """A missing price is `resource_missing` as well: the customer is read, and is there."""
    async with open_services(settings(**world.given())) as services:
        account = await services.accounts.get("ada", await stripe_side.customer())
        customer = account.stripe_customer
        price_of_pro = await services.prices.id_for(services.catalogue.plan("pro").price())

        async def another_price(price: PlanPrice) -> str:
            real = services.prices[price_of_pro]
            services.prices.add(msgspec.structs.replace(real, id="price_gone"))
            return "price_gone"

        services.prices.id_for = another_price  # type: ignore[method-assign]
        with pytest.raises(StripeRefused):
            await services.checkout.buy(account, "pro")
        assert (await Account.get()).stripe_customer == customer
