"""When a subscription is to be cancelled: `cancel_at` and `cancel_at_period_end`."""

from __future__ import annotations

from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.world import World


def new_end(world: World, subscription: Json, params: Json) -> Json:
    """When it is to be cancelled: at the period's end, at a moment, or not at all.

    With flexible billing, the two fields are independent; Stripe takes one of them in a call:
    https://docs.stripe.com/billing/subscriptions/billing-mode/compare
    """
    new: Json = {name: params[name] for name in ("cancel_at", "cancel_at_period_end") if name in params}
    if len(new) > 1:
        raise InvalidRequestError(
            "Received both cancel_at_period_end and cancel_at parameters. Please pass in only one."
        )
    if not new:
        return {}
    if new.get("cancel_at") is not None and new["cancel_at"] <= world.now():
        raise InvalidRequestError("Invalid timestamp: must be in the future.", param="cancel_at")
    after = {name: subscription[name] for name in ("cancel_at", "cancel_at_period_end")} | new
    return {**new, "canceled_at": world.now() if any(after.values()) else None}


def period_end(subscription: Json) -> int:
    """The end of the current period, the latest one of its items."""
    return max(int(item["current_period_end"]) for item in subscription["items"]["data"])
