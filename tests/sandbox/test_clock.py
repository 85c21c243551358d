"""Advancing the clock: everything that becomes due happens, each at its own time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from .rig import CARD_3DS, Json, Receiver, Sandbox, Signup, check_shape, wait_until

HOUR_S = 3600
DAY_S = 24 * HOUR_S


async def _advance(sandbox: Sandbox, seconds: int) -> None:
    await sandbox.control("/clock", {"advance_seconds": seconds})


async def _invoices(sandbox: Sandbox, signup: Signup) -> list[Any]:
    """The subscription's invoices, oldest first."""
    listed = await sandbox.v1.invoices.list_async({"subscription": signup.subscription.id, "limit": 100})
    return list(reversed(listed.data))


async def _events(sandbox: Sandbox) -> list[Json]:
    """Every event, oldest first."""
    made = (await sandbox.call("GET", "/sandbox/events?limit=1000")).body["events"]
    return list(reversed(made))


async def test_a_year_in_one_jump(sandbox_bare: Sandbox) -> None:
    """Twelve renewals in order, from when each period begins, paid an hour later.

    A test clock moves no PaymentIntent and no charge: https://github.com/stripe/stripe-python/issues/1183.
    """
    begun = int(time.time())
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    await _advance(sandbox_bare, 366 * DAY_S)
    first, *renewals = await _invoices(sandbox_bare, signup)
    assert [one.billing_reason for one in renewals] == ["subscription_cycle"] * 12
    end = first.lines.data[0].period.end
    for invoice in renewals:
        (line,) = invoice.lines.data
        assert (invoice.status, invoice.amount_paid, line.period.start) == ("paid", 2000, end)
        assert (invoice.created, invoice.status_transitions.paid_at) == (end, end + HOUR_S)
        end = line.period.end
    paid = [event for event in await _events(sandbox_bare) if event["type"] == "invoice.paid"]
    dated = [event["data"]["object"]["status_transitions"]["paid_at"] for event in paid[1:]]
    assert dated == [one.created + HOUR_S for one in renewals]
    charges = await sandbox_bare.v1.charges.list_async({"limit": 100})
    intents = await sandbox_bare.v1.payment_intents.list_async({"limit": 100})
    made_today = [*charges.data, *intents.data]
    today = [one.created for one in made_today] + [one["created"] for one in await _events(sandbox_bare)]
    assert begun <= min(today)
    assert max(today) <= time.time()


async def test_many_subscriptions_in_order_of_time(sandbox_bare: Sandbox) -> None:
    """What is due for several subscriptions happens in order of time, not subscription by subscription."""
    for _ in range(3):
        signup = await sandbox_bare.subscribe()
        await signup.confirm()
        await _advance(sandbox_bare, 5 * DAY_S)
    await _advance(sandbox_bare, 100 * DAY_S)
    made = [event["data"]["object"] for event in await _events(sandbox_bare)]
    times = [one["created"] for one in made if one["object"] == "invoice_payment"]
    assert len(set(times)) > 9
    assert times == sorted(times)


async def test_a_yearly_plan_with_seats(sandbox_bare: Sandbox) -> None:
    """A price by the year renews once a year, for every seat."""
    items = [{"price": (await sandbox_bare.plan(24000, "year")).id, "quantity": 3}]
    signup = await sandbox_bare.subscribe(items=items)
    await signup.confirm()
    await _advance(sandbox_bare, 360 * DAY_S)
    assert len(await _invoices(sandbox_bare, signup)) == 1
    await _advance(sandbox_bare, 7 * DAY_S)
    assert [one.amount_paid for one in await _invoices(sandbox_bare, signup)] == [72000, 72000]


@pytest.mark.parametrize("card", [CARD_3DS, "pm_card_chargeCustomerFail"])
async def test_a_renewal_that_is_not_paid(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver, card: str
) -> None:
    """If the bank requires a check or the card declines, it is past due with a reason until it is paid."""
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    await sandbox_hooked.v1.subscriptions.update_async(
        signup.subscription.id, {"default_payment_method": card}
    )
    await _advance(sandbox_hooked, 32 * DAY_S)
    _, renewal = await _invoices(sandbox_hooked, signup)
    assert (renewal.status, (await signup.read())[2]) == ("open", "past_due")
    await wait_until(lambda: bool(sandbox_receiver.of("invoice.payment_failed")))
    asked = sandbox_receiver.of("invoice.payment_action_required")
    assert bool(asked) == (card == CARD_3DS)
    expanded = await sandbox_hooked.v1.invoices.retrieve_async(
        renewal.id, {"expand": ["confirmation_secret"]}
    )
    secret = expanded.confirmation_secret.client_secret
    form = {"client_secret": secret, "payment_method": "pm_card_visa"}
    path = f"/v1/payment_intents/{secret.partition('_secret_')[0]}/confirm"
    assert (await sandbox_hooked.browser("POST", path, **form)).body["status"] == "succeeded"
    assert (await signup.read())[2] == "active"


async def test_paying_an_old_renewal_leaves_a_newer_one_past_due(sandbox_bare: Sandbox) -> None:
    """Past due ends when the newest invoice is paid."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    await sandbox_bare.v1.subscriptions.update_async(
        signup.subscription.id, {"default_payment_method": "pm_card_chargeCustomerFail"}
    )
    await sandbox_bare.control("/conditions", {"retries_end_subscription": "past_due"})
    await _advance(sandbox_bare, 63 * DAY_S)
    _, older, newer = await _invoices(sandbox_bare, signup)
    for invoice, status in ((older, "past_due"), (newer, "active")):
        await sandbox_bare.v1.invoices.pay_async(invoice.id, {"payment_method": "pm_card_visa"})
        assert (await signup.read())[2] == status


async def test_a_trial_that_ends(sandbox_hooked: Sandbox, sandbox_receiver: Receiver) -> None:
    """`trial_will_end` three days before; at the end a renewal invoice, paid with the saved card."""
    signup = await sandbox_hooked.subscribe(trial_period_days=14)
    setup = signup.subscription.pending_setup_intent
    await sandbox_hooked.v1.setup_intents.confirm_async(setup.id, {"payment_method": "pm_card_visa"})
    end = signup.subscription.trial_end
    await _advance(sandbox_hooked, 11 * DAY_S - 60)
    assert not [e for e in await _events(sandbox_hooked) if e["type"].endswith("trial_will_end")]
    await _advance(sandbox_hooked, 5 * DAY_S)
    (notice,) = [e for e in await _events(sandbox_hooked) if e["type"].endswith("trial_will_end")]
    assert notice["data"]["object"]["status"] == "trialing"
    trial, renewal = await _invoices(sandbox_hooked, signup)
    assert (trial.amount_paid, renewal.billing_reason, renewal.status) == (0, "subscription_cycle", "paid")
    assert (renewal.created, renewal.lines.data[0].period.start, renewal.amount_paid) == (end, end, 2000)
    subscription = await sandbox_hooked.v1.subscriptions.retrieve_async(signup.subscription.id)
    assert (subscription.status, subscription.billing_cycle_anchor) == ("active", end)
    await wait_until(lambda: bool(sandbox_receiver.of("customer.subscription.trial_will_end")))


async def test_a_trial_without_a_card(sandbox_bare: Sandbox) -> None:
    """At the end of the trial the invoice stays open and the subscription is past due."""
    signup = await sandbox_bare.subscribe(trial_period_days=2)
    await _advance(sandbox_bare, 3 * DAY_S)
    invoice = (await _invoices(sandbox_bare, signup))[-1]
    subscription = await sandbox_bare.v1.subscriptions.retrieve_async(signup.subscription.id)
    assert (invoice.status, invoice.amount_due, subscription.status) == ("open", 2000, "past_due")


async def test_a_trial_that_is_ended_early(sandbox_bare: Sandbox) -> None:
    """`trial_end: now` begins the first period that costs something."""
    signup = await sandbox_bare.subscribe(trial_period_days=14)
    setup = signup.subscription.pending_setup_intent
    await sandbox_bare.v1.setup_intents.confirm_async(setup.id, {"payment_method": "pm_card_visa"})
    subscription = await sandbox_bare.v1.subscriptions.update_async(
        signup.subscription.id, {"trial_end": "now", "expand": ["latest_invoice"]}
    )
    assert (subscription.status, subscription.latest_invoice.amount_paid) == ("active", 2000)


async def test_scheduled_cancellations(sandbox_bare: Sandbox) -> None:
    """Canceled at the period's end or at a given time: it ends at that time and is not renewed."""
    for how in ("cancel_at_period_end", "cancel_at"):
        signup = await sandbox_bare.subscribe()
        await signup.confirm()
        end = signup.subscription["items"].data[0].current_period_end
        wanted: dict[str, Any] = {how: True} if how.endswith("end") else {how: end - DAY_S}
        changed = await sandbox_bare.v1.subscriptions.update_async(signup.subscription.id, wanted)
        await _advance(sandbox_bare, 40 * DAY_S)
        ended = await sandbox_bare.v1.subscriptions.retrieve_async(changed.id)
        assert (ended.status, ended.ended_at) == ("canceled", end if how.endswith("end") else end - DAY_S)
        assert ended.cancel_at_period_end is how.endswith("end")
        assert len(await _invoices(sandbox_bare, signup)) == 1


async def test_a_resumed_subscription_renews(sandbox_bare: Sandbox) -> None:
    """A resumed subscription renews as usual."""
    signup = await sandbox_bare.subscribe()
    await signup.confirm()
    for at_end in (True, False):
        await sandbox_bare.v1.subscriptions.update_async(
            signup.subscription.id, {"cancel_at_period_end": at_end}
        )
    await _advance(sandbox_bare, 40 * DAY_S)
    assert (await signup.read())[2] == "active"
    assert len(await _invoices(sandbox_bare, signup)) == 2


async def test_unpaid_first_payments_expire(sandbox_bare: Sandbox) -> None:
    """It expires 23 hours after its creation, no matter how far the clock is advanced."""
    signup = await sandbox_bare.subscribe()
    await _advance(sandbox_bare, 10 * DAY_S)
    subscription = await sandbox_bare.v1.subscriptions.retrieve_async(signup.subscription.id)
    assert (subscription.status, subscription.ended_at) == (
        "incomplete_expired",
        signup.subscription.created + 23 * 3600,
    )


async def test_a_coupon_that_repeats_runs_out(sandbox_bare: Sandbox) -> None:
    """Repeating: three months at half the price, then full price. `once` applies once, `forever` always."""
    make = sandbox_bare.v1.coupons.create_async
    for how, paid in (
        ({"duration": "repeating", "duration_in_months": 3}, [1000, 1000, 1000, 2000, 2000]),
        ({"duration": "once"}, [1000, 2000, 2000, 2000, 2000]),
        ({"duration": "forever"}, [1000, 1000, 1000, 1000, 1000]),
    ):
        coupon = await make({"percent_off": 50, **how})
        signup = await sandbox_bare.subscribe(discounts=[{"coupon": coupon.id}])
        await signup.confirm()
        await _advance(sandbox_bare, 124 * DAY_S)
        assert [one.amount_paid for one in await _invoices(sandbox_bare, signup)] == paid


async def test_everything_after_a_long_advance_validates(
    sandbox_hooked: Sandbox, sandbox_receiver: Receiver
) -> None:
    """After a long advance every event validates, and so does its object."""
    signup = await sandbox_hooked.subscribe()
    await signup.confirm()
    await sandbox_hooked.subscribe(trial_period_days=5)
    await sandbox_hooked.subscribe()
    await _advance(sandbox_hooked, 70 * DAY_S)
    made = await _events(sandbox_hooked)
    await wait_until(lambda: len(sandbox_receiver.received) == len(made))
    for event in (one.event for one in sandbox_receiver.received):
        check_shape(event)
        check_shape(event["data"]["object"])
