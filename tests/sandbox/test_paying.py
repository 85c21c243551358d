"""From subscribing to active: confirm, pass the bank's check, be paid."""

from __future__ import annotations

import asyncio

import pytest
import stripe

from .rig import CARD, CARD_3DS, Sandbox


async def test_a_card_that_needs_no_check(sandbox_bare: Sandbox) -> None:
    """A confirmed payment makes the invoice paid and the subscription active, and keeps the card."""
    signup = await sandbox_bare.subscribe()
    assert await signup.read() == ("requires_payment_method", "open", "incomplete")
    assert (await signup.confirm(CARD)).body["status"] == "succeeded"
    assert await signup.read() == ("succeeded", "paid", "active")
    subscription = await sandbox_bare.v1.subscriptions.retrieve_async(signup.subscription.id)
    assert subscription.default_payment_method.startswith("pm_")


async def test_the_invoice_and_its_intent_are_known_before_payment(sandbox_bare: Sandbox) -> None:
    """The default InvoicePayment exists from finalization and becomes paid with the invoice."""
    signup = await sandbox_bare.subscribe()
    (payment,) = signup.subscription.latest_invoice.payments.data
    assert payment.status == "open"
    assert payment.is_default
    assert payment.payment.payment_intent == signup.intent
    await signup.confirm()
    query = {
        "payment": {"type": "payment_intent", "payment_intent": signup.intent},
        "expand": ["data.invoice"],
    }
    (linked,) = (await sandbox_bare.v1.invoice_payments.list_async(query)).data
    assert (linked.status, linked.amount_paid, linked.invoice.id) == ("paid", 2000, signup.invoice)
    assert linked.invoice.amount_paid == 2000


async def test_three_d_secure_passed(sandbox_bare: Sandbox) -> None:
    """The intent requires the bank's check; once it passes, everything is paid."""
    signup = await sandbox_bare.subscribe()
    asked = (await signup.confirm(CARD_3DS)).body
    assert (asked["status"], asked["next_action"]["type"]) == ("requires_action", "use_stripe_sdk")
    assert await signup.read() == ("requires_action", "open", "incomplete")
    await signup.authenticate("pass")
    assert await signup.read() == ("succeeded", "paid", "active")


async def test_three_d_secure_failed(sandbox_bare: Sandbox) -> None:
    """After a failed check the intent requires another payment method, which can then pay."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm(CARD_3DS)
    await signup.authenticate("fail")
    intent = await sandbox_bare.v1.payment_intents.retrieve_async(signup.intent)
    assert intent.status == "requires_payment_method"
    assert intent.last_payment_error.code == "payment_intent_authentication_failure"
    assert (await signup.confirm(CARD)).status == 200
    assert await signup.read() == ("succeeded", "paid", "active")


@pytest.mark.parametrize(
    ("card", "code", "decline"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeCustomerFail", "card_declined", "generic_decline"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
    ],
)
async def test_declined_cards(sandbox_bare: Sandbox, card: str, code: str, decline: str) -> None:
    """A declined card gets 402 with the intent, creates a failed charge, and leaves the invoice open."""
    signup = await sandbox_bare.subscribe()
    reply = await signup.confirm(card)
    error = reply.body["error"]
    assert (reply.status, error["type"], error["code"], error["decline_code"]) == (
        402,
        "card_error",
        code,
        decline,
    )
    assert error["payment_intent"]["status"] == "requires_payment_method"
    assert "metadata" not in error["payment_intent"]
    charge = await sandbox_bare.v1.charges.retrieve_async(error["charge"])
    assert (charge.status, charge.failure_code) == ("failed", code)
    assert await signup.read() == ("requires_payment_method", "open", "incomplete")


async def test_a_decline_after_the_check(sandbox_bare: Sandbox) -> None:
    """Some cards pass the bank's check and are then declined: reading the intent shows it."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm("pm_card_authenticationRequiredChargeDeclinedInsufficientFunds")
    await signup.authenticate("pass")
    intent = await sandbox_bare.v1.payment_intents.retrieve_async(signup.intent)
    assert intent.last_payment_error.decline_code == "insufficient_funds"


async def test_a_succeeded_intent_cannot_be_confirmed_again(sandbox_bare: Sandbox) -> None:
    """A second confirmation gets Stripe's error."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    again = await signup.confirm()
    assert again.status == 400
    assert again.body["error"]["code"] == "payment_intent_unexpected_state"
    assert again.body["error"]["payment_intent"]["status"] == "succeeded"


async def test_two_confirmations_at_once_charge_once(sandbox_bare: Sandbox) -> None:
    """Of several concurrent confirmations, one pays."""
    signup = await sandbox_bare.subscribe()
    replies = await asyncio.gather(*[signup.confirm() for _ in range(5)])
    assert sorted(reply.status for reply in replies) == [200, 400, 400, 400, 400]
    charges = await sandbox_bare.v1.charges.list_async({"payment_intent": signup.intent})
    assert len(charges.data) == 1


async def test_a_confirmation_needs_the_secret(sandbox_bare: Sandbox) -> None:
    """Without the client secret, or with a wrong one, a browser can neither read nor confirm."""
    signup = await sandbox_bare.subscribe()
    path = f"/v1/payment_intents/{signup.intent}"
    assert (await sandbox_bare.browser("GET", path)).body["error"]["code"] == "parameter_missing"
    wrong = await sandbox_bare.browser(
        "POST", path + "/confirm", client_secret="pi_1_secret_2", payment_method=CARD
    )
    assert wrong.body["error"]["code"] == "payment_intent_invalid_parameter"
    seen = (await sandbox_bare.browser("GET", f"{path}?client_secret={signup.secret}")).body
    assert seen["status"] == "requires_payment_method"
    assert not {"customer", "metadata"} & seen.keys()


async def test_a_typed_card(sandbox_bare: Sandbox) -> None:
    """Test numbers behave as documented; a number with a wrong checksum is rejected."""
    form = {"payment_method_data[type]": "card", "payment_method_data[card][exp_month]": "12"}
    form |= {"payment_method_data[card][exp_year]": "40", "payment_method_data[card][cvc]": "123"}
    number = "payment_method_data[card][number]"
    signup = await sandbox_bare.subscribe()
    form["client_secret"] = signup.secret
    path = f"/v1/payment_intents/{signup.intent}/confirm"
    wrong = await sandbox_bare.browser("POST", path, **form, **{number: "4242424242424241"})
    assert (wrong.status, wrong.body["error"]["code"]) == (402, "incorrect_number")
    asked = await sandbox_bare.browser("POST", path, **form, **{number: "4000 0000 0000 3220"})
    assert asked.body["status"] == "requires_action"


async def test_a_card_saved_beforehand_pays_at_once(sandbox_bare: Sandbox) -> None:
    """With `allow_incomplete` and a saved card the subscription is active as soon as it is created (S09)."""
    method = "pm_card_visa"
    customer = await sandbox_bare.v1.customers.create_async({"email": "a@example.com"})
    attached = await sandbox_bare.v1.payment_methods.attach_async(method, {"customer": customer.id})
    signup = await sandbox_bare.subscribe(
        customer=customer.id, default_payment_method=attached.id, payment_behavior="allow_incomplete"
    )
    assert await signup.read() == ("succeeded", "paid", "active")


async def test_error_if_incomplete_creates_nothing(sandbox_bare: Sandbox) -> None:
    """A card that does not pay at once is an error, and no subscription is created."""
    for card in ("pm_card_chargeCustomerFail", CARD_3DS):
        with pytest.raises(stripe.CardError):
            await sandbox_bare.subscribe(default_payment_method=card, payment_behavior="error_if_incomplete")
    assert (await sandbox_bare.v1.subscriptions.list_async({"status": "all"})).data == []


async def test_a_declined_saved_card_leaves_it_incomplete(sandbox_bare: Sandbox) -> None:
    """With `allow_incomplete`, another card can pay after a declined first payment."""
    signup = await sandbox_bare.subscribe(
        default_payment_method="pm_card_chargeCustomerFail", payment_behavior="allow_incomplete"
    )
    assert await signup.read() == ("requires_payment_method", "open", "incomplete")
    await signup.confirm()
    assert await signup.read() == ("succeeded", "paid", "active")


async def test_an_intent_without_an_invoice(sandbox_bare: Sandbox) -> None:
    """An intent created directly has no invoice (S22), and another customer's card cannot pay it."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    saved = (await sandbox_bare.v1.payment_intents.retrieve_async(signup.intent)).payment_method
    other = await sandbox_bare.v1.customers.create_async({})
    params = {"amount": 500, "currency": "usd", "customer": other.id}
    intent = await sandbox_bare.v1.payment_intents.create_async(params)
    with pytest.raises(stripe.InvalidRequestError, match="another Customer"):
        await sandbox_bare.v1.payment_intents.confirm_async(intent.id, {"payment_method": saved})
    paid = await sandbox_bare.v1.payment_intents.confirm_async(intent.id, {"payment_method": CARD})
    assert paid.status == "succeeded"
    query = {"payment": {"type": "payment_intent", "payment_intent": intent.id}}
    assert (await sandbox_bare.v1.invoice_payments.list_async(query)).data == []
