"""Price and quantity changes: prorations, invoices, and changes that are pending until paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stripe

from .rig import (
    CARD,
    CARD_3DS,
    Receiver,
    Sandbox,
    Server,
    Signup,
    check_shape,
    settings,
    wait_until,
)

DAY_S = 24 * 3600
NOW: dict[str, Any] = {
    "proration_behavior": "always_invoice",
    "expand": ["latest_invoice.confirmation_secret"],
}
PENDING: dict[str, Any] = {**NOW, "payment_behavior": "pending_if_incomplete"}


async def _halfway(sandbox: Sandbox, card: str | None = CARD, **more: Any) -> tuple[Signup, Any, int]:
    """A paid monthly subscription, its item, and the middle of its period; the clock is moved there."""
    signup = await sandbox.subscribe(**more)
    await signup.confirm()
    item = signup.subscription["items"].data[0]
    middle = (item.current_period_start + item.current_period_end) // 2
    now = (await sandbox.call("GET", "/sandbox/clock")).body["now"]
    await sandbox.control("/clock", {"advance_seconds": middle - now})
    if card not in (None, CARD):
        await sandbox.v1.subscriptions.update_async(signup.subscription.id, {"default_payment_method": card})
    return signup, item, middle


async def _change(sandbox: Sandbox, signup: Signup, item: Any, price: Any, **more: Any) -> Any:
    items = more.pop("items", None) or [{"id": item.id, "price": price.id}]
    return await sandbox.v1.subscriptions.update_async(signup.subscription.id, {"items": items, **more})


def _amounts(invoice: Any) -> list[int]:
    return [line.amount for line in invoice.lines.data]


async def test_an_upgrade_is_invoiced_at_once(sandbox_bare: Sandbox) -> None:
    """Halfway, half the old price is credited, half the new one charged, and the difference is paid."""
    signup, item, middle = await _halfway(sandbox_bare)
    price = await sandbox_bare.plan(5000)
    changed = await _change(sandbox_bare, signup, item, price, proration_date=middle, **NOW)
    invoice = changed.latest_invoice
    assert (invoice.billing_reason, invoice.status, invoice.amount_paid) == (
        "subscription_update", "paid", 1500,
    )  # fmt: skip
    back, rest = invoice.lines.data
    assert (back.amount, rest.amount) == (-1000, 2500)
    assert back.description.startswith("Unused time on Pro after ")
    assert rest.description.startswith("Remaining time on Pro after ")
    for line in (back, rest):
        assert (line.period.start, line.period.end) == (middle, item.current_period_end)
        details = line.parent.subscription_item_details
        assert (line.parent.type, details.proration) == ("subscription_item_details", True)
        assert (details.subscription_item, details.invoice_item[:3]) == (item.id, "ii_")
    first = await sandbox_bare.v1.invoices.retrieve_async(signup.invoice)
    credited = back.parent.subscription_item_details.proration_details.credited_items
    assert (credited.invoice, credited.invoice_line_items) == (first.id, [first.lines.data[0].id])
    (now,) = changed["items"].data
    assert (now.id, now.price.id, now.current_period_end) == (item.id, price.id, item.current_period_end)
    check_shape((await sandbox_bare.raw("GET", f"/v1/invoices/{invoice.id}")).body)
    check_shape((await sandbox_bare.raw("GET", f"/v1/subscriptions/{changed.id}")).body)


async def test_prorations_are_counted_to_the_second(sandbox_bare: Sandbox) -> None:
    """A third and some seconds of the period are a third and some of the amount, rounded."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    item = signup.subscription["items"].data[0]
    start, end = item.current_period_start, item.current_period_end
    moment = start + (end - start) // 3 + 7
    changed = await _change(
        sandbox_bare, signup, item, await sandbox_bare.plan(4999), proration_date=moment, **NOW
    )
    left = (end - moment) / (end - start)
    assert _amounts(changed.latest_invoice) == [-round(2000 * left), round(4999 * left)]


async def test_a_downgrade_becomes_credit(sandbox_bare: Sandbox) -> None:
    """A negative total is paid with 0 and becomes the customer's credit balance for later invoices."""
    signup, item, middle = await _halfway(sandbox_bare)
    cheap, dear = await sandbox_bare.plan(1000), await sandbox_bare.plan(5000)
    changed = await _change(sandbox_bare, signup, item, cheap, proration_date=middle, **NOW)
    invoice = changed.latest_invoice
    assert (invoice.status, invoice.total, invoice.amount_due, invoice.amount_paid) == ("paid", -500, 0, 0)
    assert (invoice.starting_balance, invoice.ending_balance) == (0, -500)
    assert (await sandbox_bare.v1.customers.retrieve_async(signup.customer)).balance == -500
    invoice = (await _change(sandbox_bare, signup, item, dear, proration_date=middle, **NOW)).latest_invoice
    assert _amounts(invoice) == [-500, 2500]
    assert (invoice.total, invoice.starting_balance, invoice.amount_paid) == (2000, -500, 1500)


async def test_prorations_wait_for_the_next_invoice(sandbox_bare: Sandbox) -> None:
    """By default no invoice is created now: prorations become pending items of the renewal."""
    signup, item, middle = await _halfway(sandbox_bare)
    changed = await _change(sandbox_bare, signup, item, await sandbox_bare.plan(5000), proration_date=middle)
    assert changed.latest_invoice == signup.invoice
    waiting = await sandbox_bare.v1.invoice_items.list_async({"customer": signup.customer, "pending": True})
    assert sorted(one.amount for one in waiting.data) == [-1000, 2500]
    for one in (await sandbox_bare.raw("GET", "/v1/invoiceitems")).body["data"]:
        check_shape(one)
    renewal = await sandbox_bare.control(f"/subscriptions/{changed.id}/renew")
    assert [line["amount"] for line in renewal["lines"]["data"]] == [-1000, 2500, 5000]
    assert renewal["amount_paid"] == 6500


async def test_a_change_without_prorations(sandbox_bare: Sandbox) -> None:
    """`none` changes the price from the next period and charges nothing for this one."""
    signup, item, _ = await _halfway(sandbox_bare)
    changed = await _change(
        sandbox_bare, signup, item, await sandbox_bare.plan(5000), proration_behavior="none"
    )
    assert changed.latest_invoice == signup.invoice
    renewal = await sandbox_bare.control(f"/subscriptions/{changed.id}/renew")
    assert [line["amount"] for line in renewal["lines"]["data"]] == [5000]


async def test_seats_and_a_second_item(sandbox_bare: Sandbox) -> None:
    """A new quantity, a new item and a deleted item are each prorated; unchanged items are not."""
    signup, item, middle = await _halfway(sandbox_bare)
    extra = await sandbox_bare.plan(600)
    items = [{"id": item.id, "quantity": 3}, {"price": extra.id, "quantity": 2}]
    changed = await _change(sandbox_bare, signup, item, None, items=items, proration_date=middle, **NOW)
    assert _amounts(changed.latest_invoice) == [-1000, 3000, 600]
    described = [line.description for line in changed.latest_invoice.lines.data]
    assert described[1].startswith("Remaining time on 3 × Pro after")
    added = changed["items"].data[1]
    assert (added.quantity, added.current_period_end) == (2, item.current_period_end)
    items = [{"id": added.id, "deleted": True}]
    changed = await _change(sandbox_bare, signup, item, None, items=items, proration_date=middle, **NOW)
    assert _amounts(changed.latest_invoice) == [-600]
    assert [one.id for one in changed["items"].data] == [item.id]


async def test_month_to_year_begins_a_new_period(sandbox_bare: Sandbox) -> None:
    """The unused half month is credited, a year is charged as an ordinary line, and the anchor moves."""
    signup, item, middle = await _halfway(sandbox_bare)
    year = await sandbox_bare.plan(20000, "year")
    changed = await _change(sandbox_bare, signup, item, year, proration_date=middle, **NOW)
    back, whole = changed.latest_invoice.lines.data
    assert (back.amount, whole.amount) == (-1000, 20000)
    assert (back.parent.subscription_item_details.proration, back.period.end) == (
        True,
        item.current_period_end,
    )
    assert whole.parent.subscription_item_details.proration is False
    (now,) = changed["items"].data
    assert (now.current_period_start, now.current_period_end) == (whole.period.start, whole.period.end)
    assert changed.billing_cycle_anchor == now.current_period_start
    assert 365 * DAY_S <= now.current_period_end - now.current_period_start <= 366 * DAY_S


async def test_an_anchor_now_begins_a_new_period(sandbox_bare: Sandbox) -> None:
    """The same price with a new anchor: unused time is offset against a whole new period."""
    signup, item, middle = await _halfway(sandbox_bare)
    changed = await sandbox_bare.v1.subscriptions.update_async(
        signup.subscription.id,
        {"billing_cycle_anchor": {"type": "now"}, "proration_date": middle, **NOW},
    )
    assert _amounts(changed.latest_invoice) == [-1000, 2000]
    assert changed["items"].data[0].current_period_start > item.current_period_start


@pytest.mark.parametrize(
    ("card", "status"),
    [(CARD_3DS, "requires_action"), ("pm_card_chargeCustomerFail", "requires_payment_method")],
)
async def test_a_change_that_is_pending_until_paid(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver, card: str, status: str
) -> None:
    """`pending_if_incomplete`: the old price stays until the invoice is paid, with any card."""
    signup, item, middle = await _halfway(sandbox_hooked, card)
    price = await sandbox_hooked.plan(5000)
    changed = await _change(sandbox_hooked, signup, item, price, proration_date=middle, **PENDING)
    assert (changed.status, changed["items"].data[0].price.id) == ("active", item.price.id)
    (waiting,) = changed.pending_update.subscription_items
    assert (waiting.id, waiting.price.id) == (item.id, price.id)
    now = (await sandbox_hooked.call("GET", "/sandbox/clock")).body["now"]
    assert now + 23 * 3600 - 5 <= changed.pending_update.expires_at <= now + 23 * 3600
    check_shape((await sandbox_hooked.raw("GET", f"/v1/subscriptions/{changed.id}")).body)
    invoice = changed.latest_invoice
    intent = invoice.confirmation_secret.client_secret.partition("_secret_")[0]
    assert (invoice.status, invoice.amount_due) == ("open", 1500)
    assert (await sandbox_hooked.v1.payment_intents.retrieve_async(intent)).status == status
    form = {"client_secret": invoice.confirmation_secret.client_secret, "payment_method": CARD}
    assert (
        await sandbox_hooked.browser("POST", f"/v1/payment_intents/{intent}/confirm", **form)
    ).status == 200
    changed = await sandbox_hooked.v1.subscriptions.retrieve_async(changed.id)
    assert (changed.pending_update, changed["items"].data[0].price.id) == (None, price.id)
    await wait_until(lambda: bool(sandbox_receiver.of("customer.subscription.pending_update_applied")))


async def test_a_change_that_is_paid_at_once_is_not_pending(sandbox_bare: Sandbox) -> None:
    """`pending_if_incomplete` with a card that pays is an ordinary change."""
    signup, item, middle = await _halfway(sandbox_bare)
    price = await sandbox_bare.plan(5000)
    changed = await _change(sandbox_bare, signup, item, price, proration_date=middle, **PENDING)
    assert (changed.pending_update, changed.latest_invoice.status) == (None, "paid")
    assert changed["items"].data[0].price.id == price.id


async def test_a_pending_change_without_a_card(sandbox_bare: Sandbox) -> None:
    """Without a payment method the invoice is open, with a client secret to pay it."""
    customer = await sandbox_bare.v1.customers.create_async({})
    signup = await sandbox_bare.subscribe(
        customer=customer.id, payment_settings={"save_default_payment_method": "off"}
    )
    await signup.confirm()
    item, price = signup.subscription["items"].data[0], await sandbox_bare.plan(5000)
    with pytest.raises(stripe.InvalidRequestError, match="no attached payment source"):
        await _change(sandbox_bare, signup, item, price, **NOW)
    changed = await _change(sandbox_bare, signup, item, price, **PENDING)
    assert changed.pending_update.subscription_items[0].price.id == price.id
    assert changed.latest_invoice.confirmation_secret.client_secret.startswith("pi_")


async def test_an_unpaid_change_is_discarded(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """After 23 hours, or when its invoice is voided, it is discarded; a second one replaces the first."""
    signup, item, _ = await _halfway(sandbox_hooked, CARD_3DS)
    other, price = await sandbox_hooked.plan(3000), await sandbox_hooked.plan(5000)
    first = (await _change(sandbox_hooked, signup, item, other, **PENDING)).latest_invoice
    second = await _change(sandbox_hooked, signup, item, price, **PENDING)
    assert (await sandbox_hooked.v1.invoices.retrieve_async(first.id)).status == "void"
    assert second.pending_update.subscription_items[0].price.id == price.id
    await sandbox_hooked.control("/clock", {"advance_seconds": 23 * 3600 + 1})
    kept = await sandbox_hooked.v1.subscriptions.retrieve_async(second.id, {"expand": ["latest_invoice"]})
    assert (kept.status, kept.pending_update, kept.latest_invoice.status) == ("active", None, "void")
    assert kept["items"].data[0].price.id == item.price.id
    third = await _change(sandbox_hooked, signup, item, price, **PENDING)
    await sandbox_hooked.v1.invoices.void_invoice_async(third.latest_invoice.id)
    assert (await sandbox_hooked.v1.subscriptions.retrieve_async(second.id)).pending_update is None
    await wait_until(lambda: len(sandbox_receiver.of("customer.subscription.pending_update_expired")) == 3)
    for event in sandbox_receiver.received:
        check_shape(event.event["data"]["object"])


async def test_voiding_returns_the_used_balance(sandbox_bare: Sandbox) -> None:
    """Voiding returns to the customer's balance what the invoice had used."""
    signup, item, middle = await _halfway(sandbox_bare, CARD_3DS)
    await sandbox_bare.v1.customers.update_async(signup.customer, {"balance": -100})
    price = await sandbox_bare.plan(5000)
    changed = await _change(sandbox_bare, signup, item, price, proration_date=middle, **PENDING)
    assert changed.latest_invoice.amount_due == 1400
    assert (await sandbox_bare.v1.customers.retrieve_async(signup.customer)).balance == 0
    await sandbox_bare.v1.invoices.void_invoice_async(changed.latest_invoice.id)
    assert (await sandbox_bare.v1.customers.retrieve_async(signup.customer)).balance == -100


@pytest.mark.parametrize("behavior", ["allow_incomplete", "default_incomplete"])
async def test_a_change_that_is_applied_before_payment(sandbox_bare: Sandbox, behavior: str) -> None:
    """The other behaviours change at once and leave the subscription past due until the invoice is paid."""
    signup, item, _ = await _halfway(sandbox_bare, CARD_3DS)
    price = await sandbox_bare.plan(5000)
    changed = await _change(sandbox_bare, signup, item, price, payment_behavior=behavior, **NOW)
    assert (changed.status, changed.latest_invoice.status) == ("past_due", "open")
    assert changed["items"].data[0].price.id == price.id
    await sandbox_bare.v1.invoices.pay_async(changed.latest_invoice.id, {"payment_method": CARD})
    assert (await sandbox_bare.v1.subscriptions.retrieve_async(changed.id)).status == "active"


async def test_a_change_that_requires_payment(sandbox_bare: Sandbox) -> None:
    """`error_if_incomplete` refuses with 402 and changes nothing."""
    for card in (CARD_3DS, "pm_card_chargeCustomerFail"):
        signup, item, _ = await _halfway(sandbox_bare, card)
        price = await sandbox_bare.plan(5000)
        with pytest.raises(stripe.CardError):
            await _change(
                sandbox_bare,
                signup,
                item,
                price,
                payment_behavior="error_if_incomplete",
                metadata={"a": "b"},
                **NOW,
            )
        kept = await sandbox_bare.v1.subscriptions.retrieve_async(signup.subscription.id)
        assert (kept.latest_invoice, kept.metadata.to_dict()) == (signup.invoice, {"account": "7"})
        assert kept["items"].data[0].price.id == item.price.id


async def test_flapping_between_plans_costs_nothing(sandbox_bare: Sandbox) -> None:
    """Up and down at the same moment: every debit is credited in full, and the credit pays the next one."""
    signup, item, middle = await _halfway(sandbox_bare)
    dear = await sandbox_bare.plan(5000)
    totals = []
    for price in (dear, item.price, dear, item.price):
        changed = await _change(sandbox_bare, signup, item, price, proration_date=middle, **NOW)
        totals.append(changed.latest_invoice.total)
    assert totals == [1500, -1500, 1500, -1500]
    assert (await sandbox_bare.v1.customers.retrieve_async(signup.customer)).balance == -1500


async def test_plan_changes_that_are_refused(sandbox_bare: Sandbox) -> None:
    """Mixed intervals, a duplicate price, an unknown item, a time outside the period; or still incomplete."""
    signup, item, _ = await _halfway(sandbox_bare)
    year, price = await sandbox_bare.plan(9000, "year"), await sandbox_bare.plan(5000)
    wrong: list[dict[str, Any]] = [
        {"items": [{"price": year.id}]},
        {"items": [{"price": item.price.id}]},
        {"items": [{"id": "si_strange", "price": price.id}]},
        {"items": [{"id": item.id, "deleted": True}]},
        {"items": [{"id": item.id, "price": price.id}], "proration_date": 1},
        {**PENDING, "items": [{"id": item.id, "price": price.id}], "cancel_at_period_end": True},
    ]
    for params in wrong:
        with pytest.raises(stripe.InvalidRequestError):
            await sandbox_bare.v1.subscriptions.update_async(signup.subscription.id, params)
    fresh = await sandbox_bare.subscribe()
    with pytest.raises(stripe.InvalidRequestError, match="incomplete"):
        await _change(sandbox_bare, fresh, fresh.subscription["items"].data[0], price)


async def test_prorations_in_the_old_shape(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """An endpoint of before 2025-03-31 reads them as invoice items, with their price and `proration` true."""
    signup, item, middle = await _halfway(sandbox_hooked)
    await sandbox_hooked.conditions(webhook_api_version="2024-06-20")
    changed = await _change(
        sandbox_hooked, signup, item, await sandbox_hooked.plan(5000), proration_date=middle, **NOW
    )
    await wait_until(lambda: len(sandbox_receiver.of("invoice.paid")) == 2)
    invoice = sandbox_receiver.of("invoice.paid")[1]["data"]["object"]
    assert invoice["id"] == changed.latest_invoice.id
    shown = [
        (line["type"], line["proration"], line["price"]["unit_amount"]) for line in invoice["lines"]["data"]
    ]
    assert shown == [("invoiceitem", True, 2000), ("invoiceitem", True, 5000)]


async def test_a_pending_change_survives_a_restart(tmp_path: Path) -> None:
    """A pending change survives a restart and is applied once paid."""
    kept = settings(data_file=tmp_path / "sandbox.json")
    server = Server(kept).start()
    sandbox = Sandbox(server.url)
    signup, item, middle = await _halfway(sandbox, CARD_3DS)
    price = await sandbox.plan(5000)
    changed = await _change(sandbox, signup, item, price, proration_date=middle, **PENDING)
    await sandbox.close()
    server.stop()
    server = Server(kept).start()
    sandbox = Sandbox(server.url)
    await sandbox.v1.invoices.pay_async(changed.latest_invoice.id, {"payment_method": CARD})
    changed = await sandbox.v1.subscriptions.retrieve_async(changed.id)
    assert (changed.pending_update, changed["items"].data[0].price.id) == (None, price.id)
    await sandbox.close()
    server.stop()
