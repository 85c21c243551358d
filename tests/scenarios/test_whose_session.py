"""Whose a Checkout Session is that was made elsewhere, in every order of events; what a stranger may name."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from paidup.db.models import Account, CheckoutSession, Invoice, Subscription
from paidup.reconciliation.second_payments import SecondPayments
from paidup.settings import PACKAGED_PLANS
from tests.conftest import World
from tests.support.checkout_shop import EXTRA, PRO, SEPA, CheckoutShop
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup
from tests.support.waiting import wait_until

IN_SESSION: dict[str, Any] = {"metadata[paidup_account]": "ada"}
IN_INVOICE: dict[str, Any] = {"subscription_data[metadata][paidup_account]": "ada"}
REFERENCE: dict[str, Any] = {"client_reference_id": "ada"}
EVENTS = ("invoice.paid", "checkout.session.completed", "customer.subscription.created")


async def balances() -> dict[str, int]:
    return {account.external_id: account.balance for account in await Account.all()}


async def customer_of(paidup: Paidup, shop: CheckoutShop, name: str) -> str:
    customer = await shop.stripe.customer()
    await paidup.services.accounts.get(name, customer)
    return customer


@pytest.mark.parametrize(("named", "owner"), [(REFERENCE, "bob"), (IN_SESSION, "bob"), (IN_INVOICE, "ada")])
async def test_a_session_that_names_another_than_its_customers_account(
    deaf: Paidup, shop: CheckoutShop, named: dict[str, Any], owner: str
) -> None:
    """S18, S49: the invoice's metadata decides, then the customer, then the session: in every order."""
    await Account.create(external_id="ada")
    customer = await customer_of(deaf, shop, "bob")
    orders = list(permutations(EVENTS))
    for number, order in enumerate(orders):
        session = await shop.open(customer=customer, **named)
        if number % 2:
            await deaf.services.checkouts.verify(session)  # their browser came back before they had paid
        paid = await shop.pay(session)
        about = (paid["invoice"], session, paid["subscription"])
        bodies = {kind: await shop.event(kind, id) for kind, id in zip(EVENTS, about, strict=True)}
        for kind in order:
            await deaf.webhook(bodies[kind])
        row = await CheckoutSession.get(id=session).select_related("account")
        assert row.account is not None
        assert row.account.external_id == owner, (order, named)
        assert row.invoice == paid["invoice"], order
        assert await Subscription.exists(id=paid["subscription"], account__external_id=owner)
    other = {"ada", "bob"} - {owner}
    assert await balances() == {owner: 2000 * len(orders), other.pop(): 0}
    await assert_books_balance()


async def test_an_invoice_for_somebody_unknown_is_not_the_account_of_the_sessions(
    deaf: Paidup, shop: CheckoutShop
) -> None:
    """S41: the page was opened for ada, as its reference says; what was paid is meant for another user."""
    await Account.create(external_id="ada")
    for visited in (True, False):
        session = await shop.open(**REFERENCE, **{"subscription_data[metadata][paidup_account]": "eve"})
        if visited:
            await deaf.services.checkouts.verify(session)
        paid = await shop.pay(session)
        await deaf.webhook(await shop.event("checkout.session.completed", session))
        await deaf.webhook(await shop.event("invoice.paid", paid["invoice"]))
        row = await CheckoutSession.get(id=session)
        assert (row.account_id, row.client_reference) == (None, "eve"), visited
    assert await balances() == {"ada": 0}
    assert await deaf.customer("eve").balance() == 4000


async def named_by_a_stranger(shop: CheckoutShop, lookup_key: str = PRO, **payment: Any) -> Any:
    """What has become of a page that somebody else has paid, who wrote ada into its address."""
    session = await shop.open(lookup_key, **REFERENCE)
    return await shop.pay(session, email="mallory@example.com", **payment)


async def bought(customer: Customer, **body: Any) -> Any:
    status, answer = await customer.call("POST", "/api/checkout", body)
    assert status == 201, answer
    return answer


async def sweeps(paidup: Paidup) -> None:
    await SecondPayments().sweep()
    await paidup.services.reconciler.sessions.sweep()


async def test_a_stranger_who_subscribes_an_account_does_not_stand_in_its_way(
    paidup: Paidup, shop: CheckoutShop
) -> None:
    """S39, S49: it is credited and flagged; the account buys and manages its own plan all the same."""
    ada = paidup.customer()
    await ada.balance()
    stranger = await named_by_a_stranger(shop)
    await wait_until(lambda: Account.exists(external_id="ada", balance=2000))
    await paidup.services.subscriptions.read(stranger["subscription"])
    made = await bought(ada, plan="pro")
    await sweeps(paidup)
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    assert shown["status"] == "open"
    own = await shop.pay(made["checkout"])
    await wait_until(lambda: Account.exists(external_id="ada", balance=4000))
    await paidup.services.subscriptions.read(own["subscription"])
    await sweeps(paidup)
    flagged = {row.id: row.duplicate_of for row in await CheckoutSession.all()}
    assert flagged == {stranger["id"]: own["subscription"], made["checkout"]: None}
    status, refused = await ada.call("POST", "/api/checkout", {"plan": "pro"})
    assert (status, refused["type"].rpartition("/")[2]) == (409, "already-subscribed")
    status, cancelled = await ada.call("POST", "/api/subscriptions/cancel", {})
    assert status == 200, cancelled
    assert (await shop.stripe.api("GET", f"subscriptions/{own['subscription']}"))["cancel_at_period_end"]
    await assert_books_balance()


async def test_a_bank_debit_of_somebody_elses_does_not_stand_in_the_way_either(
    world: World, shop: CheckoutShop, tmp_path: Path
) -> None:
    """S39, S49: it is processing for days, and is no payment of the account's own: nor is it trusted."""
    plans = tmp_path / "plans.toml"
    plans.write_bytes(PACKAGED_PLANS.read_bytes() + b"\n[trust]\nsepa_debit = 500\n")
    paidup = await world.server(plans_file=plans)
    for lookup_key in (PRO, EXTRA):
        price = await shop.price(lookup_key)
        option = {"currency_options[eur][unit_amount]": "1400"}
        await shop.stripe.api("POST", f"prices/{price}", **option)
    ada = paidup.customer()
    await ada.balance()
    for lookup_key, wanted in ((PRO, {"plan": "pro"}), (EXTRA, {"top_up": "extra"})):
        session = await shop.open(lookup_key, currency="eur", **REFERENCE)
        await shop.pay(session, email="mallory@example.com", payment_method_data=SEPA)
        await wait_until(lambda: Invoice.exists(checkout=session, status="processing"))  # noqa: B023
        await bought(ada, **wanted)
    assert await ada.balance() == 0
