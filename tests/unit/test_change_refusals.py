"""What a customer is told where Stripe does not change their subscription."""

from __future__ import annotations

from typing import Any

import pytest

from paidup.errors import ChangeRefused, NotSubscribed, PaidupError, StripeRefused
from paidup.stripe_api.schemas import ItemPrice, ListOf, PauseCollection, StripeSubscription, SubscriptionItem
from paidup.subscriptions.change_refusals import refusals, refuse_unchangeable


def running(status: str = "active", **more: Any) -> StripeSubscription:
    item = SubscriptionItem("si_1", ItemPrice("price_pro"), 1, 1_800_000_000)
    return StripeSubscription("sub_1", status, "cus_1", ListOf([item]), **more)


@pytest.mark.parametrize(
    ("subscription", "reason"),
    [
        (running(collection_method="send_invoice"), "send_invoice"),
        (running(pause_collection=PauseCollection("void")), "collection_paused"),
        (running(status="paused"), "paused"),
    ],
)
def test_what_cannot_change_is_refused_before_stripe_is_asked(
    subscription: StripeSubscription, reason: str
) -> None:
    with pytest.raises(ChangeRefused) as refused:
        refuse_unchangeable(subscription)
    assert refused.value.reason == reason
    refuse_unchangeable(running())


@pytest.mark.parametrize(
    ("status", "code", "schedule", "expected"),
    [
        (400, None, None, ChangeRefused),
        (402, "card_declined", None, ChangeRefused),
        (400, None, "sub_sched_1", ChangeRefused),
        (400, "resource_missing", None, ChangeRefused),
        (404, "resource_missing", None, NotSubscribed),
        (401, None, None, StripeRefused),
        (403, None, None, StripeRefused),
    ],
)
def test_a_refusal_of_stripe_is_a_conflict_where_it_concerns_the_subscription(
    status: int, code: str | None, schedule: str | None, expected: type[PaidupError]
) -> None:
    """A schedule of Stripe's refuses a change of the end; a key without the permission is not the customer's.

    "The subscription is managed by the subscription schedule ..., and updating any cancelation behavior
    directly is not allowed": https://docs.stripe.com/billing/subscriptions/subscription-schedules
    """
    with pytest.raises(expected) as raised, refusals(running(schedule=schedule)):
        raise StripeRefused("subscriptions.update: refused", code, status)
    if isinstance(raised.value, ChangeRefused):
        assert raised.value.reason == ("scheduled" if schedule else "refused")
