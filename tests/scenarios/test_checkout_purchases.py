"""POST /api/checkout: one open page for each purchase, in place of any other way of paying for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from paidup.db.models import Account, CheckoutSession, Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.subscriptions.open_sessions import OpenSessions
from paidup.subscriptions.own_subscriptions import OwnSubscriptions
from tests.conftest import World
from tests.support.checkout_shop import CheckoutShop, linked
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import ORIGIN, Customer, Paidup
from tests.support.waiting import wait_until


@pytest.fixture
def ada(paidup: Paidup) -> Customer:
    return paidup.customer()


async def post(customer: Customer, **body: Any) -> tuple[int, Any]:
    return await customer.call("POST", "/api/checkout", body)


async def opened(customer: Customer, **body: Any) -> Any:
    status, answer = await post(customer, **body)
    assert status in (200, 201), answer
    return answer


async def status_at_stripe(shop: CheckoutShop, session: str) -> str:
    return str((await shop.stripe.api("GET", f"checkout/sessions/{session}"))["status"])


async def open_pages(shop: CheckoutShop) -> list[str]:
    listed = await shop.stripe.api("GET", "checkout/sessions?status=open&limit=100")
    return [each["id"] for each in listed["data"]]


async def test_a_page_is_made_for_the_accounts_customer_and_credits_when_paid(
    ada: Customer, shop: CheckoutShop
) -> None:
    status, made = await post(ada, plan="pro", return_to="/welcome")
    assert status == 201, made
    assert set(made) == {"checkout", "status", "expires_at", "url"}
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    own = await Account.get(external_id="ada")
    assert (shown["customer"], shown["client_reference_id"]) == (own.stripe_customer, "ada")
    assert shown["metadata"] == {"paidup_account": "ada", "paidup_checkout": "subscription"}
    assert shown["success_url"].endswith("/activate?session_id={CHECKOUT_SESSION_ID}")
    await shop.pay(made["checkout"])
    invoice = await linked(made["checkout"])
    await wait_until(lambda: Account.exists(id=own.id, balance=2000))
    subscription = await shop.stripe.api("GET", f"subscriptions/{invoice.subscription}")
    assert subscription["metadata"] == {"paidup_account": "ada"}
    row = await CheckoutSession.get(id=made["checkout"])
    assert (row.purchase, row.return_to) == ("subscription", f"{ORIGIN}/welcome")
    await assert_books_balance()


@pytest.mark.parametrize(("ui", "mode"), [("embedded", "embedded_page"), ("elements", "elements")])
async def test_a_page_within_the_page_has_a_secret_and_an_address_to_return_to(
    ada: Customer, shop: CheckoutShop, ui: str, mode: str
) -> None:
    made = await opened(ada, plan="pro", ui=ui)
    assert set(made) == {"checkout", "status", "expires_at", "client_secret"}
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    assert (shown["ui_mode"], shown["success_url"]) == (mode, None)
    assert shown["return_url"].endswith("/activate?session_id={CHECKOUT_SESSION_ID}")


async def test_a_top_up_has_an_invoice_that_names_the_account(ada: Customer, shop: CheckoutShop) -> None:
    made = await opened(ada, top_up="extra", quantity=2)
    paid = await shop.pay(made["checkout"])
    invoice = await linked(made["checkout"])
    assert (invoice.id, invoice.status) == (paid["invoice"], InvoiceStatus.ACTIVE)
    shown = await shop.stripe.api("GET", f"invoices/{invoice.id}")
    assert shown["metadata"] == {"paidup_account": "ada", "paidup_purchase": "top_up"}
    assert await ada.balance() == 2000


async def test_the_same_purchase_has_the_same_page_from_many_requests_at_once(
    ada: Customer, shop: CheckoutShop
) -> None:
    """S08: a double click, two tabs, a reload."""
    await ada.balance()
    made = await asyncio.gather(*(opened(ada, plan="pro") for _ in range(4)))
    again = await opened(ada, plan="pro")
    assert {each["checkout"] for each in (*made, again)} == {made[0]["checkout"]}
    assert again["url"] == made[0]["url"]
    assert await open_pages(shop) == [made[0]["checkout"]]


async def test_a_page_that_was_made_after_it_was_looked_for_is_the_same(
    ada: Customer, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S08: of two requests at once, one ends between the other's two reads."""
    await ada.balance()
    newest, others = OpenSessions.newest, list[dict[str, Any]]()

    async def newest_before_the_other(*arguments: Any) -> CheckoutSession | None:
        found = await newest(*arguments)
        if not others:
            others.append({})
            others[0] = await opened(ada, plan="pro")
        return found

    monkeypatch.setattr(OpenSessions, "newest", newest_before_the_other)
    assert (await opened(ada, plan="pro"))["checkout"] == others[0]["checkout"]
    assert await open_pages(shop) == [others[0]["checkout"]]


async def test_another_purchase_expires_the_older_page(ada: Customer, shop: CheckoutShop) -> None:
    """S39: another plan, another quantity, another kind of page, another way back."""
    pages = [await opened(ada, **{"plan": "pro", **change}) for change in CHANGES]
    assert len({page["checkout"] for page in pages}) == len(CHANGES)
    assert await open_pages(shop) == [pages[-1]["checkout"]]
    top_up = await opened(ada, top_up="extra")  # is another purchase, beside the subscription
    assert set(await open_pages(shop)) == {pages[-1]["checkout"], top_up["checkout"]}


CHANGES: list[dict[str, Any]] = [{}, {"plan": "advanced"}, {"ui": "embedded"}, {"return_to": "/elsewhere"}]


async def test_two_plans_at_once_leave_one_page(ada: Customer, shop: CheckoutShop) -> None:
    """S39: neither request has seen the other's page before it made its own."""
    await ada.balance()
    answers = await asyncio.gather(*(post(ada, plan=plan) for plan in ("pro", "advanced", "pro", "advanced")))
    assert {status for status, _ in answers} <= {200, 201, 409}
    assert len(await open_pages(shop)) == 1


async def test_a_page_takes_the_place_of_a_pending_card_payment_and_the_other_way_round(
    ada: Customer, shop: CheckoutShop
) -> None:
    """S39: two open pages can never both be paid, whichever they are."""
    for path, page, body in (
        ("/api/subscriptions", {"plan": "pro"}, {"plan": "pro"}),
        ("/api/top-ups", {"top_up": "extra"}, {"plan": "extra"}),
    ):
        _, pending = await ada.call("POST", path, body)
        made = await opened(ada, **page)
        assert (await Invoice.get(id=pending["invoice"])).status is InvoiceStatus.VOID
        status, again = await ada.call("POST", path, body)
        assert status == 201, again
        assert await status_at_stripe(shop, made["checkout"]) == "expired"
        assert (await CheckoutSession.get(id=made["checkout"])).status == "expired"


async def test_a_card_payment_and_a_page_at_once_leave_one_of_them(ada: Customer, shop: CheckoutShop) -> None:
    """S39: from two tabs at once."""
    await ada.balance()
    body = {"plan": "pro"}
    answers = await asyncio.gather(post(ada, plan="pro"), ada.call("POST", "/api/subscriptions", body))
    assert {status for status, _ in answers} <= {201, 409}
    payable = await Invoice.filter(status=InvoiceStatus.OPEN).count()
    assert payable + len(await open_pages(shop)) <= 1


async def test_a_card_payment_that_another_request_settles_leaves_no_page(
    world: World, shop: CheckoutShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S39: the pending payment was paid. It is settled while a page is being made, and is not sold twice."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer()
    bought = await ada.buy("pro")
    await shop.stripe.confirm(bought["client_secret"])
    running = OwnSubscriptions.running

    async def settled_meanwhile(*arguments: Any, **named: Any) -> Any:
        found = await running(*arguments, **named)
        await paidup.services.verification.verify(bought["invoice"])
        return found

    monkeypatch.setattr(OwnSubscriptions, "running", settled_meanwhile)
    status, refused = await post(ada, plan="advanced")
    assert (status, refused["type"].rpartition("/")[2]) == (409, "payment-under-way")
    assert await open_pages(shop) == []
    assert await ada.balance() == 2000


async def test_a_subscriber_gets_no_page_and_an_open_one_is_closed(ada: Customer, shop: CheckoutShop) -> None:
    """S43: the first tab is told that the second has paid; its page cannot be paid as well."""
    first = await opened(ada, plan="pro")
    await shop.pay(first["checkout"])
    for path in ("/api/checkout", "/api/subscriptions"):
        status, refused = await ada.call("POST", path, {"plan": "advanced"})
        assert (status, refused["type"].rpartition("/")[2]) == (409, "already-subscribed")
    assert await open_pages(shop) == []
    await wait_until(lambda: Account.exists(external_id="ada", balance=2000))


async def test_a_top_up_that_was_just_paid_is_shown_again_and_not_sold_twice(
    world: World, shop: CheckoutShop
) -> None:
    """S43: its webhook is late, and the customer presses the button again."""
    ada = (await world.server(webhooks=False)).customer()
    made = await opened(ada, top_up="extra")
    await shop.pay(made["checkout"])
    again = await opened(ada, top_up="extra")
    assert (again["checkout"], again["status"], again["url"]) == (made["checkout"], "complete", None)
    assert await ada.balance() == 1000
    assert (await opened(ada, top_up="extra"))["checkout"] != made["checkout"]  # this one is wanted


async def test_a_page_that_was_paid_is_not_replaced(world: World, shop: CheckoutShop) -> None:
    """S40: it is credited, whatever was wanted in its place."""
    ada = (await world.server(webhooks=False)).customer()
    made = await opened(ada, top_up="extra")
    await shop.pay(made["checkout"])
    status, refused = await post(ada, top_up="extra", quantity=3)
    assert (status, refused["type"].rpartition("/")[2]) == (409, "payment-under-way")
    assert await ada.balance() == 1000


async def test_a_deleted_customer_is_made_again(ada: Customer, shop: CheckoutShop) -> None:
    """S53: Stripe refuses the deleted one."""
    await opened(ada, plan="pro")
    own = await Account.get(external_id="ada")
    await shop.stripe.api("DELETE", f"customers/{own.stripe_customer}")
    made = await opened(ada, plan="advanced")
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    assert shown["customer"] not in (None, own.stripe_customer)


async def test_the_options_of_the_settings_are_stripes(world: World, shop: CheckoutShop) -> None:
    server = await world.server(
        public_url="https://pay.example.test/paidup",
        checkout_promotion_codes=True,
        checkout_automatic_tax=True,
        checkout_billing_address=True,
        checkout_locale="pt-BR",
        checkout_top_up_invoices=False,
        checkout_cancel_url=f"{ORIGIN}/pricing",
    )
    made = await opened(server.customer(), top_up="extra")
    shown = await shop.stripe.api("GET", f"checkout/sessions/{made['checkout']}")
    assert shown["allow_promotion_codes"] is shown["automatic_tax"]["enabled"] is True
    assert (shown["billing_address_collection"], shown["locale"]) == ("required", "pt-BR")
    assert shown["invoice_creation"]["enabled"] is False
    assert shown["cancel_url"] == f"{ORIGIN}/pricing"
    back = "https://pay.example.test/paidup/activate?session_id={CHECKOUT_SESSION_ID}"
    assert shown["success_url"] == back
    await shop.pay(made["checkout"])
    assert (await linked(made["checkout"])).id == made["checkout"]


REFUSED: list[dict[str, Any]] = [
    {},
    {"plan": "pro", "top_up": "extra"},
    {"plan": "extra"},
    {"top_up": "pro"},
    {"plan": "nothing"},
    {"plan": "pro", "quantity": 0},
    {"plan": "pro", "ui": "popup"},
    *(
        {"plan": "pro", "return_to": address}
        for address in (
            "https://evil.example/",
            "//evil.example/",
            "/\\evil.example",
            "javascript:alert(1)",
            f"{ORIGIN}.evil.example/",
            f"{ORIGIN}@evil.example/",
            "http://user@app.example.test/",
            "welcome",
            "/a\nb",
            "/" + "a" * 2001,
        )
    ),
]


async def test_a_request_that_makes_no_sense_is_refused_before_stripe_is_asked(
    ada: Customer, shop: CheckoutShop
) -> None:
    """S28: nothing is made, and the customer is sent to no page that is not allowed."""
    await ada.balance()
    await shop.stripe.control("calls/reset")
    for body in REFUSED:
        status, refused = await post(ada, **body)
        assert status == 422, (body, refused)
    assert await shop.stripe.calls() == 0
    assert await CheckoutSession.all().count() == 0
