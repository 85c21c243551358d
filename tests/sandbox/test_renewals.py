"""How Stripe collects a renewal: a draft for an hour, a charge, and retries over days.

https://docs.stripe.com/billing/invoices/subscription, https://docs.stripe.com/billing/subscriptions/webhooks
and https://docs.stripe.com/billing/revenue-recovery/smart-retries.
"""

from __future__ import annotations

from typing import Any

import pytest

from .rig import Receiver, Sandbox, Signup, wait_until

HOUR_S = 3600
DAY_S = 24 * HOUR_S


async def _advance(sandbox: Sandbox, seconds: int) -> None:
    await sandbox.control("/clock", {"advance_seconds": seconds})


async def _renewing(sandbox: Sandbox, card: str | None = None) -> Signup:
    """A subscription whose second period has just begun."""
    signup = await sandbox.subscribe()
    await signup.confirm()
    if card:
        await sandbox.v1.subscriptions.update_async(signup.subscription.id, {"default_payment_method": card})
    listed = await sandbox.v1.invoices.list_async({"subscription": signup.subscription.id})
    end = listed.data[0].lines.data[0].period.end
    now = (await sandbox.call("GET", "/sandbox/clock")).body["now"]
    await _advance(sandbox, end - now)
    return signup


async def _renewal(sandbox: Sandbox, signup: Signup) -> Any:
    listed = await sandbox.v1.invoices.list_async({"subscription": signup.subscription.id})
    assert listed.data[0].billing_reason == "subscription_cycle"
    return listed.data[0]


async def test_a_renewal_is_a_draft_for_an_hour(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """S50: The period changes at once and the subscription stays active; the invoice is collected later."""
    signup = await _renewing(sandbox_hooked)
    draft = await _renewal(sandbox_hooked, signup)
    assert (draft.status, draft.auto_advance, draft.amount_due) == ("draft", True, 2000)
    assert draft.automatically_finalizes_at == draft.created + HOUR_S
    subscription = await sandbox_hooked.v1.subscriptions.retrieve_async(signup.subscription.id)
    assert (subscription.status, subscription.latest_invoice) == ("active", draft.id)
    assert subscription["items"].data[0].current_period_start == draft.lines.data[0].period.start
    await wait_until(lambda: len(sandbox_receiver.of("invoice.created")) == 2)
    await _advance(sandbox_hooked, HOUR_S - 60)
    assert (await _renewal(sandbox_hooked, signup)).status == "draft"
    await _advance(sandbox_hooked, 60)
    assert (await _renewal(sandbox_hooked, signup)).status == "paid"


async def test_a_refused_event_delays_a_renewal_up_to_three_days(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """S50: Where `invoice.created` is not acknowledged, the draft is finalised 72 hours later at most."""
    await sandbox_hooked.control("/conditions", {"webhook_drop_types": ["invoice.created"]})
    signup = await _renewing(sandbox_hooked)
    await _advance(sandbox_hooked, 71 * HOUR_S)
    assert (await _renewal(sandbox_hooked, signup)).status == "draft"
    await _advance(sandbox_hooked, HOUR_S)
    assert (await _renewal(sandbox_hooked, signup)).status == "paid"


async def test_a_draft_may_be_collected_earlier_by_call(sandbox_bare: Sandbox) -> None:
    """S50: finalize and pay collect the draft at once, and an hour later nothing more happens."""
    signup = await _renewing(sandbox_bare)
    draft = await _renewal(sandbox_bare, signup)
    opened = await sandbox_bare.v1.invoices.finalize_invoice_async(draft.id)
    assert (opened.status, opened.automatically_finalizes_at) == ("open", None)
    assert (await sandbox_bare.v1.invoices.pay_async(draft.id)).status == "paid"
    await _advance(sandbox_bare, 2 * HOUR_S)
    assert (await _renewal(sandbox_bare, signup)).attempt_count == 1


@pytest.mark.parametrize("ending", ["canceled", "unpaid", "past_due"])
@pytest.mark.parametrize("written_off", ["open", "uncollectible"])
async def test_retries_go_on_for_days_and_then_end(
    sandbox_bare: Sandbox, ending: str, written_off: str
) -> None:
    """S50: A failed collection is retried; after the last retry the account's settings apply."""
    conditions = {"retries_end_subscription": ending, "retries_end_invoice": written_off}
    await sandbox_bare.control("/conditions", conditions)
    signup = await _renewing(sandbox_bare, card="pm_card_chargeCustomerFail")
    await _advance(sandbox_bare, HOUR_S)
    for count, days in ((1, 3), (2, 5), (3, 7)):
        renewal = await _renewal(sandbox_bare, signup)
        assert (renewal.status, renewal.attempt_count, (await signup.read())[2]) == (
            "open",
            count,
            "past_due",
        )
        now = (await sandbox_bare.call("GET", "/sandbox/clock")).body["now"]
        assert abs(renewal.next_payment_attempt - now - days * DAY_S) <= 5
        await _advance(sandbox_bare, days * DAY_S)
    renewal = await _renewal(sandbox_bare, signup)
    assert (renewal.status, renewal.attempt_count, (await signup.read())[2]) == (written_off, 4, ending)
    assert (renewal.next_payment_attempt, renewal.auto_advance) == (None, False)


async def test_a_card_given_between_retries_pays_at_the_next_one(sandbox_bare: Sandbox) -> None:
    """S50: The retry charges the card that is saved by then."""
    signup = await _renewing(sandbox_bare, card="pm_card_chargeCustomerFail")
    await _advance(sandbox_bare, HOUR_S)
    await sandbox_bare.v1.subscriptions.update_async(
        signup.subscription.id, {"default_payment_method": "pm_card_visa"}
    )
    await _advance(sandbox_bare, 3 * DAY_S)
    assert (await _renewal(sandbox_bare, signup)).status == "paid"
    assert (await signup.read())[2] == "active"


async def test_a_canceled_subscription_leaves_its_draft(sandbox_bare: Sandbox) -> None:
    """S50: Once the subscription has ended, Stripe no longer collects by itself."""
    signup = await _renewing(sandbox_bare)
    await sandbox_bare.v1.subscriptions.cancel_async(signup.subscription.id)
    await _advance(sandbox_bare, 90 * HOUR_S)
    draft = await _renewal(sandbox_bare, signup)
    assert (draft.status, draft.auto_advance, draft.automatically_finalizes_at) == ("draft", False, None)
