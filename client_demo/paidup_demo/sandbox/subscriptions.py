"""What subscriptions do: begin, change, renew, expire, end.

Sets a subscription's status and its items' periods. Changes of price or quantity are in change_plan.py and
changes.py, invoices in billing.py, what these cause in subscription_outcomes.py, and what the clock causes in
due.py.
"""

from __future__ import annotations

from paidup_demo.sandbox import (
    billing,
    change_plan,
    changes,
    currencies,
    ends,
    invoices,
    objects,
    pausing,
    payments,
    renewals,
)
from paidup_demo.sandbox.change_plan import Seat
from paidup_demo.sandbox.clock import DAY_S
from paidup_demo.sandbox.errors import InvalidRequestError, Json, ParameterError
from paidup_demo.sandbox.forms import require
from paidup_demo.sandbox.prorations import period_from, price_of, taken_off
from paidup_demo.sandbox.state import copied
from paidup_demo.sandbox.world import World


def create(world: World, params: Json) -> Json:
    """A subscription with its first invoice, as `payment_behavior` says."""
    subscription = draft(world, params)
    customer = world.store.get("customer", subscription["customer"])
    coupons = _coupons(world, params.get("discounts", []))
    due = 0 if subscription["trial_end"] else _amount_due(world, subscription, coupons)
    named = params.get("default_payment_method")
    method = billing.named_method(world, customer, named)
    behavior = params.get("payment_behavior") or "allow_incomplete"
    by_email = subscription["collection_method"] == "send_invoice"
    if by_email:
        require(params, "days_until_due")
        behavior = "default_incomplete"
    if due > 0 and behavior != "default_incomplete":
        billing.refuse_unpayable(world, method, behavior)
    world.store.add(subscription)
    customer["currency"] = subscription["currency"]
    if named and method:
        payments.attach(world, method, customer["id"])
        subscription["default_payment_method"] = method["id"]
    subscription["discounts"] = billing.start_discounts(world, subscription, coupons)
    subscription["status"] = (
        "incomplete" if due > 0 and not by_email else "trialing" if subscription["trial_end"] else "active"
    )
    if due == 0 and method is None:
        _ask_for_a_card(world, subscription)
    invoice = _bill_first(world, subscription)
    if invoice["status"] == "open" and behavior != "default_incomplete":
        billing.try_to_pay(world, invoice, method, off_session=bool(params.get("off_session")))
    return subscription


def draft(world: World, params: Json) -> Json:
    """The subscription that these parameters ask for; not stored."""
    customer = world.store.get("customer", params["customer"], "customer")
    seats = [change_plan.seat_of(world, item, position) for position, item in enumerate(params["items"])]
    currency = (params.get("currency") or seats[0].price["currency"]).lower()
    change_plan.check_prices(world, seats, currency)
    currencies.refuse_another(customer, currency)
    return _build(world, customer, seats, {**params, "currency": currency}, _trial_end(world, params))


def _coupons(world: World, discounts: list[Json]) -> list[Json]:
    return [
        world.store.get("coupon", discount.get("coupon"), f"discounts[{position}][coupon]")
        for position, discount in enumerate(discounts)
    ]


def _trial_end(world: World, params: Json) -> int | None:
    days, end = params.get("trial_period_days"), params.get("trial_end")
    if days and end:
        raise ParameterError("You may only specify one of these parameters: trial_end, trial_period_days.")
    if days:
        return world.now() + int(days) * DAY_S
    if end is None or end == "now":
        return None
    if not end.isdecimal() or int(end) <= world.now():
        raise InvalidRequestError(
            "Invalid timestamp: must be an integer Unix timestamp in the future.", param="trial_end"
        )
    return int(end)


def _amount_due(world: World, subscription: Json, coupons: list[Json]) -> int:
    """The amount due of the first invoice, including pending items and the customer's balance."""
    items = subscription["items"]["data"]
    total = sum(price_of(currencies.charged(world, subscription, item)) for item in items)
    for coupon in coupons:
        total -= taken_off(total, coupon)
    waiting = billing.waiting_items(world, subscription, others=True)
    balance = world.store.get("customer", subscription["customer"])["balance"]
    return int(max(0, total + sum(item["amount"] for item in waiting) + balance))


def _build(world: World, customer: Json, seats: list[Seat], params: Json, trial_end: int | None) -> Json:
    now, first = world.now(), seats[0].price
    subscription = objects.subscription(now, customer["id"], params["currency"])
    period = (now, trial_end) if trial_end else period_from(now, first, now)
    subscription["items"]["data"] = [
        objects.subscription_item(now, subscription["id"], seat.price, seat.quantity, period)
        | {"metadata": seat.metadata}
        for seat in seats
    ]
    subscription["payment_settings"].update(params.get("payment_settings", {}))
    subscription["billing_mode"]["flexible"].update(params.get("billing_mode", {}).get("flexible", {}))
    subscription.update(
        billing_cycle_anchor=trial_end or now,
        collection_method=params.get("collection_method") or "charge_automatically",
        days_until_due=params.get("days_until_due"),
        default_tax_rates=[
            copied(world.store.get("tax_rate", rate, "default_tax_rates"))
            for rate in params.get("default_tax_rates", [])
        ],
        **ends.new_end(world, subscription, params),
        description=params.get("description"),
        metadata=params.get("metadata", {}),
        trial_end=trial_end,
        trial_start=now if trial_end else None,
    )
    return subscription


def _ask_for_a_card(world: World, subscription: Json) -> None:
    """Nothing is due now, but something will be."""
    intent = world.store.add(objects.setup_intent(world.real_now(), subscription["customer"]))
    subscription["pending_setup_intent"] = intent["id"]
    world.events.record("setup_intent.created", intent)


def _bill_first(world: World, subscription: Json) -> Json:
    """The invoice of the first period, finalised."""
    composed = _composed(world, subscription, "subscription_create")
    # The event shows the invoice that is about to be made.
    subscription["latest_invoice"] = composed.invoice["id"]
    world.events.record("customer.subscription.created", subscription)
    return billing.issue(world, subscription, composed)


def _composed(world: World, subscription: Json, reason: str) -> billing.Composed:
    """The invoice of the current period, not stored yet."""
    waiting = billing.waiting_items(world, subscription, others=True)
    parts = billing.whole_periods(world, subscription)
    composed = billing.compose(world, subscription, reason, parts, waiting)
    billing.remember(world, billing.debits_of(composed))
    return composed


def update(world: World, subscription: Json, params: Json) -> None:
    """Changes what needs no billing; then items and anchor, with their prorations."""
    refuse_ended(subscription)
    change = None
    if params.keys() & changes.CHANGING:
        _refuse_unchangeable(subscription, params)
        change = change_plan.plan(world, subscription, params)
        changes.refuse_unpayable(world, subscription, change, params)
    waits = change is not None and params.get("payment_behavior") == "pending_if_incomplete"
    new = _plain_changes(world, subscription, params, waits=waits)
    if new or change is None:
        world.events.change("customer.subscription.updated", subscription, **new)
    if params.get("trial_end") == "now":
        end_trial(world, subscription)
    elif change is not None:
        # Plan again: coupons or metadata may have changed.
        changes.carry_out(world, subscription, change_plan.plan(world, subscription, params), params)


def _refuse_unchangeable(subscription: Json, params: Json) -> None:
    if subscription["status"] == "incomplete":
        raise InvalidRequestError(
            "You cannot update a subscription in `incomplete` status in a way that results in creating a new"
            " invoice. Please pay the subscription's first invoice before making this change.",
        )
    waits = params.get("payment_behavior") == "pending_if_incomplete"
    if waits and subscription["collection_method"] == "send_invoice":
        # https://docs.stripe.com/billing/subscriptions/pending-updates: "if [it] is charge_automatically"
        raise InvalidRequestError(
            "You cannot set `payment_behavior` to `pending_if_incomplete` when `collection_method` is"
            " `send_invoice`.",
            param="payment_behavior",
        )
    strange = sorted(params.keys() - changes.MAY_WAIT)
    if waits and strange:
        raise InvalidRequestError(
            "You cannot set `payment_behavior` to `pending_if_incomplete` when updating"
            f" {', '.join(strange)}.",
            param="payment_behavior",
        )


def _plain_changes(world: World, subscription: Json, params: Json, *, waits: bool) -> Json:
    """The changes without billing; `waits` excludes those applied with the payment."""
    new: Json = {"description": params["description"]} if "description" in params else {}
    if "pause_collection" in params:
        new["pause_collection"] = pausing.collection_pause(params["pause_collection"])
    if "metadata" in params and not waits:
        new["metadata"] = merged_metadata(subscription["metadata"], params["metadata"])
    if "discounts" in params and not waits:
        new["discounts"] = changes.discounts_from(world, subscription, params["discounts"])
    if "default_payment_method" in params:
        customer = world.store.get("customer", subscription["customer"])
        method = billing.named_method(world, customer, params["default_payment_method"])
        if method is not None:
            payments.attach(world, method, subscription["customer"])
        new["default_payment_method"] = method and method["id"]
    if "payment_settings" in params:
        new["payment_settings"] = subscription["payment_settings"] | params["payment_settings"]
    return new | ends.new_end(world, subscription, params)


def merged_metadata(current: Json, update: Json) -> Json:
    """Stripe merges metadata; an empty value removes its key, an empty hash removes all."""
    if not update:
        return {}
    return {key: value for key, value in {**current, **update}.items() if value != ""}


def cancel(world: World, subscription: Json, *, prorate: bool = False, invoice_now: bool = False) -> None:
    """Ends it now. One that was never paid is expired instead, and its invoice voided."""
    refuse_ended(subscription)
    if subscription["status"] == "incomplete":
        expire(world, subscription)
        return
    changes.drop_pending(world, subscription)
    if subscription["status"] != "trialing" and (prorate or invoice_now):
        changes.end_items(world, subscription, prorate=prorate, invoice_now=invoice_now)
    subscription["cancellation_details"]["reason"] = "cancellation_requested"
    end(world, subscription)


def end(world: World, subscription: Json) -> None:
    """Ends it now, and with it the collection of its invoices."""
    renewals.stop_collecting(world, subscription)
    now = world.now()
    asked_at = subscription["canceled_at"] or now
    at_end = subscription["cancel_at_period_end"] and now >= ends.period_end(subscription)
    new = {"status": "canceled", "canceled_at": asked_at, "ended_at": now, "cancel_at_period_end": at_end}
    world.events.change("customer.subscription.deleted", subscription, **new)


def refuse_ended(subscription: Json) -> None:
    """Raise if the subscription has ended."""
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise InvalidRequestError(
            "A canceled subscription can only update its cancellation_details and metadata."
        )


def expire(world: World, subscription: Json) -> None:
    """The first payment is overdue: void the invoice, which ends the subscription."""
    invoices.void(world, world.store.get("invoice", subscription["latest_invoice"]))


def renew_now(world: World, subscription: Json) -> Json:
    """Begin the next period whatever the clock says, and collect its invoice without the hour as a draft."""
    invoice = renew(world, subscription)
    renewals.collect(world, invoice)
    return invoice


def renew(world: World, subscription: Json) -> Json:
    """Begin the next period: its invoice stays a draft for an hour. https://docs.stripe.com/billing/invoices/subscription"""
    if subscription["status"] not in ("active", "trialing", "past_due"):
        raise InvalidRequestError(f"A subscription that is {subscription['status']} does not renew.")
    changes.drop_pending(world, subscription)
    return _begin_period(world, subscription, subscription["items"]["data"][0]["current_period_end"])


def end_trial(world: World, subscription: Json) -> Json:
    """The trial is over now, earlier than it was to be: the first period that costs something begins."""
    if subscription["status"] != "trialing":
        raise InvalidRequestError("This subscription is not in a trial.", param="trial_end")
    subscription.update(trial_end=world.now(), billing_cycle_anchor=world.now())
    invoice = _begin_period(world, subscription, world.now())
    renewals.collect(world, invoice)  # made by a call, so it is no draft that waits
    return invoice


def resume(world: World, subscription: Json) -> None:
    """A new period begins now; active again once its invoice is paid, until then still paused."""
    if subscription["status"] != "paused":
        raise InvalidRequestError("This subscription is not paused.")
    subscription["billing_cycle_anchor"] = world.now()
    renewals.collect(world, _begin_period(world, subscription, world.now()))


def _begin_period(world: World, subscription: Json, start: int) -> Json:
    previous = {"items": copied(subscription["items"]), "status": subscription["status"]}
    _let_discounts_end(world, subscription, start)
    for item in subscription["items"]["data"]:
        begin, end = period_from(start, item["price"], subscription["billing_cycle_anchor"])
        item.update(current_period_start=begin, current_period_end=end)
    if subscription["status"] == "trialing":
        subscription["status"] = "active"
    world.events.record("customer.subscription.updated", subscription, previous)
    composed = _composed(world, subscription, "subscription_cycle")
    renewals.schedule(world, composed.invoice)
    return billing.store(world, subscription, composed)


def _let_discounts_end(world: World, subscription: Json, moment: int) -> None:
    subscription["discounts"] = [
        discount["id"] for discount, _ in billing.discounts_at(world, subscription, moment)
    ]
