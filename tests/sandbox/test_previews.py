"""Invoice previews equal the invoices that the change then creates."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from .rig import Sandbox, Signup, check_shape


async def _signup(sandbox: Sandbox, **more: Any) -> tuple[Signup, Any]:
    signup = await sandbox.subscribe(**more)
    await signup.confirm()
    return signup, signup.subscription["items"].data[0]


def _lines(invoice: Any) -> list[tuple[int, str, int, int]]:
    return [
        (line.amount, line.description, line.period.start, line.period.end) for line in invoice.lines.data
    ]


async def test_a_preview_equals_the_invoice_of_the_change(sandbox_bare: Sandbox) -> None:
    """The same lines, totals and balance; a preview stores nothing and sends no event."""
    v1 = sandbox_bare.v1
    signup, item = await _signup(sandbox_bare)
    await v1.customers.update_async(signup.customer, {"balance": -400})
    moment = (item.current_period_start + item.current_period_end) // 2
    for wanted in (
        {"items": [{"id": item.id, "price": (await sandbox_bare.plan(5000)).id, "quantity": 2}]},
        {"items": [{"id": item.id, "price": (await sandbox_bare.plan(9900, "year")).id}]},
    ):
        change = {**wanted, "proration_behavior": "always_invoice", "proration_date": moment}
        before = (await sandbox_bare.call("GET", "/sandbox/events?limit=1000")).body
        seen = await v1.invoices.create_preview_async(
            {
                "customer": signup.customer,
                "subscription": signup.subscription.id,
                "subscription_details": change,
            }
        )
        assert (await sandbox_bare.call("GET", "/sandbox/events?limit=1000")).body == before
        made = await v1.subscriptions.update_async(
            signup.subscription.id, {**change, "expand": ["latest_invoice"]}
        )
        invoice = made.latest_invoice
        if "year" not in invoice.lines.data[-1].description:
            assert _lines(seen) == _lines(invoice)
        for name in ("total", "amount_due", "starting_balance", "ending_balance", "currency"):
            assert seen[name] == invoice[name], name
    with pytest.raises(stripe.InvalidRequestError):
        await v1.invoices.retrieve_async(seen.id)


async def test_a_preview_has_the_shape_of_an_invoice(sandbox_bare: Sandbox) -> None:
    """A preview is a draft with its own id that validates, with and without prorations."""
    signup, item = await _signup(sandbox_bare)
    form = {"subscription": signup.subscription.id}
    changed = {
        **form,
        "subscription_details[items][0][id]": item.id,
        "subscription_details[items][0][quantity]": "4",
    }
    for data in (form, changed):
        seen = (await sandbox_bare.raw("POST", "/v1/invoices/create_preview", data=data)).body
        check_shape(seen)
        assert (seen["status"], seen["id"][:11]) == ("draft", "upcoming_in")


async def test_a_preview_of_the_next_cycle(sandbox_bare: Sandbox) -> None:
    """Without a change, or with pending prorations, it previews the next renewal."""
    signup, item = await _signup(sandbox_bare)
    of = {"subscription": signup.subscription.id}
    (line,) = (await sandbox_bare.v1.invoices.create_preview_async(of)).lines.data
    assert (line.amount, line.period.start) == (2000, item.current_period_end)
    middle = (item.current_period_start + item.current_period_end) // 2
    change = {"items": [{"id": item.id, "quantity": 2}], "proration_date": middle}
    params: dict[str, Any] = {**of, "subscription_details": change}
    seen = await sandbox_bare.v1.invoices.create_preview_async(params)
    assert [line.amount for line in seen.lines.data] == [-1000, 2000, 4000]
    await sandbox_bare.v1.subscriptions.update_async(signup.subscription.id, change)
    renewal = await sandbox_bare.control(f"/subscriptions/{signup.subscription.id}/renew")
    assert renewal["total"] == seen.total


async def test_previews_of_new_and_canceled_subscriptions(sandbox_bare: Sandbox) -> None:
    """Previews of a new subscription, of one canceled now, and of one without a next invoice."""
    signup, item = await _signup(sandbox_bare)
    preview = sandbox_bare.v1.invoices.create_preview_async
    details: dict[str, Any] = {"items": [{"price": item.price.id, "quantity": 3}]}
    first = await preview({"customer": signup.customer, "subscription_details": details})
    assert (first.total, first.lines.data[0].quantity) == (6000, 3)
    assert len((await sandbox_bare.v1.subscriptions.list_async({"customer": signup.customer})).data) == 1
    moment = item.current_period_start + (item.current_period_end - item.current_period_start) // 4
    details = {"cancel_now": True, "proration_date": moment}
    last = await preview({"subscription": signup.subscription.id, "subscription_details": details})
    assert (last.total, last.amount_due, last.ending_balance) == (-1500, 0, -1500)
    ending = {"subscription_details": {"cancel_at_period_end": True}}
    with pytest.raises(stripe.InvalidRequestError) as caught:
        await preview({"subscription": signup.subscription.id, **ending})
    assert caught.value.code == "invoice_upcoming_none"
