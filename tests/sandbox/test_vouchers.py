"""Vouchers: the customer gets one, and pays it at a bank or in a shop days later, or never."""

from __future__ import annotations

from typing import Any

import pytest

from .rig import Json, Receiver, Reply, Sandbox, Signup, check_shape, wait_until
from .shop import Shop

DAY = 24 * 3600
ADDRESS = {
    "line1": "1234 Av. Paulista",
    "city": "São Paulo",
    "state": "SP",
    "postal_code": "01310-000",
    "country": "BR",
}
CURRENCIES = {"boleto": "brl", "oxxo": "mxn", "konbini": "jpy"}


def form(kind: str, email: str, tax_id: str = "000.000.000-00") -> dict[str, str]:
    """`payment_method_data`, as the Payment Element sends it."""
    data = {"type": kind, "billing_details][name": "João da Silva", "billing_details][email": email}
    if kind == "boleto":
        data["boleto][tax_id"] = tax_id
        data |= {f"billing_details][address][{name}": value for name, value in ADDRESS.items()}
    return {f"payment_method_data[{name}]": value for name, value in data.items()}


async def intent_for(sandbox: Sandbox, kind: str) -> Json:
    created = await sandbox.raw(
        "POST", "/v1/payment_intents", data={"amount": "2000", "currency": CURRENCIES[kind]}
    )
    assert created.status == 200, created
    return created.body


async def confirm(sandbox: Sandbox, intent: Json, kind: str, email: str, **more: str) -> Reply:
    path = f"/v1/payment_intents/{intent['id']}/confirm"
    return await sandbox.browser(
        "POST", path, client_secret=intent["client_secret"], **form(kind, email, **more)
    )


async def read(sandbox: Sandbox, intent: Json) -> Json:
    return (await sandbox.raw("GET", f"/v1/payment_intents/{intent['id']}")).body


@pytest.mark.parametrize("kind", CURRENCIES)
async def test_a_voucher_waits_to_be_paid(sandbox_bare: Sandbox, kind: str) -> None:
    """Its shape is `PaymentIntent.NextAction` of the SDK; it ends with a day in its own country."""
    intent = await intent_for(sandbox_bare, kind)
    confirmed = await confirm(sandbox_bare, intent, kind, "fulaninho@example.com")
    assert (confirmed.status, confirmed.body["status"]) == (200, "requires_action"), confirmed
    shown = await read(sandbox_bare, intent)
    check_shape(shown)
    assert shown["next_action"]["type"] == f"{kind}_display_details"
    voucher = shown["next_action"][f"{kind}_display_details"]
    expires_at = voucher["expires_after" if kind == "oxxo" else "expires_at"]
    hours = {"boleto": -3, "oxxo": -6, "konbini": 9}[kind]
    assert (expires_at + hours * 3600 + 1) % DAY == 0
    async with sandbox_bare.http.get(voucher["hosted_voucher_url"]) as page:
        text = await page.text()
    assert "João da Silva" in text
    await sandbox_bare.control("/clock", {"advance_seconds": 200})
    paid = await read(sandbox_bare, intent)
    assert (paid["status"], paid["amount_received"], paid["next_action"]) == ("succeeded", 2000, None)
    check_shape((await sandbox_bare.raw("GET", f"/v1/charges/{paid['latest_charge']}")).body)
    method = (await sandbox_bare.raw("GET", f"/v1/payment_methods/{paid['payment_method']}")).body
    check_shape(method)
    async with sandbox_bare.http.get(voucher["hosted_voucher_url"]) as gone:
        assert gone.status == 404


@pytest.mark.parametrize(
    ("email", "after", "status"),
    [
        ("expire_with_delay@example.com", 200, "requires_payment_method"),
        ("fill_never@example.com", 200, "requires_action"),
        ("fill_never@example.com", 5 * DAY, "requires_payment_method"),
    ],
)
async def test_the_address_decides(sandbox_bare: Sandbox, email: str, after: int, status: str) -> None:
    """https://docs.stripe.com/payments/boleto/accept-a-payment#test-integration"""
    intent = await intent_for(sandbox_bare, "boleto")
    await confirm(sandbox_bare, intent, "boleto", email)
    await sandbox_bare.control("/clock", {"advance_seconds": after})
    shown = await read(sandbox_bare, intent)
    check_shape(shown)
    error = shown["last_payment_error"]
    assert shown["status"] == status
    assert (error and error["code"]) == (
        "payment_intent_payment_attempt_expired" if status == "requires_payment_method" else None
    )


@pytest.mark.parametrize(
    ("email", "status"), [("succeed_immediately", "succeeded"), ("expire_immediately", "failed")]
)
async def test_at_once_comes_after_the_confirmation(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver, email: str, status: str
) -> None:
    """It is confirmed as one that waits; the event comes seconds later."""
    intent = await intent_for(sandbox_hooked, "oxxo")
    confirmed = await confirm(sandbox_hooked, intent, "oxxo", f"{email}@test.com")
    assert confirmed.body["status"] == "requires_action"
    kind = "payment_intent.succeeded" if status == "succeeded" else "payment_intent.payment_failed"
    await wait_until(lambda: kind in sandbox_receiver.types())
    assert "payment_intent.requires_action" in sandbox_receiver.types()
    for event in (one.event for one in sandbox_receiver.received):
        check_shape(event["data"]["object"])


async def test_another_method_replaces_a_voucher(sandbox_bare: Sandbox) -> None:
    """Confirming again cancels it: https://docs.stripe.com/payments/konbini/accept-a-payment#cancelation"""
    intent = await intent_for(sandbox_bare, "konbini")
    await confirm(sandbox_bare, intent, "konbini", "hanako@test.com")
    path = f"/v1/payment_intents/{intent['id']}/confirm"
    paid = await sandbox_bare.raw("POST", path, data={"payment_method": "pm_card_visa"})
    assert paid.body["status"] == "succeeded"
    await sandbox_bare.control("/clock", {"advance_seconds": 5 * DAY})
    assert (await read(sandbox_bare, intent))["status"] == "succeeded"
    await sandbox_bare.control(f"/payment_intents/{intent['id']}/decide", expect=400)


async def test_what_is_missing_is_refused(sandbox_bare: Sandbox) -> None:
    """A Boleto needs a tax id, an address and its own currency; a voucher is no check by the bank."""
    intent = await intent_for(sandbox_bare, "boleto")
    wrong = await confirm(sandbox_bare, intent, "boleto", "a@example.com", tax_id="12")
    assert wrong.body["error"]["param"] == "boleto[tax_id]"
    foreign = await confirm(sandbox_bare, intent, "oxxo", "a@example.com")
    assert "is not allowed for this PaymentIntent" in foreign.body["error"]["message"]
    await confirm(sandbox_bare, intent, "boleto", "a@example.com")
    await sandbox_bare.control(
        f"/payment_intents/{intent['id']}/authenticate", {"outcome": "pass"}, expect=400
    )
    async with sandbox_bare.http.get(f"{sandbox_bare.url}/challenge/{intent['id']}") as answer:
        assert answer.status == 404


async def subscribe(sandbox: Sandbox) -> Signup:
    plan = await sandbox.plan(currency="brl")
    return await sandbox.subscribe(items=[{"price": plan.id}])


async def test_a_first_payment_by_voucher_has_23_hours(sandbox_bare: Sandbox) -> None:
    """The subscription stays incomplete until it is paid, and its invoice is void after 23 hours.

    https://docs.stripe.com/billing/subscriptions/overview#subscription-lifecycle names no exception.
    """
    signup = await subscribe(sandbox_bare)
    intent = {"id": signup.intent, "client_secret": signup.secret}
    await confirm(sandbox_bare, intent, "boleto", "fill_never@example.com")
    assert await signup.read() == ("requires_action", "open", "incomplete")
    await sandbox_bare.control("/clock", {"advance_seconds": DAY})
    assert await signup.read() == ("canceled", "void", "incomplete_expired")
    paid = await subscribe(sandbox_bare)
    await confirm(sandbox_bare, {"id": paid.intent, "client_secret": paid.secret}, "boleto", "a@example.com")
    await sandbox_bare.control("/clock", {"advance_seconds": 200})
    assert await paid.read() == ("succeeded", "paid", "active")
    await sandbox_bare.control(f"/subscriptions/{paid.subscription.id}/renew")
    renewed = await sandbox_bare.v1.subscriptions.retrieve_async(paid.subscription.id)
    assert renewed.status == "past_due"  # a new voucher is sent, and not paid yet
    invoice = await sandbox_bare.v1.invoices.retrieve_async(
        renewed.latest_invoice, {"expand": ["payments.data.payment.payment_intent"]}
    )
    (payment,) = invoice.payments.data
    assert payment.payment.payment_intent.next_action.type == "boleto_display_details"


async def test_vouchers_for_single_payments_are_not_offered_for_subscriptions(sandbox_bare: Sandbox) -> None:
    """OXXO and Konbini cannot: https://docs.stripe.com/payments/konbini/accept-a-payment#compatibility"""
    plan = await sandbox_bare.plan(currency="jpy")
    signup = await sandbox_bare.subscribe(items=[{"price": plan.id}])
    shown = (await sandbox_bare.raw("GET", f"/v1/payment_intents/{signup.intent}")).body
    assert shown["payment_method_types"] == ["card", "link"]
    assert "konbini" in (await intent_for(sandbox_bare, "konbini"))["payment_method_types"]


@pytest.mark.parametrize(("outcome", "told"), [("pay", "succeeded"), ("expire", "failed")])
async def test_checkout_is_complete_and_unpaid(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver, outcome: str, told: str
) -> None:
    """The customer is sent to the voucher, not to `success_url`; what became of it is told later."""
    shop = Shop(sandbox_hooked)
    plan = await sandbox_hooked.plan(currency="brl")
    session = await shop.open(line_items=[{"price": plan.id, "quantity": 1}])
    data: Any = {"type": "boleto", "boleto": {"tax_id": "000.000.000-00"}}
    data["billing_details"] = {"address": ADDRESS}
    typed = {"email": "fill_never@example.com", "name": "João da Silva", "payment_method_data": data}
    async with sandbox_hooked.http.post(f"{sandbox_hooked.url}/c/pay/{session.id}/pay", json=typed) as answer:
        went = await answer.json()
    assert (went["status"], "/voucher/pi_" in went["to"]) == ("complete", True), went
    shown = await shop.read(session, "subscription", "invoice")
    check_shape(await shop.read(session))
    assert (shown["status"], shown["payment_status"]) == ("complete", "unpaid")
    assert (shown["subscription"]["status"], shown["invoice"]["status"]) == ("active", "open")
    url = f"{went['to']}?outcome={outcome}"
    async with sandbox_hooked.http.post(url, allow_redirects=False) as decided:
        assert decided.status == 303
    await wait_until(lambda: f"checkout.session.async_payment_{told}" in sandbox_receiver.types())
    after = await shop.read(session, "invoice")
    assert (after["payment_status"], after["invoice"]["status"]) == (
        ("paid", "paid") if told == "succeeded" else ("unpaid", "open")
    )
