"""More kinds of plans: top-ups, several items, coupons with prorations, final invoices."""

from __future__ import annotations

from typing import Any

import pytest

from .rig import CARD, CARD_3DS, Sandbox, Signup, check_shape

NOW: dict[str, Any] = {"proration_behavior": "always_invoice", "expand": ["latest_invoice"]}


async def _signup(sandbox: Sandbox, **more: Any) -> tuple[Signup, Any, int]:
    """A paid subscription, its item, and the middle of its period."""
    signup = await sandbox.subscribe(**more)
    if signup.secret:
        await signup.confirm()
    item = signup.subscription["items"].data[0]
    return signup, item, (item.current_period_start + item.current_period_end) // 2


async def _upgrade(sandbox: Sandbox, signup: Signup, item: Any, amount: int, moment: int) -> Any:
    items = [{"id": item.id, "price": (await sandbox.plan(amount)).id}]
    changed = await sandbox.v1.subscriptions.update_async(
        signup.subscription.id, {"items": items, "proration_date": moment, **NOW}
    )
    return changed.latest_invoice


async def test_a_top_up(sandbox_bare: Sandbox) -> None:
    """A one-time price on its own invoice, finalized with a client secret and paid in the browser."""
    v1 = sandbox_bare.v1
    customer = (await v1.customers.create_async({"email": "a@b.example"})).id
    product = await v1.products.create_async({"name": "1,000 credits"})
    price = await v1.prices.create_async({"product": product.id, "currency": "usd", "unit_amount": 900})
    assert (price.type, price.recurring) == ("one_time", None)
    draft = await v1.invoices.create_async(
        {"customer": customer, "metadata": {"account": "7", "kind": "top_up"}, "auto_advance": False}
    )
    item = {"customer": customer, "invoice": draft.id, "pricing": {"price": price.id}, "quantity": 3}
    await v1.invoice_items.create_async(item)
    opened = await v1.invoices.finalize_invoice_async(
        draft.id, {"expand": ["confirmation_secret", "payments"]}
    )
    assert (opened.status, opened.amount_due, opened.metadata.kind) == ("open", 2700, "top_up")
    (line,) = opened.lines.data
    assert (line.quantity, line.pricing.price_details.price) == (3, price.id)
    secret = opened.confirmation_secret.client_secret
    intent = secret.partition("_secret_")[0]
    assert opened.payments.data[0].payment.payment_intent == intent
    form = {"client_secret": secret, "payment_method": CARD}
    await sandbox_bare.browser("POST", f"/v1/payment_intents/{intent}/confirm", **form)
    paid = await v1.invoices.retrieve_async(draft.id)
    assert (paid.status, paid.amount_paid, paid.metadata.account) == ("paid", 2700, "7")


async def test_several_items_renew_together(sandbox_bare: Sandbox) -> None:
    """Every item has a line, a quantity and the common period; the renewal charges all of them."""
    items = [
        {"price": (await sandbox_bare.plan(2000)).id, "quantity": 2},
        {"price": (await sandbox_bare.plan(700)).id, "metadata": {"kind": "extra"}},
    ]
    signup, item, _ = await _signup(sandbox_bare, items=items)
    invoice = await sandbox_bare.v1.invoices.retrieve_async(signup.invoice)
    assert [(line.amount, line.quantity) for line in invoice.lines.data] == [(4000, 2), (700, 1)]
    assert {line.period.end for line in invoice.lines.data} == {item.current_period_end}
    assert signup.subscription["items"].data[1].metadata.kind == "extra"
    renewal = await sandbox_bare.control(f"/subscriptions/{signup.subscription.id}/renew")
    assert renewal["amount_paid"] == 4700


async def test_a_price_change_resets_the_quantity_to_one(sandbox_bare: Sandbox) -> None:
    """Without a quantity, a price change sets it to 1, as Stripe warns."""
    signup, item, moment = await _signup(
        sandbox_bare, items=[{"price": (await sandbox_bare.plan()).id, "quantity": 5}]
    )
    invoice = await _upgrade(sandbox_bare, signup, item, 5000, moment)
    assert [(line.amount, line.quantity) for line in invoice.lines.data] == [(-5000, 5), (2500, 1)]


async def test_prorations_are_net_of_discounts(sandbox_bare: Sandbox) -> None:
    """By default proration lines are net of discounts, which are listed with an amount of 0."""
    coupon = await sandbox_bare.v1.coupons.create_async({"percent_off": 20, "duration": "forever"})
    signup, item, moment = await _signup(sandbox_bare, discounts=[{"coupon": coupon.id}])
    invoice = await _upgrade(sandbox_bare, signup, item, 5000, moment)
    assert ([line.amount for line in invoice.lines.data], invoice.total) == ([-800, 2000], 1200)
    assert [line.discount_amounts[0].amount for line in invoice.lines.data] == [0, 0]
    check_shape((await sandbox_bare.raw("GET", f"/v1/invoices/{invoice.id}")).body)


async def test_prorations_with_itemised_discounts(sandbox_bare: Sandbox) -> None:
    """With itemized prorations the line is gross and lists its discount."""
    coupon = await sandbox_bare.v1.coupons.create_async({"percent_off": 20, "duration": "forever"})
    mode = {"type": "flexible", "flexible": {"proration_discounts": "itemized"}}
    signup, item, moment = await _signup(sandbox_bare, discounts=[{"coupon": coupon.id}], billing_mode=mode)
    invoice = await _upgrade(sandbox_bare, signup, item, 5000, moment)
    assert [line.amount for line in invoice.lines.data] == [-1000, 2500]
    assert [line.discount_amounts[0].amount for line in invoice.lines.data] == [-200, 500]
    assert (invoice.subtotal, invoice.total, invoice.total_discount_amounts[0].amount) == (1500, 1200, 300)
    check_shape((await sandbox_bare.raw("GET", f"/v1/invoices/{invoice.id}")).body)


async def test_prorations_credit_the_discounted_price(sandbox_bare: Sandbox) -> None:
    """A `once` coupon lowered the first period's price, so only the discounted price is credited."""
    coupon = await sandbox_bare.v1.coupons.create_async({"amount_off": 500, "currency": "usd"})
    signup, item, moment = await _signup(sandbox_bare, discounts=[{"coupon": coupon.id}])
    invoice = await _upgrade(sandbox_bare, signup, item, 5000, moment)
    assert [line.amount for line in invoice.lines.data] == [-750, 2500]


async def test_a_coupon_for_an_existing_subscription(sandbox_bare: Sandbox) -> None:
    """A coupon applies from the next invoice; an empty list removes it."""
    signup, _, _ = await _signup(sandbox_bare)
    coupon = await sandbox_bare.v1.coupons.create_async({"percent_off": 100, "duration": "forever"})
    update = sandbox_bare.v1.subscriptions.update_async
    changed = await update(signup.subscription.id, {"discounts": [{"coupon": coupon.id}]})
    await update(signup.subscription.id, {"discounts": [{"discount": changed.discounts[0]}]})
    free = await sandbox_bare.control(f"/subscriptions/{signup.subscription.id}/renew")
    assert (free["total"], free["status"], free["amount_paid"], free["subtotal"]) == (0, "paid", 0, 2000)
    assert free["lines"]["data"][0]["discount_amounts"][0]["amount"] == 2000
    assert (await update(signup.subscription.id, {"discounts": ""})).discounts == []
    full = await sandbox_bare.control(f"/subscriptions/{signup.subscription.id}/renew")
    assert full["amount_paid"] == 2000


async def test_canceled_with_credit_for_unused_time(sandbox_bare: Sandbox) -> None:
    """`prorate` and `invoice_now`: a negative final invoice becomes the customer's credit balance."""
    signup, item, moment = await _signup(sandbox_bare)
    now = (await sandbox_bare.call("GET", "/sandbox/clock")).body["now"]
    await sandbox_bare.control("/clock", {"advance_seconds": moment - now})
    ended = await sandbox_bare.v1.subscriptions.cancel_async(
        signup.subscription.id, {"prorate": True, "invoice_now": True, "expand": ["latest_invoice"]}
    )
    last = ended.latest_invoice
    assert (ended.status, last.status, last.amount_paid, last.lines.data[0].period.end) == (
        "canceled", "paid", 0, item.current_period_end,
    )  # fmt: skip
    assert -1000 <= last.total <= -999
    assert (await sandbox_bare.v1.customers.retrieve_async(signup.customer)).balance == last.total


@pytest.mark.parametrize("options", [{}, {"prorate": True}])
async def test_canceled_without_an_invoice(sandbox_bare: Sandbox, options: dict[str, bool]) -> None:
    """Without `invoice_now` no invoice is created; with `prorate` the credit is a pending item."""
    signup, _, _ = await _signup(sandbox_bare)
    ended = await sandbox_bare.v1.subscriptions.cancel_async(signup.subscription.id, options)
    assert (ended.status, ended.latest_invoice) == ("canceled", signup.invoice)
    waiting = await sandbox_bare.v1.invoice_items.list_async({"customer": signup.customer, "pending": True})
    assert len(waiting.data) == len(options)


async def test_a_debt_in_the_balance_is_collected(sandbox_bare: Sandbox) -> None:
    """A positive balance is a debt, and the next invoice charges it."""
    customer = await sandbox_bare.v1.customers.create_async({"balance": 300})
    signup = await sandbox_bare.subscribe(customer=customer.id)
    invoice = signup.subscription.latest_invoice
    assert (invoice.total, invoice.amount_due, invoice.ending_balance) == (2000, 2300, 0)


async def test_a_trial_with_a_card_that_requires_a_check(sandbox_bare: Sandbox) -> None:
    """The bank checked the card when it was saved; this kind of card requires it again after the trial."""
    signup = await sandbox_bare.subscribe(trial_period_days=4)
    setup = signup.subscription.pending_setup_intent
    form = {"client_secret": setup.client_secret, "payment_method": CARD_3DS}
    await sandbox_bare.browser("POST", f"/v1/setup_intents/{setup.id}/confirm", **form)
    await sandbox_bare.control(f"/setup_intents/{setup.id}/authenticate", {"outcome": "pass"})
    await sandbox_bare.control("/clock", {"advance_seconds": 5 * 24 * 3600})
    subscription = await sandbox_bare.v1.subscriptions.retrieve_async(
        signup.subscription.id, {"expand": ["latest_invoice.confirmation_secret"]}
    )
    assert (subscription.status, subscription.latest_invoice.status) == ("past_due", "open")
    intent = subscription.latest_invoice.confirmation_secret.client_secret.partition("_secret_")[0]
    assert (await sandbox_bare.v1.payment_intents.retrieve_async(intent)).status == "requires_action"


async def test_a_change_during_a_trial_costs_nothing(sandbox_bare: Sandbox) -> None:
    """A price change during a trial creates no invoice; the trial continues and ends at the new price."""
    signup, item, _ = await _signup(sandbox_bare, trial_period_days=10)
    items = [{"id": item.id, "price": (await sandbox_bare.plan(5000)).id}]
    changed = await sandbox_bare.v1.subscriptions.update_async(
        signup.subscription.id, {"items": items, **NOW}
    )
    assert (changed.status, changed.latest_invoice.id) == ("trialing", signup.invoice)
    await sandbox_bare.control("/clock", {"advance_seconds": 11 * 24 * 3600})
    renewed = await sandbox_bare.v1.subscriptions.retrieve_async(changed.id, {"expand": ["latest_invoice"]})
    assert renewed.latest_invoice.amount_due == 5000
