"""Previews: the invoice that a change would make, or that comes next, put together and shown, never stored.

They use the functions that create real invoices, so the lines are the same. Nothing is stored and no event is
recorded.
"""

from __future__ import annotations

from paidup_demo.sandbox import billing, change_plan, changes, invoices, subscriptions
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.prorations import Part, period_from
from paidup_demo.sandbox.state import copied, new_id
from paidup_demo.sandbox.world import World


def preview(world: World, params: Json) -> Json:
    """The invoice that `POST /v1/invoices/create_preview` is asked about."""
    details = params.get("subscription_details", {})
    if params.get("subscription"):
        subscription = world.store.get("subscription", params["subscription"], "subscription")
        _refuse_other_customer(subscription, params.get("customer"))
        composed = _of_existing(world, subscription, details)
    else:
        composed = _of_new(world, params | details)
    invoice = composed.invoice
    customer = world.store.get("customer", invoice["customer"])
    invoices.settle_balance(invoice, customer["balance"])
    invoice["id"] = new_id("upcoming_in")
    invoice["lines"]["url"] = f"/v1/invoices/{invoice['id']}/lines"
    for line in invoice["lines"]["data"]:
        line["invoice"] = invoice["id"]
    return invoice


def _refuse_other_customer(subscription: Json, customer: str | None) -> None:
    if customer not in (None, subscription["customer"]):
        raise InvalidRequestError(
            f"Customer {customer} does not have a subscription with ID {subscription['id']}",
            code="resource_missing",
            param="subscription",
        )


def _of_new(world: World, params: Json) -> billing.Composed:
    """The first invoice of a subscription that does not exist."""
    if not params.get("customer") or not params.get("items"):
        raise InvalidRequestError("A preview needs a subscription, or a customer and items.")
    drafted = subscriptions.draft(world, {**params, "trial_end": None})
    drafted["status"] = "active"
    waiting = billing.waiting_items(world, drafted, others=True)
    return billing.compose(world, drafted, "upcoming", billing.whole_periods(world, drafted), waiting)


def _of_existing(world: World, subscription: Json, details: Json) -> billing.Composed:
    """What a change would be invoiced now; without one, or where it is not invoiced now, the next cycle."""
    subscriptions.refuse_ended(subscription)
    mine = billing.waiting_items(world, subscription, others=False)
    if details.get("cancel_now"):
        back = change_plan.given_back(world, subscription, details)
        return billing.compose(world, subscription, "upcoming", back, mine)
    if details.get("trial_end") == "now" and subscription["status"] == "trialing":
        return _cycle(world, subscription, world.now(), world.now(), [])
    parts: list[Part] = []
    after, start = subscription, subscription["items"]["data"][0]["current_period_end"]
    if details.keys() & changes.CHANGING:
        change = change_plan.plan(world, subscription, details)
        if change.at_once:
            return billing.compose(world, change.after, "upcoming", change.parts, mine)
        after, parts = change.after, change.parts
    ends = (
        details.get("cancel_at_period_end")
        or subscription["cancel_at_period_end"]
        or (subscription["cancel_at"] is not None and subscription["cancel_at"] <= start)
    )
    if ends:
        raise InvalidRequestError("No upcoming invoices for customer", code="invoice_upcoming_none")
    return _cycle(world, after, start, subscription["billing_cycle_anchor"], parts)


def _cycle(world: World, subscription: Json, start: int, anchor: int, parts: list[Part]) -> billing.Composed:
    """The invoice of the period that begins then, with what waits for it."""
    following = copied(subscription) | {"status": "active"}
    for item in following["items"]["data"]:
        begin, end = period_from(start, item["price"], anchor)
        item.update(current_period_start=begin, current_period_end=end)
    waiting = billing.waiting_items(world, subscription, others=True)
    whole = billing.whole_periods(world, following)
    return billing.compose(world, following, "upcoming", [*parts, *whole], waiting)
