"""Invoices and subscriptions that are not simply paid at once."""

from __future__ import annotations

import pytest
import stripe

from .rig import CARD_3DS, Receiver, Sandbox, wait_until

DAY_S = 24 * 3600


async def test_a_trial(sandbox_bare: Sandbox) -> None:
    """A trial creates a paid invoice of 0 without an intent, and a SetupIntent for the card (S21)."""
    signup = await sandbox_bare.subscribe(trial_period_days=14)
    invoice = signup.subscription.latest_invoice
    assert (signup.subscription.status, invoice.status, invoice.amount_paid) == ("trialing", "paid", 0)
    assert (invoice.billing_reason, invoice.confirmation_secret, invoice.payments.data) == (
        "subscription_create", None, [],
    )  # fmt: skip
    setup = signup.subscription.pending_setup_intent
    form = {"client_secret": setup.client_secret, "payment_method": CARD_3DS}
    asked = await sandbox_bare.browser("POST", f"/v1/setup_intents/{setup.id}/confirm", **form)
    assert asked.body["status"] == "requires_action"
    await sandbox_bare.control(f"/setup_intents/{setup.id}/authenticate", {"outcome": "pass"})
    subscription = await sandbox_bare.v1.subscriptions.retrieve_async(signup.subscription.id)
    assert subscription.pending_setup_intent is None
    assert subscription.default_payment_method.startswith("pm_")


async def test_a_full_discount(sandbox_bare: Sandbox) -> None:
    """A discount of 100 % creates a paid invoice of 0 whose lines keep their price (S21)."""
    coupon = await sandbox_bare.v1.coupons.create_async({"percent_off": 100, "duration": "once"})
    signup = await sandbox_bare.subscribe(discounts=[{"coupon": coupon.id}])
    invoice = signup.subscription.latest_invoice
    assert (signup.subscription.status, invoice.status, invoice.total, invoice.subtotal) == (
        "active",
        "paid",
        0,
        2000,
    )
    assert invoice.lines.data[0].amount == 2000


async def test_a_part_discount_is_shared_over_the_lines(sandbox_bare: Sandbox) -> None:
    """An amount-off coupon lowers the total; the lines' shares add up to it."""
    coupon = await sandbox_bare.v1.coupons.create_async({"amount_off": 1001, "currency": "usd"})
    items = [
        {"price": (await sandbox_bare.plan(2000)).id, "quantity": 3},
        {"price": (await sandbox_bare.plan(1000)).id},
    ]
    signup = await sandbox_bare.subscribe(items=items, discounts=[{"coupon": coupon.id}])
    invoice = signup.subscription.latest_invoice
    assert (invoice.subtotal, invoice.amount_due) == (7000, 5999)
    assert sum(line.discount_amounts[0].amount for line in invoice.lines.data) == 1001


async def test_the_customer_balance_pays(sandbox_bare: Sandbox) -> None:
    """A negative balance is used up first; an invoice that it covers is paid with `amount_paid` 0."""
    customer = await sandbox_bare.v1.customers.create_async({"balance": -2500})
    first = await sandbox_bare.subscribe(customer=customer.id)
    invoice = first.subscription.latest_invoice
    assert (invoice.status, invoice.amount_paid, invoice.starting_balance, invoice.ending_balance) == (
        "paid", 0, -2500, -500,
    )  # fmt: skip
    second = await sandbox_bare.subscribe(customer=customer.id)
    assert second.subscription.latest_invoice.amount_due == 1500


async def test_unpaid_for_23_hours(sandbox_bare: Sandbox) -> None:
    """Without a first payment the subscription expires and its invoice is voided."""
    signup = await sandbox_bare.subscribe()
    await sandbox_bare.control("/clock", {"advance_seconds": 22 * 3600})
    assert await signup.read() == ("requires_payment_method", "open", "incomplete")
    await sandbox_bare.control("/clock", {"advance_seconds": 3600 + 60})
    assert await signup.read() == ("canceled", "void", "incomplete_expired")
    intent = await sandbox_bare.v1.payment_intents.retrieve_async(signup.intent)
    assert intent.cancellation_reason == "void_invoice"


async def test_canceling_an_unpaid_subscription(sandbox_bare: Sandbox) -> None:
    """Canceling an incomplete subscription expires it, and its invoice can no longer be paid."""
    signup = await sandbox_bare.subscribe()
    await sandbox_bare.v1.subscriptions.cancel_async(signup.subscription.id)
    assert await signup.read() == ("canceled", "void", "incomplete_expired")
    assert (await signup.confirm()).body["error"]["code"] == "payment_intent_unexpected_state"


async def test_cancelling_at_the_end_of_the_period(sandbox_bare: Sandbox) -> None:
    """It stays active until that time; the clock ends it."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    await sandbox_bare.v1.subscriptions.update_async(signup.subscription.id, {"cancel_at_period_end": True})
    assert (await signup.read())[2] == "active"
    await sandbox_bare.control("/clock", {"advance_seconds": 32 * DAY_S})
    assert (await signup.read())[2] == "canceled"


async def test_an_uncollectible_invoice_can_still_be_paid(sandbox_bare: Sandbox) -> None:
    """An invoice marked uncollectible can still be paid."""
    signup = await sandbox_bare.subscribe()
    await sandbox_bare.v1.invoices.mark_uncollectible_async(signup.invoice)
    assert (await signup.read())[1] == "uncollectible"
    await signup.confirm()
    assert (await signup.read())[1:] == ("paid", "active")


async def test_paid_out_of_band(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """An invoice paid in cash is paid, its intent cancelled, and only `invoice.paid` is sent."""
    signup = await sandbox_hooked.subscribe()
    await sandbox_hooked.v1.invoices.pay_async(signup.invoice, {"paid_out_of_band": True})
    assert await signup.read() == ("canceled", "paid", "active")
    await wait_until(lambda: "invoice.paid" in sandbox_receiver.types())
    assert "invoice.payment_succeeded" not in sandbox_receiver.types()


async def test_a_renewal(sandbox_bare: Sandbox) -> None:
    """The next period begins where the last ended, and is paid with the saved card."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    ended = signup.subscription["items"].data[0].current_period_end
    invoice = await sandbox_bare.control(f"/subscriptions/{signup.subscription.id}/renew")
    assert (invoice["billing_reason"], invoice["status"]) == ("subscription_cycle", "paid")
    assert invoice["lines"]["data"][0]["period"]["start"] == ended
    subscription = await sandbox_bare.v1.subscriptions.retrieve_async(signup.subscription.id)
    assert (subscription.status, subscription.latest_invoice) == ("active", invoice["id"])


@pytest.mark.parametrize("card", ["pm_card_chargeCustomerFail", CARD_3DS])
async def test_a_renewal_that_fails(sandbox_bare: Sandbox, card: str) -> None:
    """A renewal that cannot be collected makes the subscription past due; paying its invoice ends that."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    await sandbox_bare.v1.subscriptions.update_async(signup.subscription.id, {"default_payment_method": card})
    invoice = await sandbox_bare.control(f"/subscriptions/{signup.subscription.id}/renew")
    assert invoice["status"] == "open"
    assert (await signup.read())[2] == "past_due"
    await sandbox_bare.v1.invoices.pay_async(invoice["id"], {"payment_method": "pm_card_visa"})
    assert (await signup.read())[2] == "active"


async def test_a_card_set_up_once_pays_renewals_without_a_check(sandbox_bare: Sandbox) -> None:
    """4000002500003155 requires authentication for the first payment, not for the renewal."""
    signup = await sandbox_bare.subscribe()
    assert (await signup.confirm("pm_card_authenticationRequiredOnSetup")).body["status"] == "requires_action"
    await signup.authenticate("pass")
    invoice = await sandbox_bare.control(f"/subscriptions/{signup.subscription.id}/renew")
    assert invoice["status"] == "paid"


async def test_many_lines_come_in_pages(sandbox_bare: Sandbox) -> None:
    """An invoice embeds ten lines; the others are read from its `lines` list, in order."""
    customer = await sandbox_bare.v1.customers.create_async({})
    draft = await sandbox_bare.v1.invoices.create_async({"customer": customer.id, "currency": "usd"})
    for amount in range(1, 13):
        item = {"customer": customer.id, "invoice": draft.id, "amount": amount, "currency": "usd"}
        await sandbox_bare.v1.invoice_items.create_async(item)
    invoice = await sandbox_bare.v1.invoices.retrieve_async(draft.id)
    assert (len(invoice.lines.data), invoice.lines.has_more, invoice.total) == (10, True, 78)
    rest = await sandbox_bare.v1.invoices.line_items.list_async(
        draft.id, {"starting_after": invoice.lines.data[-1].id}
    )
    assert [line.amount for line in rest.data] == [11, 12]


async def test_a_one_off_invoice(sandbox_bare: Sandbox) -> None:
    """An invoice can include pending items; once finalized, it is open and can be paid."""
    customer = await sandbox_bare.v1.customers.create_async({})
    product = await sandbox_bare.v1.products.create_async({"name": "Top-up"})
    price = {"product": product.id, "currency": "usd", "unit_amount": 500}
    top_up = await sandbox_bare.v1.prices.create_async(price)
    item = {"customer": customer.id, "pricing": {"price": top_up.id}, "quantity": 2}
    await sandbox_bare.v1.invoice_items.create_async(item)
    params = {"customer": customer.id, "pending_invoice_items_behavior": "include"}
    draft = await sandbox_bare.v1.invoices.create_async(params)
    opened = await sandbox_bare.v1.invoices.finalize_invoice_async(draft.id)
    assert (opened.status, opened.amount_due, opened.billing_reason, opened.parent) == (
        "open",
        1000,
        "manual",
        None,
    )
    assert opened.lines.data[0].parent.type == "invoice_item_details"
    paid = await sandbox_bare.v1.invoices.pay_async(draft.id, {"payment_method": "pm_card_visa"})
    assert paid.status == "paid"


async def test_invoice_calls_that_are_refused(sandbox_bare: Sandbox) -> None:
    """A paid invoice cannot be voided, paid or finalized again, and its intent cannot be canceled."""
    signup = await sandbox_bare.subscribe()
    with pytest.raises(stripe.InvalidRequestError, match="created by an Invoice"):
        await sandbox_bare.v1.payment_intents.cancel_async(signup.intent)
    await signup.confirm()
    invoices = sandbox_bare.v1.invoices
    for act in (invoices.void_invoice_async, invoices.pay_async, invoices.finalize_invoice_async):
        with pytest.raises(stripe.InvalidRequestError):
            await act(signup.invoice)
