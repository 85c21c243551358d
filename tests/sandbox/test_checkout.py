"""Checkout Sessions: what they create when they are paid, and when; expiry; what cannot be paid."""

from __future__ import annotations

import asyncio

import pytest
import stripe

from paidup_demo.testing import Sandbox as SandboxOfTests

from .rig import CARD_3DS, Json, Receiver, Sandbox, check_shape, wait_until
from .shop import Shop

DECLINED = "pm_card_visa_chargeDeclined"


@pytest.fixture
def shop(sandbox_bare: Sandbox) -> Shop:
    return Shop(sandbox_bare)


async def test_nothing_exists_before_a_subscription_is_paid(shop: Shop) -> None:
    """https://docs.stripe.com/changelog/basil/2025-03-31/checkout-legacy-subscription-upgrade"""
    customer = await shop.customer()
    session = await shop.open(
        customer=customer,
        client_reference_id="account-7",
        metadata={"account": "7"},
        subscription_data={"metadata": {"account": "7"}},
    )
    shown = await shop.read(session)
    assert (shown["status"], shown["payment_status"], shown["mode"]) == ("open", "unpaid", "subscription")
    assert (shown["subscription"], shown["invoice"], shown["payment_intent"]) == (None, None, None)
    assert (shown["amount_total"], shown["currency"]) == (2000, "usd")
    assert shown["url"].startswith(shop.sandbox.url + "/c/pay/cs_test_a1")
    for table in ("subscriptions?status=all", "invoices", "payment_intents"):
        assert (await shop.sandbox.raw("GET", f"/v1/{table}")).body["data"] == []
    paid = await shop.pay(session)
    assert paid["redirect_to"] == f"https://saas.example/done?s={session.id}"
    shown = await shop.read(session, "invoice.payments", "subscription", "customer", "line_items")
    assert (shown["status"], shown["payment_status"], shown["url"]) == ("complete", "paid", None)
    assert shown["payment_intent"] is None, "in subscription mode the payment is the invoice's"
    assert shown["subscription"]["status"] == "active"
    assert shown["subscription"]["metadata"] == {"account": "7"}
    invoice = shown["invoice"]
    assert (invoice["status"], invoice["billing_reason"]) == ("paid", "subscription_create")
    assert invoice["parent"]["subscription_details"]["metadata"] == {"account": "7"}
    (payment,) = invoice["payments"]["data"]
    assert (payment["status"], payment["amount_paid"]) == ("paid", 2000)
    assert shown["customer"]["email"] == shown["customer_details"]["email"] == "jenny@example.com"
    assert shown["line_items"]["data"][0]["amount_total"] == 2000


async def test_the_session_is_told_last(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """`checkout.session.completed` comes after the events of subscription and invoice."""
    shop = Shop(sandbox_hooked)
    await shop.pay(await shop.open())
    made = (await sandbox_hooked.call("GET", "/sandbox/events?limit=100")).body["events"]
    kinds = [event["type"] for event in reversed(made)]
    assert kinds[-1] == "checkout.session.completed"
    order = [
        kinds.index(kind)
        for kind in (
            *("customer.created", "payment_intent.created", "payment_intent.succeeded"),
            *("customer.subscription.created", "invoice.paid", "checkout.session.completed"),
        )
    ]
    assert order == sorted(order)
    await wait_until(lambda: len(sandbox_receiver.received) == len(made))
    (event,) = sandbox_receiver.of("checkout.session.completed")
    check_shape(event["data"]["object"])


async def test_an_older_endpoint_has_the_older_words(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """https://docs.stripe.com/changelog/dahlia/2026-03-25/updates-available-checkout-session-ui-modes"""
    await sandbox_hooked.conditions(webhook_api_version="2026-02-25.clover")
    shop = Shop(sandbox_hooked)
    await shop.pay(await shop.open())
    await wait_until(lambda: bool(sandbox_receiver.of("checkout.session.completed")))
    (event,) = sandbox_receiver.of("checkout.session.completed")
    assert event["data"]["object"]["ui_mode"] == "hosted"


async def test_without_a_customer_each_subscription_makes_one(shop: Shop) -> None:
    price = (await shop.sandbox.plan()).id
    lines = [{"price": price, "quantity": 2}]
    paid = [await shop.pay(await shop.open(line_items=lines, customer_email="a@b.example")) for _ in range(2)]
    assert len({one["customer"] for one in paid}) == 2
    customer = await shop.sandbox.v1.customers.retrieve_async(paid[0]["customer"])
    assert customer.email == "a@b.example"


async def test_one_payment_has_no_invoice_and_may_have_no_customer(shop: Shop) -> None:
    """https://docs.stripe.com/payments/checkout/guest-customers"""
    session = await shop.open("payment", payment_intent_data={"metadata": {"account": "7"}})
    assert session.payment_intent is None
    assert session.customer_creation == "if_required"
    paid = await shop.pay(session)
    shown = await shop.read(session, "payment_intent")
    assert (shown["invoice"], shown["customer"], paid["payment_status"]) == (None, None, "paid")
    assert shown["customer_details"]["email"] == "typed@example.com"
    assert shown["payment_intent"]["metadata"] == {"account": "7"}
    assert shown["payment_intent"]["status"] == "succeeded"
    listed = await shop.sessions.list_async({"payment_intent": paid["payment_intent"]})
    assert [one.id for one in listed.data] == [session.id]


async def test_invoice_creation_makes_a_paid_invoice(shop: Shop) -> None:
    """https://docs.stripe.com/payments/checkout/receipts#paid-invoices"""
    customer = await shop.customer()
    creation = {"enabled": True, "invoice_data": {"metadata": {"account": "7"}}}
    session = await shop.open("payment", customer=customer, invoice_creation=creation)
    await shop.pay(session)
    shown = await shop.read(session, "invoice.payments", "payment_intent")
    invoice = shown["invoice"]
    assert (invoice["status"], invoice["amount_paid"], invoice["metadata"]) == ("paid", 500, {"account": "7"})
    assert (invoice["customer"], invoice["billing_reason"], invoice["parent"]) == (customer, "manual", None)
    assert invoice["lines"]["data"][0]["pricing"]["price_details"]["price"]
    (payment,) = invoice["payments"]["data"]
    assert payment["payment"]["payment_intent"] == shown["payment_intent"]["id"]


async def test_one_time_prices_are_on_the_first_invoice(shop: Shop) -> None:
    """https://docs.stripe.com/api/checkout/sessions/create#create_checkout_session-line_items"""
    plan, once = (await shop.sandbox.plan()).id, await shop.once(700)
    lines = [{"price": plan, "quantity": 1}, {"price": once, "quantity": 1}]
    session = await shop.open(line_items=lines)
    assert session.amount_total == 2700
    await shop.pay(session)
    shown = await shop.read(session, "invoice", "subscription")
    assert shown["invoice"]["amount_paid"] == 2700
    assert len(shown["invoice"]["lines"]["data"]) == 2
    assert len(shown["subscription"]["items"]["data"]) == 1


async def test_a_declined_card_leaves_the_session_open(shop: Shop) -> None:
    """No subscription and no invoice: the same PaymentIntent is tried again with another card."""
    session = await shop.open()
    body = {"card": DECLINED, "email": "a@b.example"}
    refused = await shop.sandbox.control(f"/checkout/{session.id}/complete", body, expect=402)
    assert "declined" in refused["error"]["message"]
    assert (await shop.read(session))["status"] == "open"
    for table in ("subscriptions?status=all", "invoices"):
        assert (await shop.sandbox.raw("GET", f"/v1/{table}")).body["data"] == []
    assert (await shop.pay(session))["status"] == "complete"
    assert len((await shop.sandbox.raw("GET", "/v1/payment_intents")).body["data"]) == 1
    assert len((await shop.sandbox.raw("GET", "/v1/customers")).body["data"]) == 1


@pytest.mark.parametrize("outcome", ["pass", "fail"])
async def test_a_bank_that_asks(shop: Shop, outcome: str) -> None:
    """The session is complete once the bank has agreed, and open when it has not."""
    session = await shop.open()
    asked = await shop.pay(session, CARD_3DS)
    assert (asked["status"], asked["payment_intent_status"]) == ("open", "requires_action")
    path = f"/payment_intents/{asked['payment_intent']}/authenticate"
    await shop.sandbox.control(path, {"outcome": outcome})
    shown = await shop.read(session)
    assert shown["status"] == ("complete" if outcome == "pass" else "open")
    assert bool(shown["subscription"]) == (outcome == "pass")


async def test_only_an_open_session_can_be_paid_or_expired(shop: Shop) -> None:
    """https://docs.stripe.com/api/checkout/sessions/expire"""
    paid, expired = await shop.open(), await shop.open()
    await shop.pay(paid)
    asked = await shop.pay(expired, CARD_3DS)
    assert (await shop.sessions.expire_async(expired.id)).status == "expired"
    for session in (paid, expired):
        body = {"email": "a@b.example"}
        await shop.sandbox.control(f"/checkout/{session.id}/complete", body, expect=400)
        with pytest.raises(stripe.InvalidRequestError, match=r'status in \["open"\] can be expired'):
            await shop.sessions.expire_async(session.id)
    intent = await shop.sandbox.v1.payment_intents.retrieve_async(asked["payment_intent"])
    assert (intent.status, intent.cancellation_reason) == ("canceled", "expired")
    with pytest.raises(stripe.InvalidRequestError) as missing:
        await shop.sessions.retrieve_async("cs_test_none")
    assert missing.value.http_status == 404


async def test_the_clock_expires_it(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """After 24 hours, or earlier where that was asked for; its event is sent once."""
    shop = Shop(sandbox_hooked)
    now = (await sandbox_hooked.call("GET", "/sandbox/clock")).body["now"]
    early, late = await shop.open(expires_at=now + 3600), await shop.open()
    await sandbox_hooked.control("/clock", {"advance_seconds": 3700})
    assert [(await shop.read(one))["status"] for one in (early, late)] == ["expired", "open"]
    await sandbox_hooked.control("/clock", {"advance_seconds": 24 * 3600})
    await wait_until(lambda: len(sandbox_receiver.of("checkout.session.expired")) == 2)
    told = [event["data"]["object"]["id"] for event in sandbox_receiver.of("checkout.session.expired")]
    assert sorted(told) == sorted([early.id, late.id])


async def test_two_open_sessions_of_one_customer_can_both_be_paid(shop: Shop) -> None:
    """Nothing at Stripe prevents it."""
    customer = await shop.customer()
    sessions = [await shop.open(customer=customer) for _ in range(2)]
    paid = [await shop.pay(session) for session in sessions]
    assert len({one["subscription"] for one in paid}) == 2
    assert {one["customer"] for one in paid} == {customer}


async def test_a_lag_shows_a_complete_session_with_an_open_invoice(shop: Shop) -> None:
    await shop.sandbox.conditions(invoice_lag_ms=600_000)
    session = await shop.open()
    await shop.pay(session)
    shown = await shop.read(session, "invoice", "subscription")
    assert (shown["status"], shown["payment_status"]) == ("complete", "paid")
    assert (shown["invoice"]["status"], shown["subscription"]["status"]) == ("open", "incomplete")


@pytest.mark.parametrize("mode", ["payment", "subscription"])
async def test_nothing_to_pay(shop: Shop, mode: str) -> None:
    """https://docs.stripe.com/payments/checkout/no-cost-orders"""
    coupon = await shop.sandbox.v1.coupons.create_async({"percent_off": 100, "duration": "once"})
    session = await shop.open(mode, discounts=[{"coupon": coupon.id}])
    assert (session.amount_subtotal > 0, session.amount_total) == (True, 0)
    paid = await shop.pay(session, "pm_card_visa" if mode == "subscription" else None)
    assert (paid["payment_status"], paid["payment_intent"]) == ("no_payment_required", None)
    shown = await shop.read(session, "invoice")
    assert shown["total_details"]["amount_discount"] == session.amount_subtotal
    if mode == "subscription":
        assert (shown["invoice"]["status"], shown["invoice"]["amount_due"]) == ("paid", 0)


async def test_a_customer_gets_what_they_typed_where_the_session_says_so(shop: Shop) -> None:
    customer = (await shop.sandbox.v1.customers.create_async({})).id
    update = {"address": "auto", "name": "never"}
    tax = {"enabled": True}
    session = await shop.open(customer=customer, customer_update=update, automatic_tax=tax)
    assert session.automatic_tax.status == "requires_location_inputs"
    await shop.pay(session, name="Jenny", address={"country": "DE"})
    known = await shop.sandbox.v1.customers.retrieve_async(customer)
    assert (known.email, known.name, known.address.country) == ("typed@example.com", None, "DE")


IMPOSSIBLE: list[tuple[str, Json, str]] = [
    ("subscription", {"customer": "CUS", "customer_email": "a@b.example"}, "only specify one of these"),
    ("payment", {"customer": "CUS", "customer_creation": "always"}, "only specify one of these"),
    (
        "payment",
        {"allow_promotion_codes": True, "discounts": [{"coupon": "x"}]},
        "only specify one of these parameters: allow_promotion_codes, discounts",
    ),
    ("subscription", {"customer_creation": "always"}, "can only be used in `payment` mode"),
    ("subscription", {"invoice_creation": {"enabled": True}}, "only enable invoice creation when `mode`"),
    ("subscription", {"payment_intent_data": {"description": "x"}}, "can not pass `payment_intent_data`"),
    ("payment", {"subscription_data": {"description": "x"}}, "can not pass `subscription_data`"),
    ("subscription", {"customer_update": {"address": "auto"}}, "can only be used with `customer`"),
    ("subscription", {"line_items": [{"price": "ONCE", "quantity": 1}]}, "at least one recurring price"),
    ("payment", {"line_items": [{"price": "PLAN", "quantity": 1}]}, "`payment` mode but passed a recurring"),
    ("payment", {"line_items": [{"price": "ONCE"}]}, "Quantity is required"),
    ("payment", {"line_items": [{"price": "price_none", "quantity": 1}]}, "No such price"),
    ("payment", {"line_items": []}, "Missing required param: line_items"),
    ("subscription", {"success_url": ""}, "Missing required param: success_url"),
    ("subscription", {"success_url": "saas.example/done"}, "Not a valid URL"),
    ("subscription", {"return_url": "https://saas.example/"}, "not supported with `ui_mode: hosted_page`"),
    (
        "subscription",
        {"ui_mode": "embedded_page", "success_url": "https://saas.example/"},
        "not supported with `ui_mode: embedded_page`",
    ),
    ("subscription", {"ui_mode": "embedded_page"}, "Missing required param: return_url"),
    (
        "subscription",
        {
            "ui_mode": "embedded_page",
            "return_url": "https://saas.example/",
            "redirect_on_completion": "never",
        },
        "can not pass `return_url`",
    ),
    ("subscription", {"ui_mode": "hosted"}, "must be one of"),
    ("subscription", {"expires_at": 1800}, "at least 30 minutes"),
    ("subscription", {"expires_at": 4_000_000_000}, "less than 24 hours"),
    ("subscription", {"customer_email": "nobody"}, "Invalid email address"),
    ("subscription", {"customer": "CUS", "automatic_tax": {"enabled": True}}, "requires a valid address"),
    ("payment", {"client_reference_id": "x" * 201}, "at most 200 characters"),
    ("payment", {"line_items": [{"price": "CENT", "quantity": 1}]}, "must add up to at least 0.50"),
    ("payment", {"currency": "eur"}, "only supports `usd`"),
]


@pytest.mark.parametrize(("mode", "params", "words"), IMPOSSIBLE)
async def test_what_does_not_go_together(shop: Shop, mode: str, params: Json, words: str) -> None:
    """Stripe's 400s: https://docs.stripe.com/api/checkout/sessions/create"""
    known = {
        "CUS": await shop.customer(),
        "PLAN": (await shop.sandbox.plan()).id,
        "ONCE": await shop.once(),
        "CENT": await shop.once(1),
    }
    wanted = dict(params)
    if "customer" in wanted:
        wanted["customer"] = known[wanted["customer"]]
    if "line_items" in wanted:
        wanted["line_items"] = [
            {**line, "price": known.get(line["price"], line["price"])} for line in wanted["line_items"]
        ]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        await shop.open(mode, **wanted)
    assert words in str(refused.value)
    assert refused.value.http_status == 400


async def test_the_ways_of_showing_it(shop: Shop) -> None:
    """Only a hosted page has an address; the others have a secret while they are open."""
    hosted = await shop.open()
    embedded = await shop.open(
        ui_mode="embedded_page", return_url="https://saas.example/{CHECKOUT_SESSION_ID}"
    )
    silent = await shop.open(ui_mode="embedded_page", redirect_on_completion="never")
    elements = await shop.open(ui_mode="elements", return_url="https://saas.example/")
    assert (bool(hosted.url), hosted.client_secret) == (True, None)
    assert "return_url" not in await shop.read(hosted)
    for session in (embedded, silent, elements):
        assert session.url is None
        assert session.client_secret.startswith(f"{session.id}_secret_")
    assert (await shop.pay(embedded))["redirect_to"] == f"https://saas.example/{embedded.id}"
    assert (await shop.pay(silent))["redirect_to"] is None
    assert (await shop.read(embedded))["client_secret"] is None


async def test_five_levels_are_too_many(shop: Shop) -> None:
    """`data` counts as a level: https://github.com/stripe/stripe-java/issues/2011"""
    session = await shop.open()
    path = f"/v1/checkout/sessions/{session.id}"
    deep = await shop.sandbox.raw("GET", f"{path}?expand[]=invoice.payments.data.payment.payment_intent")
    assert (deep.status, "more than 4 levels" in deep.body["error"]["message"]) == (400, True)


async def test_the_same_key_is_the_same_session(shop: Shop) -> None:
    lines = [{"price": (await shop.sandbox.plan()).id, "quantity": 1}]
    params = {"mode": "subscription", "line_items": lines, "success_url": "https://saas.example/"}
    made = [await shop.sessions.create_async(params, {"idempotency_key": "checkout-1"}) for _ in range(2)]
    assert made[0].id == made[1].id
    assert len((await shop.sessions.list_async({"status": "open"})).data) == 1


async def test_a_restricted_key_needs_the_permission_for_sessions(shop: Shop) -> None:
    """https://docs.stripe.com/keys/restricted-api-keys"""
    made = await shop.sandbox.control("/restricted_keys", {"permissions": ["checkout_session_read"]})
    reply = await shop.sandbox.raw("GET", "/v1/checkout/sessions", key=made["key"])
    assert reply.status == 200
    reply = await shop.sandbox.raw("POST", "/v1/checkout/sessions", key=made["key"])
    assert (reply.status, "rak_checkout_session_write" in reply.body["error"]["message"]) == (403, True)


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
async def test_a_bank_debit_completes_the_session_before_it_is_paid(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver, outcome: str
) -> None:
    """Delayed notification: https://docs.stripe.com/checkout/fulfillment#delayed-notification"""
    shop = Shop(sandbox_hooked)
    session = await shop.open()
    paid = await shop.pay(session, "pm_usBankAccount_success")
    assert (paid["status"], paid["payment_status"]) == ("complete", "unpaid")
    shown = await shop.read(session, "invoice", "subscription")
    assert (shown["invoice"]["status"], shown["subscription"]["status"]) == ("open", "active")
    await sandbox_hooked.control(f"/payment_intents/{paid['payment_intent']}/decide", {"outcome": outcome})
    kind = f"checkout.session.async_payment_{outcome}"
    await wait_until(lambda: bool(sandbox_receiver.of(kind)))
    shown = await shop.read(session, "invoice", "subscription")
    statuses = (shown["payment_status"], shown["invoice"]["status"], shown["subscription"]["status"])
    expected = ("paid", "paid", "active") if outcome == "succeeded" else ("unpaid", "open", "past_due")
    assert statuses == expected


async def test_one_payment_by_debit_has_its_invoice_once_it_is_paid(shop: Shop) -> None:
    session = await shop.open("payment", invoice_creation={"enabled": True})
    paid = await shop.pay(session, "pm_usBankAccount_success")
    assert (paid["payment_status"], paid["invoice"]) == ("unpaid", None)
    await shop.sandbox.control(f"/payment_intents/{paid['payment_intent']}/decide")
    shown = await shop.read(session, "invoice")
    assert (shown["payment_status"], shown["invoice"]["status"]) == ("paid", "paid")


async def test_a_redirect_method_pays_at_the_bank(shop: Shop) -> None:
    """Later invoices are debits of the same account: https://docs.stripe.com/payments/ideal/set-up-payment"""
    price = (await shop.sandbox.plan(currency="eur")).id
    session = await shop.open(line_items=[{"price": price, "quantity": 1}])
    assert set(session.payment_method_types) == {"card", "link", "sepa_debit", "ideal", "bancontact"}
    asked = await shop.pay(session, payment_method_data={"type": "ideal"})
    assert (asked["status"], asked["payment_intent_status"]) == ("open", "requires_action")
    path = f"/payment_intents/{asked['payment_intent']}/authenticate"
    await shop.sandbox.control(path, {"outcome": "pass"})
    shown = await shop.read(session, "subscription.default_payment_method")
    assert shown["status"] == "complete"
    assert shown["subscription"]["default_payment_method"]["type"] == "sepa_debit"


@pytest.mark.parametrize("verb", ["confirm", "cancel"])
async def test_its_payment_intent_is_left_alone(shop: Shop, verb: str) -> None:
    """The SDK's `checkout.Session.payment_intent` says so."""
    asked = await shop.pay(await shop.open("payment"), CARD_3DS)
    path = f"/v1/payment_intents/{asked['payment_intent']}/{verb}"
    reply = await shop.sandbox.raw("POST", path)
    assert (reply.status, "created by a Checkout Session" in reply.body["error"]["message"]) == (400, True)


async def test_a_users_own_test_pays_a_session(shop: Shop) -> None:
    """`complete_checkout` of the fixture `paidup_sandbox`."""
    session = await shop.open("payment")
    theirs = SandboxOfTests(shop.sandbox.url)
    declined = await asyncio.to_thread(theirs.complete_checkout, session.id, DECLINED)
    assert declined["error"]["message"] == "Your card was declined."
    paid = await asyncio.to_thread(theirs.complete_checkout, session.id, email="a@b.example")
    assert (paid["status"], paid["redirect_to"]) == ("complete", f"https://saas.example/done?s={session.id}")


@pytest.mark.parametrize("mode", ["payment", "subscription"])
async def test_automatic_tax_is_added_once_the_place_is_known(shop: Shop, mode: str) -> None:
    """https://docs.stripe.com/tax/checkout: the session's total is above its prices then."""
    await shop.sandbox.conditions(automatic_tax_percent=19)
    creation = {"invoice_creation": {"enabled": True}} if mode == "payment" else {}
    coupon = await shop.sandbox.v1.coupons.create_async({"percent_off": 10, "duration": "once"})
    discounts = [{"coupon": coupon.id}]
    session = await shop.open(mode, automatic_tax={"enabled": True}, discounts=discounts, **creation)
    price = session.amount_subtotal
    assert session.amount_total == price * 9 // 10
    await shop.pay(session)
    shown = await shop.read(session, "invoice", "line_items")
    tax = shown["total_details"]["amount_tax"]
    assert (tax, shown["amount_total"]) == (round(price * 0.9 * 0.19), price * 9 // 10 + tax)
    assert shown["line_items"]["data"][0]["amount_tax"] == tax
    invoice = shown["invoice"]
    assert (invoice["status"], invoice["amount_paid"]) == ("paid", shown["amount_total"])
    assert (invoice["amount_remaining"], invoice["automatic_tax"]["status"]) == (0, "complete")


@pytest.mark.parametrize("percent", [25, 100])
async def test_a_code_after_a_declined_card_changes_what_is_paid(shop: Shop, percent: int) -> None:
    """The PaymentIntent of the first attempt follows, or is given up."""
    coupon = await shop.sandbox.v1.coupons.create_async({"percent_off": percent, "duration": "once"})
    promotion = {"type": "coupon", "coupon": coupon.id}
    await shop.sandbox.v1.promotion_codes.create_async({"code": "SPRING", "promotion": promotion})
    session = await shop.open(allow_promotion_codes=True, customer_email="a@b.example")
    await shop.sandbox.control(f"/checkout/{session.id}/complete", {"card": DECLINED}, expect=402)
    await shop.sandbox.call("POST", f"/c/pay/{session.id}/promotion", json={"code": "SPRING"})
    await shop.pay(session)
    shown = await shop.read(session, "invoice", "subscription")
    due = 2000 * (100 - percent) // 100
    assert (shown["invoice"]["status"], shown["invoice"]["amount_paid"]) == ("paid", due)
    assert shown["subscription"]["status"] == "active"
    (intent,) = (await shop.sandbox.raw("GET", "/v1/payment_intents")).body["data"]
    assert intent["status"] == ("succeeded" if due else "canceled")


async def test_a_payment_that_is_processing_is_not_expired(shop: Shop) -> None:
    """Neither by call nor by the clock: it could succeed afterwards."""
    await shop.sandbox.conditions(processing_ms=600_000)
    session = await shop.open()
    await shop.pay(session)
    with pytest.raises(stripe.InvalidRequestError, match="processing"):
        await shop.sessions.expire_async(session.id)
    await shop.sandbox.control("/clock", {"advance_seconds": 25 * 3600})
    assert (await shop.read(session))["status"] == "open"


async def test_a_trial_costs_nothing_and_collects_a_card(shop: Shop) -> None:
    """https://docs.stripe.com/payments/checkout/free-trials"""
    session = await shop.open(subscription_data={"trial_period_days": 7})
    assert (session.amount_subtotal, session.amount_total) == (0, 0)
    await shop.sandbox.control(
        f"/checkout/{session.id}/complete", {"card": None, "email": "a@b.example"}, expect=400
    )
    paid = await shop.pay(session)
    assert (paid["payment_status"], paid["payment_intent"]) == ("no_payment_required", None)
    shown = await shop.read(session, "subscription.default_payment_method", "invoice")
    assert shown["subscription"]["status"] == "trialing"
    assert shown["subscription"]["default_payment_method"]["customer"] == paid["customer"]
    assert (shown["invoice"]["status"], shown["invoice"]["amount_due"]) == ("paid", 0)


async def test_the_outcome_of_a_debit_is_told_once(shop: Shop) -> None:
    """Whatever becomes of the invoice after that is not the session's."""
    session = await shop.open()
    paid = await shop.pay(session, "pm_usBankAccount_success")
    await shop.sandbox.control(f"/payment_intents/{paid['payment_intent']}/decide", {"outcome": "failed"})
    for card in (DECLINED, "pm_card_visa"):
        data = {"payment_method": card}
        await shop.sandbox.raw("POST", f"/v1/invoices/{paid['invoice']}/pay", data=data)
    shown = await shop.read(session, "invoice")
    assert (shown["invoice"]["status"], shown["payment_status"]) == ("paid", "unpaid")
    made = (await shop.sandbox.call("GET", "/sandbox/events?limit=200")).body["events"]
    told = [event["type"] for event in made if event["type"].startswith("checkout.session.async")]
    assert told == ["checkout.session.async_payment_failed"]
