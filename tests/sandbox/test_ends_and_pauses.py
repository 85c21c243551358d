"""How a subscription is scheduled to end, paused, and left to invoices by email."""

from __future__ import annotations

from typing import Any

import pytest
import stripe

from paidup_demo.sandbox.clock import DAY_S

from .rig import Receiver, Sandbox, wait_until


async def _update(sandbox: Sandbox, subscription: str, **params: Any) -> Any:
    return await sandbox.v1.subscriptions.update_async(subscription, params)


async def _advance(sandbox: Sandbox, days: int) -> None:
    await sandbox.control("/clock", {"advance_seconds": days * DAY_S})


async def test_the_two_ways_to_schedule_an_end_are_independent(sandbox_bare: Sandbox) -> None:
    """Neither fills in nor clears the other, and both in one call are refused.

    https://docs.stripe.com/billing/subscriptions/billing-mode/compare
    """
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    sub = signup.subscription.id
    end = signup.subscription["items"].data[0].current_period_end
    seen = await _update(sandbox_bare, sub, cancel_at_period_end=True)
    assert (seen.cancel_at, seen.cancel_at_period_end, seen.canceled_at is None) == (None, True, False)
    seen = await _update(sandbox_bare, sub, cancel_at=end)
    assert (seen.cancel_at, seen.cancel_at_period_end) == (end, True)
    seen = await _update(sandbox_bare, sub, cancel_at_period_end=False)
    assert (seen.cancel_at, seen.cancel_at_period_end, seen.canceled_at is None) == (end, False, False)
    with pytest.raises(stripe.InvalidRequestError, match="Please pass in only one"):
        await _update(sandbox_bare, sub, cancel_at="", cancel_at_period_end=False)
    seen = await _update(sandbox_bare, sub, cancel_at="")
    assert (seen.cancel_at, seen.cancel_at_period_end, seen.canceled_at) == (None, False, None)


async def test_a_paused_subscription_makes_no_invoices_until_it_resumes(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    paused = await sandbox_hooked.v1.subscriptions.pause_async(signup.subscription.id)
    assert paused.status == "paused"
    await _advance(sandbox_hooked, 70)
    assert len((await sandbox_hooked.v1.invoices.list_async()).data) == 1
    resumed = await sandbox_hooked.v1.subscriptions.resume_async(signup.subscription.id)
    assert resumed.status == "active"
    assert len((await sandbox_hooked.v1.invoices.list_async({"status": "paid"})).data) == 2
    told = {"customer.subscription.paused", "customer.subscription.resumed"}
    await wait_until(lambda: told <= set(sandbox_receiver.types()))
    with pytest.raises(stripe.InvalidRequestError, match="not paused"):
        await sandbox_hooked.v1.subscriptions.resume_async(signup.subscription.id)


@pytest.mark.parametrize(("behavior", "status"), [("void", "void"), ("mark_uncollectible", "uncollectible")])
async def test_paused_collection_leaves_renewals_unpaid(
    sandbox_bare: Sandbox, behavior: str, status: str
) -> None:
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    sub = signup.subscription.id
    seen = await _update(sandbox_bare, sub, pause_collection={"behavior": behavior})
    assert (seen.status, seen.pause_collection.behavior) == ("active", behavior)
    await _advance(sandbox_bare, 40)
    newest = (await sandbox_bare.v1.invoices.list_async()).data[0]
    assert (newest.status, newest.billing_reason) == (status, "subscription_cycle")
    seen = await _update(sandbox_bare, sub, pause_collection="")
    assert (seen.status, seen.pause_collection) == ("active", None)
    await _advance(sandbox_bare, 31)
    assert (await sandbox_bare.v1.invoices.list_async()).data[0].status == "paid"


async def test_a_subscription_with_invoices_by_email_waits_for_no_payment(sandbox_bare: Sandbox) -> None:
    """It is active at once, charges no card, and cannot have a change that waits for its payment."""
    by_email = {"collection_method": "send_invoice", "days_until_due": 30}
    signup = await sandbox_bare.subscribe(**by_email)
    assert signup.subscription.status == "active"
    invoice = (await sandbox_bare.v1.invoices.list_async()).data[0]
    assert (invoice.status, invoice.collection_method) == ("open", "send_invoice")
    assert invoice.due_date == invoice.created + 30 * DAY_S
    item = signup.subscription["items"].data[0]
    with pytest.raises(stripe.InvalidRequestError, match="send_invoice"):
        await _update(
            sandbox_bare,
            signup.subscription.id,
            items=[{"id": item.id, "quantity": 2}],
            payment_behavior="pending_if_incomplete",
        )
