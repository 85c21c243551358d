"""What subscriptions do: begin, wait for their first payment, become active, renew, expire, end.

Owns a subscription's status and its items' periods. Not imitated yet: a change of price or quantity, with
its prorations (the seam is `change_items`), and renewals by the clock alone (the seam is `act_on_time`).
"""

from __future__ import annotations

from dataclasses import dataclass

from client_demo.sandbox import cards, invoices, objects, payments
from client_demo.sandbox.clock import DAY_S, HOUR_S, add_interval, day_of_month
from client_demo.sandbox.errors import CardError, InvalidRequestError, Json, ParameterError
from client_demo.sandbox.state import copied
from client_demo.sandbox.world import World

FIRST_PAYMENT_WITHIN_S = 23 * HOUR_S


@dataclass(frozen=True)
class Seat:
    """A price and how many of it."""

    price: Json
    quantity: int

    @property
    def amount(self) -> int:
        """Minor units for one period."""
        return int(self.price["unit_amount"]) * self.quantity


def create(world: World, params: Json) -> Json:
    """A subscription with its first invoice, as `payment_behavior` says."""
    customer = world.store.get("customer", params["customer"], "customer")
    seats = _seats(world, params["items"])
    coupons = _coupons(world, params.get("discounts", []))
    trial_end = _trial_end(world, params)
    due = 0 if trial_end else _amount_due(seats, coupons, customer["balance"])
    named = params.get("default_payment_method")
    method = _method(world, customer, named)
    behavior = params.get("payment_behavior") or "allow_incomplete"
    if due > 0 and behavior != "default_incomplete":
        _refuse_unpayable(world, method, behavior)
    subscription = _build(world, customer, seats, params, trial_end)
    if named and method:
        payments.attach(world, method, customer["id"])
        subscription["default_payment_method"] = method["id"]
    _apply_coupons(world, subscription, coupons)
    subscription["status"] = "incomplete" if due > 0 else "trialing" if trial_end else "active"
    if due == 0 and method is None:
        _ask_for_a_card(world, subscription)
    invoice = _bill(world, subscription, "subscription_create", announce=True)
    if due > 0 and behavior != "default_incomplete":
        _try_to_pay(world, invoice, method, off_session=bool(params.get("off_session")))
    return subscription


def _seats(world: World, items: list[Json]) -> list[Seat]:
    seats = []
    for position, item in enumerate(items):
        param = f"items[{position}][price]"
        if not item.get("price"):
            raise ParameterError(f"Missing required param: {param}.", code="parameter_missing", param=param)
        price = world.store.get("price", item["price"], param)
        if not price["active"]:
            raise InvalidRequestError(
                "The price specified is inactive. This field only accepts active prices.", param=param
            )
        if price["recurring"] is None:
            raise InvalidRequestError(
                "The price specified is set to `type=one_time` but this field only accepts prices with"
                " `type=recurring`.",
                param=param,
            )
        quantity = item.get("quantity")
        seats.append(Seat(price, 1 if quantity is None else quantity))
    rhythms = {
        (s.price["currency"], s.price["recurring"]["interval"], s.price["recurring"]["interval_count"])
        for s in seats
    }
    if len(rhythms) > 1:
        raise InvalidRequestError(
            "All prices on a subscription must have the same currency and billing interval."
        )
    return seats


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


def _amount_due(seats: list[Seat], coupons: list[Json], balance: int) -> int:
    total = sum(seat.amount for seat in seats)
    for coupon in coupons:
        off = coupon["amount_off"] or 0
        total -= (
            min(total, off) if coupon["percent_off"] is None else round(total * coupon["percent_off"] / 100)
        )
    return max(0, total + min(0, balance))


def _method(world: World, customer: Json, named: str | None) -> Json | None:
    method_id = named or customer["invoice_settings"]["default_payment_method"]
    return cards.resolve(world.store, world.now(), method_id, "default_payment_method") if method_id else None


def _refuse_unpayable(world: World, method: Json | None, behavior: str) -> None:
    """What Stripe refuses before anything exists: no card, or (if asked so) one that will not pay at once."""
    if method is None:
        raise InvalidRequestError(
            "This customer has no attached payment source or default payment method. Please consider adding a"
            " default payment method. For more information, visit"
            " https://stripe.com/docs/billing/subscriptions/payment-methods-setting#payment-method-priority.",
            code="resource_missing",
        )
    if behavior != "error_if_incomplete":
        return
    decline = world.store.note(method["id"])["decline"]
    if payments.needs_authentication(world, method, off_session=False):
        raise CardError(
            "Payment for this subscription requires additional user action before it can be completed"
            " successfully.",
            code="subscription_payment_intent_requires_action",
        )
    if decline is not None:
        raise payments.declined(cards.decline_fields(decline))


def _build(world: World, customer: Json, seats: list[Seat], params: Json, trial_end: int | None) -> Json:
    now = world.now()
    first = seats[0].price
    subscription = objects.subscription(now, customer["id"], first["currency"])
    rhythm = first["recurring"]
    anchor = trial_end or now
    end = trial_end or add_interval(now, rhythm["interval"], rhythm["interval_count"], day_of_month(now))
    subscription["items"]["data"] = [
        objects.subscription_item(now, subscription["id"], seat.price, seat.quantity, (now, end))
        for seat in seats
    ]
    subscription["payment_settings"].update(params.get("payment_settings", {}))
    subscription.update(
        billing_cycle_anchor=anchor,
        cancel_at_period_end=params.get("cancel_at_period_end", False),
        description=params.get("description"),
        metadata=params.get("metadata", {}),
        trial_end=trial_end,
        trial_start=now if trial_end else None,
    )
    customer["currency"] = first["currency"]
    return world.store.add(subscription)


def _apply_coupons(world: World, subscription: Json, coupons: list[Json]) -> None:
    for coupon in coupons:
        made = objects.discount(world.now(), coupon["id"], subscription["customer"], subscription["id"])
        world.store.add(made)
        subscription["discounts"].append(made["id"])
        coupon["times_redeemed"] += 1


def _ask_for_a_card(world: World, subscription: Json) -> None:
    """Nothing is due now, but something will be."""
    intent = world.store.add(objects.setup_intent(world.now(), subscription["customer"]))
    subscription["pending_setup_intent"] = intent["id"]
    world.events.record("setup_intent.created", intent)


def _bill(world: World, subscription: Json, reason: str, *, announce: bool = False) -> Json:
    """The invoice of the current period, finalised. `announce` also tells of the subscription's creation."""
    customer = world.store.get("customer", subscription["customer"])
    invoice = invoices.new_draft(world, customer, subscription["currency"], reason, {})
    invoice["parent"] = {
        "quote_details": None,
        "subscription_details": {
            "metadata": copied(subscription["metadata"]),
            "subscription": subscription["id"],
        },
        "type": "subscription_details",
    }
    invoice["payment_settings"]["payment_method_types"] = subscription["payment_settings"][
        "payment_method_types"
    ]
    invoices.add_lines(
        invoice, [_line(world, invoice, subscription, item) for item in subscription["items"]["data"]]
    )
    _discount(world, invoice, subscription)
    subscription["latest_invoice"] = invoice["id"]
    if announce:
        world.events.record("customer.subscription.created", subscription)
    world.events.record("invoice.created", invoice)
    invoices.finalize(world, invoice)
    return invoice


def _line(world: World, invoice: Json, subscription: Json, item: Json) -> Json:
    price, on_trial = item["price"], subscription["status"] == "trialing"
    name = world.store.get("product", price["product"])["name"]
    unit = f"{price['unit_amount'] / 100:.2f} {price['currency'].upper()} / {price['recurring']['interval']}"
    return objects.line_item(
        invoice,
        amount=0 if on_trial else price["unit_amount"] * item["quantity"],
        description=f"Trial period for {name}" if on_trial else f"{item['quantity']} × {name} (at {unit})",
        period=(item["current_period_start"], item["current_period_end"]),
        quantity=item["quantity"],
        pricing=objects.price_details(price),
        parent=objects.subscription_item_parent(item),
        metadata=copied(subscription["metadata"]),
    )


def _discount(world: World, invoice: Json, subscription: Json) -> None:
    """Takes the subscription's coupons off; one that counts once is then used up."""
    for discount_id in list(subscription["discounts"]):
        discount = world.store.get("discount", discount_id)
        coupon = world.store.get("coupon", discount["source"]["coupon"])
        invoices.apply_discount(invoice, discount, coupon)
        if coupon["duration"] == "once":
            subscription["discounts"].remove(discount_id)


def _try_to_pay(world: World, invoice: Json, method: Json | None, *, off_session: bool) -> None:
    """A declined card leaves things incomplete or past due, as the invoice's end tells."""
    try:
        invoices.pay(world, invoice, method, off_session=off_session)
    except CardError:
        return


def update(world: World, subscription: Json, params: Json) -> None:
    """Changes what can be changed without billing anything."""
    _refuse_ended(subscription)
    if params.keys() & {
        "items",
        "proration_behavior",
        "payment_behavior",
        "billing_cycle_anchor",
        "proration_date",
    }:
        change_items(world, subscription, params)
    new: Json = {key: params[key] for key in ("cancel_at_period_end", "description") if key in params}
    if "metadata" in params:
        new["metadata"] = merged_metadata(subscription["metadata"], params["metadata"])
    if "default_payment_method" in params:
        method = _method(
            world, world.store.get("customer", subscription["customer"]), params["default_payment_method"]
        )
        if method is not None:
            payments.attach(world, method, subscription["customer"])
        new["default_payment_method"] = method and method["id"]
    if "payment_settings" in params:
        new["payment_settings"] = subscription["payment_settings"] | params["payment_settings"]
    if "cancel_at_period_end" in new:
        ends = new["cancel_at_period_end"]
        new["cancel_at"] = subscription["items"]["data"][0]["current_period_end"] if ends else None
        new["canceled_at"] = world.now() if ends else None
    world.events.change("customer.subscription.updated", subscription, **new)


def change_items(world: World, subscription: Json, params: Json) -> None:
    """The seam for upgrades and downgrades with their prorations."""
    raise InvalidRequestError(
        "This sandbox does not imitate changes of price or quantity yet.",
        code="sandbox_not_imitated",
        param="items",
    )


def merged_metadata(current: Json, update: Json) -> Json:
    """Stripe merges metadata; an empty value removes its key, an empty hash removes all."""
    if not update:
        return {}
    return {key: value for key, value in {**current, **update}.items() if value != ""}


def cancel(world: World, subscription: Json) -> None:
    """Ends it now. One that was never paid is expired instead, and its invoice voided."""
    _refuse_ended(subscription)
    if subscription["status"] == "incomplete":
        _expire(world, subscription)
        return
    now = world.now()
    subscription["cancellation_details"]["reason"] = "cancellation_requested"
    changes = {"status": "canceled", "canceled_at": now, "ended_at": now, "cancel_at_period_end": False}
    world.events.change("customer.subscription.deleted", subscription, **changes)


def _refuse_ended(subscription: Json) -> None:
    if subscription["status"] in ("canceled", "incomplete_expired"):
        raise InvalidRequestError(
            "A canceled subscription can only update its cancellation_details and metadata."
        )


def _expire(world: World, subscription: Json) -> None:
    invoices.void(world, world.store.get("invoice", subscription["latest_invoice"]))


def on_invoice_paid(world: World, invoice_id: str) -> None:
    """Money arrived: incomplete or past due becomes active, and the card is kept if that was asked for."""
    invoice = world.store.get("invoice", invoice_id)
    subscription = invoices.subscription_of(world, invoice)
    if subscription is None or subscription["status"] in ("canceled", "incomplete_expired"):
        return
    new: Json = {}
    if subscription["status"] in ("incomplete", "past_due", "unpaid"):
        new["status"] = "active"
    if subscription["payment_settings"]["save_default_payment_method"] == "on_subscription":
        found = invoices.default_payment(world, invoice)
        if found and found[1]["payment_method"]:
            new["default_payment_method"] = found[1]["payment_method"]
    if any(subscription[key] != value for key, value in new.items()):
        world.events.change("customer.subscription.updated", subscription, **new)


def on_invoice_unpaid(world: World, invoice_id: str) -> None:
    """A renewal that could not be collected makes the subscription past due."""
    invoice = world.store.get("invoice", invoice_id)
    subscription = invoices.subscription_of(world, invoice)
    if subscription is not None and subscription["status"] == "active":
        world.events.change("customer.subscription.updated", subscription, status="past_due")


def on_invoice_voided(world: World, invoice_id: str) -> None:
    """A first invoice that will never be paid ends its subscription."""
    subscription = invoices.subscription_of(world, world.store.get("invoice", invoice_id))
    if subscription is not None and subscription["status"] == "incomplete":
        changes = {"status": "incomplete_expired", "ended_at": world.now()}
        world.events.change("customer.subscription.updated", subscription, **changes)


def on_setup_finished(world: World, setup_intent_id: str) -> None:
    """The card of a trial was saved."""
    for subscription in list(world.store.newest("subscription", pending_setup_intent=setup_intent_id)):
        method = world.store.get("setup_intent", setup_intent_id)["payment_method"]
        changes = {"pending_setup_intent": None, "default_payment_method": method}
        world.events.change("customer.subscription.updated", subscription, **changes)


def renew(world: World, subscription: Json) -> Json:
    """Begins the next period now, whatever the clock says: an invoice, collected off-session."""
    if subscription["status"] not in ("active", "trialing", "past_due"):
        raise InvalidRequestError(f"A subscription that is {subscription['status']} does not renew.")
    previous = {"items": copied(subscription["items"]), "status": subscription["status"]}
    anchor_day = day_of_month(subscription["billing_cycle_anchor"])
    for item in subscription["items"]["data"]:
        rhythm, start = item["price"]["recurring"], item["current_period_end"]
        end = add_interval(start, rhythm["interval"], rhythm["interval_count"], anchor_day)
        item.update(current_period_start=start, current_period_end=end)
    if subscription["status"] == "trialing":
        subscription["status"] = "active"
    world.events.record("customer.subscription.updated", subscription, previous)
    invoice = _bill(world, subscription, "subscription_cycle")
    if invoice["status"] == "open":
        _collect_renewal(world, invoice)
    return invoice


def _collect_renewal(world: World, invoice: Json) -> None:
    method = invoices.saved_method(world, invoice)
    if method is None:
        invoices.note_failed_payment(world, invoice["id"])
    else:
        _try_to_pay(world, invoice, method, off_session=True)


def act_on_time(world: World) -> None:
    """What the clock alone brings about: first payments that never came, and ends that were asked for."""
    now = world.now()
    for subscription in list(world.store.newest("subscription", status="incomplete")):
        found = invoices.default_payment(world, world.store.get("invoice", subscription["latest_invoice"]))
        waits = found is None or found[1]["status"] in payments.CONFIRMABLE
        if waits and subscription["created"] + FIRST_PAYMENT_WITHIN_S <= now:
            _expire(world, subscription)
    for subscription in list(world.store.newest("subscription", status="active", cancel_at_period_end=True)):
        if subscription["cancel_at"] and subscription["cancel_at"] <= now:
            cancel(world, subscription)
