"""Contract: everything the sandbox serves or sends has Stripe's shape at the SDK's pinned version."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from paidup_demo.sandbox.settings import API_VERSION

from ..support.sdk_shapes import problems
from .rig import CARD_3DS, Json, Receiver, Sandbox, Signup, check_shape, wait_until
from .shop import Shop

TABLES = (
    "customers", "products", "prices", "subscriptions?status=all", "invoices", "payment_intents", "charges",
    "refunds", "disputes", "webhook_endpoints", "credit_notes", "invoiceitems",
    "events?limit=100", "invoice_payments", "setup_intents", "checkout/sessions", "payment_links",
    "promotion_codes",
)  # fmt: skip


def test_the_imitated_version_is_the_pinned_one() -> None:
    """The sandbox imitates the version that the installed SDK asks for."""
    assert stripe.api_version == API_VERSION


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"paid": True}, "invoice.paid: a field that Stripe does not have"),
        ({"total": None}, "invoice.total: null"),
        ({"total": "5"}, "invoice.total: '5' is no <class 'int'>"),
        ({"status": "unpaid"}, "invoice.status: 'unpaid' is none of"),
        ({"payments": None}, "invoice.payments: null, where Stripe leaves it out"),
        ({"status_transitions": {"paid_on": 5}}, "invoice.status_transitions.paid_on: a field that Stripe"),
        ({"issuer": {}}, "invoice.issuer.type: missing"),
        ({"customer": {"object": "charge", "id": "ch_1"}}, "invoice.customer: an object where there is none"),
        ({"lines": {"object": "list", "data": []}}, "invoice.lines: no list of Stripe's"),
        ({"discounts": [7]}, "invoice.discounts[0]: 7 is no"),
    ],
)
async def test_whatever_differs_from_the_sdks_types_is_found(
    sandbox_bare: Sandbox, change: Json, found: str
) -> None:
    """The contract can fail: a field, a kind of value, an enum, a null, an object, a list."""
    signup = await sandbox_bare.subscribe()
    invoice = (await sandbox_bare.raw("GET", f"/v1/invoices/{signup.invoice}")).body
    assert problems(invoice) == []
    assert [one for one in problems(invoice | change) if one.startswith(found)]
    del invoice["amount_due"]
    assert problems(invoice) == ["invoice.amount_due: missing"]


async def live_through_everything(sandbox: Sandbox) -> None:
    """Creates every kind of object in every state that a customer can cause."""
    v1: Any = sandbox.v1
    paid = await sandbox.subscribe()
    await paid.confirm(CARD_3DS)
    await paid.authenticate("fail")
    await paid.confirm("pm_card_chargeDeclined")
    await paid.confirm(CARD_3DS)
    await paid.authenticate("pass")
    await sandbox.control(f"/subscriptions/{paid.subscription.id}/renew")
    half = await v1.refunds.create_async({"payment_intent": paid.intent, "amount": 700})
    await sandbox.control(f"/refunds/{half.id}/fail")
    dispute = await sandbox.control("/disputes", {"payment_intent": paid.intent})
    await sandbox.control(f"/disputes/{dispute['id']}/close", {"status": "won"})
    voided = await sandbox.subscribe()
    await v1.invoices.void_invoice_async(voided.invoice)
    written_off = await sandbox.subscribe()
    await v1.invoices.mark_uncollectible_async(written_off.invoice)
    coupon = await v1.coupons.create_async({"percent_off": 100, "duration": "once"})
    await sandbox.subscribe(discounts=[{"coupon": coupon.id}])
    trial = await sandbox.subscribe(trial_period_days=7)
    await v1.setup_intents.confirm_async(
        trial.subscription.pending_setup_intent.id, {"payment_method": "pm_card_visa"}
    )
    await v1.subscriptions.update_async(trial.subscription.id, {"cancel_at_period_end": True})
    await _change_in_every_way(sandbox, paid)
    await v1.credit_notes.create_async({"invoice": paid.invoice, "amount": 200, "credit_amount": 200})
    await v1.subscriptions.cancel_async(paid.subscription.id)
    await _go_to_checkout(sandbox, coupon.id)
    draft = await v1.invoices.create_async({"customer": paid.customer})
    await v1.invoice_items.create_async(
        {"customer": paid.customer, "invoice": draft.id, "amount": 900, "currency": "usd", "description": "x"}
    )
    await v1.invoices.pay_async(draft.id, {"payment_method": "pm_card_visa"})


async def _change_in_every_way(sandbox: Sandbox, paid: Signup) -> None:
    """Prorations that are pending items, invoiced at once, or part of a pending update."""
    (item,) = paid.subscription["items"].data
    for amount, how in ((5000, "create_prorations"), (900, "always_invoice"), (9000, "always_invoice")):
        items = [{"id": item.id, "price": (await sandbox.plan(amount)).id}]
        change = {"items": items, "payment_behavior": "pending_if_incomplete", "proration_behavior": how}
        await sandbox.v1.subscriptions.update_async(paid.subscription.id, change)


async def _go_to_checkout(sandbox: Sandbox, coupon: str) -> None:
    """A session in each state, a link and a code."""
    shop = Shop(sandbox)
    await shop.pay(await shop.open("payment", invoice_creation={"enabled": True}))
    await shop.sessions.expire_async((await shop.open(ui_mode="elements")).id)
    await shop.open("payment", automatic_tax={"enabled": True})
    line = {"price": await shop.once(), "quantity": 1}
    await sandbox.v1.payment_links.create_async({"line_items": [line]})
    promotion = {"type": "coupon", "coupon": coupon}
    await sandbox.v1.promotion_codes.create_async({"code": "FREE", "promotion": promotion})


async def test_every_object_served(sandbox_hooked: Sandbox) -> None:
    """Every list, and each of its objects read by id, validates and has no unknown key."""
    await live_through_everything(sandbox_hooked)
    for table in TABLES:
        listed = (await sandbox_hooked.raw("GET", f"/v1/{table}")).body
        assert listed["data"], table
        for served in listed["data"]:
            check_shape(served)
            path = f"/v1/{table.partition('?')[0]}/{served['id']}"
            assert (await sandbox_hooked.raw("GET", path)).body["id"] == served["id"]


async def test_objects_that_no_list_shows(sandbox_bare: Sandbox) -> None:
    """The account, a coupon, cards, and what creations return: each is as the SDK says."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    coupon = await sandbox_bare.v1.coupons.create_async({"percent_off": 10, "duration": "once"})
    cards = await sandbox_bare.raw("GET", f"/v1/payment_methods?customer={signup.customer}&type=card")
    assert cards.body["data"]
    for card in cards.body["data"]:
        check_shape(card)
    for path in ("account", f"coupons/{coupon.id}"):
        check_shape((await sandbox_bare.raw("GET", f"/v1/{path}")).body)
    check_shape(signup.subscription.to_dict(for_json=True))
    endpoint = {"url": "https://paidup.example/hook", "enabled_events[0]": "*"}
    check_shape(
        (await sandbox_bare.raw("POST", "/v1/webhook_endpoints", key="sk_test_1", data=endpoint)).body
    )


async def test_every_event_sent(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """Every webhook and its object validate, and none has a key that only expansion shows."""
    await live_through_everything(sandbox_hooked)
    made = (await sandbox_hooked.call("GET", "/sandbox/events?limit=1000")).body["events"]
    await wait_until(lambda: len(sandbox_receiver.received) == len(made))
    kinds = set()
    for event in (one.event for one in sandbox_receiver.received):
        check_shape(event)
        check_shape(event["data"]["object"])
        assert not {"payments", "confirmation_secret"} & event["data"]["object"].keys()
        kinds.add(event["data"]["object"]["object"])
    assert kinds >= {
        "invoice",
        "invoice_payment",
        "payment_intent",
        "charge",
        "refund",
        "dispute",
        "subscription",
    }


async def test_expanded_objects(sandbox_bare: Sandbox) -> None:
    """One call returns an invoice with payments, intents and the client secret, each in Stripe's shape."""
    signup = await sandbox_bare.subscribe()
    paths = ["payments.data.payment.payment_intent", "confirmation_secret", "customer"]
    await signup.confirm()
    query = "&".join(f"expand[]={path}" for path in paths)
    invoice: Json = (await sandbox_bare.raw("GET", f"/v1/invoices/{signup.invoice}?{query}")).body
    check_shape(invoice)
    intent = invoice["payments"]["data"][0]["payment"]["payment_intent"]
    check_shape(intent)
    assert invoice["confirmation_secret"] == {"client_secret": signup.secret, "type": "payment_intent"}


async def test_the_invoice_of_a_subscription(sandbox_bare: Sandbox) -> None:
    """An invoice has its subscription under `parent`, prices under its lines' `pricing`, and no intent."""
    signup = await sandbox_bare.subscribe()
    invoice = (await sandbox_bare.raw("GET", f"/v1/invoices/{signup.invoice}")).body
    assert not {"payment_intent", "subscription", "charge", "paid"} & invoice.keys()
    details = invoice["parent"]["subscription_details"]
    assert details == {"subscription": signup.subscription.id, "metadata": {"account": "7"}}
    (line,) = invoice["lines"]["data"]
    item = signup.subscription["items"].data[0]
    assert line["pricing"]["price_details"]["price"] == item.price.id
    assert line["parent"]["type"] == "subscription_item_details"
    assert line["period"] == {"start": item.current_period_start, "end": item.current_period_end}
    assert "current_period_start" not in signup.subscription


async def test_metadata_is_frozen_into_the_invoice(sandbox_bare: Sandbox) -> None:
    """Later changes of the subscription's metadata do not change the invoice."""
    signup = await sandbox_bare.subscribe()
    await sandbox_bare.v1.subscriptions.update_async(signup.subscription.id, {"metadata": {"account": "8"}})
    invoice = await sandbox_bare.v1.invoices.retrieve_async(signup.invoice)
    assert invoice.parent.subscription_details.metadata.account == "7"
