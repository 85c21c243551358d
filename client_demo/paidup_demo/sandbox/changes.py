"""Changes of a subscription's prices and quantities: planned, billed, and optionally pending until paid.

Handles `pending_update` and decides the prorations of a change; prorations.py calculates the amounts and
billing.py creates the invoices. Planning changes nothing, so a preview is a plan that is not carried out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paidup_demo.sandbox import billing, invoices, objects, payments
from paidup_demo.sandbox.clock import HOUR_S
from paidup_demo.sandbox.errors import InvalidRequestError, Json, ParameterError
from paidup_demo.sandbox.prorations import Part, period_from, price_of, remaining, rhythm, unused
from paidup_demo.sandbox.state import copied
from paidup_demo.sandbox.world import World

PENDING_FOR_S = 23 * HOUR_S
CHANGING = frozenset(
    {"items", "proration_behavior", "payment_behavior", "billing_cycle_anchor", "proration_date"}
)
# Parameters allowed next to the items if the change waits for its payment.
MAY_WAIT = CHANGING | {"metadata", "discounts", "off_session"}


@dataclass(frozen=True)
class Seat:
    """A price and how many of it; `item` is the one on the subscription that it belongs to, if any."""

    price: Json
    quantity: int
    item: Json | None = None
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A planned change. `after`: the future subscription; `parts`: what is charged."""

    after: Json
    parts: list[Part]
    changed: set[str]
    at_once: bool


def seat_of(world: World, wanted: Json, position: int) -> Seat:
    """The seat that these item parameters describe."""
    param = f"items[{position}][price]"
    if not wanted.get("price"):
        raise ParameterError(f"Missing required param: {param}.", code="parameter_missing", param=param)
    price = world.store.get("price", wanted["price"], param)
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
    quantity = wanted.get("quantity")
    return Seat(price, 1 if quantity is None else quantity, metadata=wanted.get("metadata", {}))


def check_prices(seats: list[Seat]) -> None:
    """Raise if the prices differ in currency or interval, or if one occurs twice."""
    if len({(seat.price["currency"], *rhythm(seat.price)) for seat in seats}) > 1:
        raise InvalidRequestError(
            "All prices on a subscription must have the same currency and billing interval."
        )
    if len({seat.price["id"] for seat in seats}) < len(seats):
        raise InvalidRequestError(
            "Cannot add multiple subscription items with the same price.", param="items"
        )
    if any(seat.quantity < 0 for seat in seats):
        raise InvalidRequestError("Quantity must be at least 0.", param="items")


def plan(world: World, subscription: Json, params: Json) -> Change:
    """Plan the change from `proration_date` or from now. Changes nothing."""
    former = subscription["items"]["data"]
    seats = _seats(world, former, params.get("items", []))
    now, moment = world.now(), _moment(world, former, params)
    behavior = params.get("proration_behavior") or "create_prorations"
    restarts = _restarts(subscription, seats, params)
    anchor = now if restarts else subscription["billing_cycle_anchor"]
    period = (former[0]["current_period_start"], former[0]["current_period_end"])
    if restarts:
        period = period_from(now, seats[0].price, anchor)
    items = [_item(now, subscription["id"], seat, period) for seat in seats]
    after = copied(subscription) | {"billing_cycle_anchor": anchor}
    after["items"]["data"] = items
    changed = _changed(former, items)
    on_trial = subscription["status"] == "trialing"
    prorates = behavior != "none" and not on_trial
    if restarts:
        parts = _given_back(world, former, moment) if prorates else []
        parts += billing.whole_periods(world, after)
        return Change(after, parts, {item["id"] for item in [*former, *items]}, at_once=True)
    parts = _prorations(world, subscription, items, changed, moment) if prorates else []
    return Change(after, parts, changed if prorates else set(), at_once=behavior == "always_invoice")


def _seats(world: World, former: list[Json], wanted: list[Json]) -> list[Seat]:
    """All future seats: the existing ones, changed or not, then the new ones."""
    by_id = {item["id"]: Seat(item["price"], item["quantity"], item, item["metadata"]) for item in former}
    added = []
    for position, entry in enumerate(wanted):
        item_id = entry.get("id")
        if item_id is None:
            added.append(seat_of(world, entry, position))
        elif item_id not in by_id:
            raise InvalidRequestError(
                f"No such subscription item: '{item_id}'",
                code="resource_missing",
                param=f"items[{position}][id]",
            )
        elif entry.get("deleted"):
            del by_id[item_id]
        else:
            by_id[item_id] = _changed_seat(world, by_id[item_id], entry, position)
    seats = [*by_id.values(), *added]
    if not seats:
        raise InvalidRequestError("A subscription must have at least one active plan.", param="items")
    check_prices(seats)
    if seats[0].price["currency"] != former[0]["price"]["currency"]:
        raise InvalidRequestError("You cannot change the currency of a subscription.", param="items")
    return seats


def _changed_seat(world: World, seat: Seat, entry: Json, position: int) -> Seat:
    """As at Stripe, a new price resets the quantity to 1 unless one is given."""
    price, quantity = entry.get("price") or seat.price["id"], entry.get("quantity")
    same = price == seat.price["id"]
    if quantity is None:
        quantity = seat.quantity if same else 1
    wanted = {"metadata": entry.get("metadata", seat.metadata), "price": price, "quantity": quantity}
    made = Seat(seat.price, wanted["quantity"]) if same else seat_of(world, wanted, position)
    return Seat(made.price, made.quantity, seat.item, wanted["metadata"])


def _moment(world: World, former: list[Json], params: Json) -> int:
    moment: int | None = params.get("proration_date")
    start, end = int(former[0]["current_period_start"]), int(former[0]["current_period_end"])
    if moment is None:
        return min(max(world.now(), start), end)
    if not start <= moment <= end:
        raise InvalidRequestError(
            "Cannot specify proration_date outside of current subscription period.", param="proration_date"
        )
    return moment


def _restarts(subscription: Json, seats: list[Seat], params: Json) -> bool:
    """Whether a new period starts: a new interval, an anchor "now", or the first price above zero."""
    former = subscription["items"]["data"]
    if subscription["status"] == "trialing":
        return False
    if (params.get("billing_cycle_anchor") or {}).get("type") == "now":
        return True
    was_free = not any(price_of(item) for item in former)
    costs = any(seat.price["unit_amount"] * seat.quantity for seat in seats)
    return rhythm(former[0]["price"]) != rhythm(seats[0].price) or (was_free and costs)


def _item(now: int, subscription_id: str, seat: Seat, period: tuple[int, int]) -> Json:
    made = objects.subscription_item(now, subscription_id, seat.price, seat.quantity, period)
    kept = {} if seat.item is None else {key: seat.item[key] for key in ("id", "created")}
    return made | kept | {"metadata": seat.metadata}


def _changed(former: list[Json], items: list[Json]) -> set[str]:
    """The ids of the items whose charges change."""

    def charges(rows: list[Json]) -> dict[str, tuple[str, int]]:
        return {row["id"]: (row["price"]["id"], row["quantity"]) for row in rows}

    before, after = charges(former), charges(items)
    return {item_id for item_id in before | after if before.get(item_id) != after.get(item_id)}


def given_back(world: World, subscription: Json, params: Json) -> list[Part]:
    """The credit for ending every item now, or at `proration_date`."""
    items = subscription["items"]["data"]
    if params.get("proration_behavior") == "none" or subscription["status"] == "trialing":
        return []
    return _given_back(world, items, _moment(world, items, params))


def _given_back(world: World, items: list[Json], moment: int) -> list[Part]:
    return [
        part
        for item in items
        for part in unused(item, billing.name_of(world, item), moment, billing.debits(world, item))
    ]


def _prorations(
    world: World, subscription: Json, items: list[Json], changed: set[str], moment: int
) -> list[Part]:
    """For each changed item: the unused part, then the remaining part."""
    parts = []
    after = {item["id"]: item for item in items}
    former = {item["id"]: item for item in subscription["items"]["data"]}
    for item_id in (each for each in former | after if each in changed):
        if item_id in former:
            parts += _given_back(world, [former[item_id]], moment)
        if item_id in after and price_of(after[item_id]) and moment < after[item_id]["current_period_end"]:
            item = after[item_id]
            coupons = billing.coupons_for(world, subscription, items, item, moment)
            parts.append(remaining(item, billing.name_of(world, item), moment, coupons))
    return parts


def refuse_unpayable(world: World, subscription: Json, change: Change, params: Json) -> None:
    """Raise before anything is changed if an immediate payment is required and impossible."""
    behavior = params.get("payment_behavior") or "allow_incomplete"
    if behavior not in ("allow_incomplete", "error_if_incomplete"):
        return
    composed = _compose(world, subscription, change)
    if composed is None or _due(world, composed) == 0:
        return
    method = _method(world, subscription, params.get("default_payment_method"))
    billing.refuse_unpayable(world, method, behavior, off_session=bool(params.get("off_session")))


def _compose(world: World, subscription: Json, change: Change) -> billing.Composed | None:
    """The invoice that the change would create now, if any; not stored."""
    if not change.at_once or not change.parts:
        return None
    waiting = billing.waiting_items(world, subscription, others=False)
    return billing.compose(world, change.after, "subscription_update", change.parts, waiting)


def _due(world: World, composed: billing.Composed) -> int:
    customer = world.store.get("customer", composed.invoice["customer"])
    return max(0, int(composed.invoice["total"]) + int(customer["balance"]))


def _method(world: World, subscription: Json, named: str | None = None) -> Json | None:
    customer = world.store.get("customer", subscription["customer"])
    return billing.named_method(world, customer, named or subscription["default_payment_method"])


def carry_out(world: World, subscription: Json, change: Change, params: Json) -> None:
    """Apply the change now, or once its invoice is paid with `pending_if_incomplete`."""
    behavior = params.get("payment_behavior") or "allow_incomplete"
    drop_pending(world, subscription)
    composed = _compose(world, subscription, change)
    if composed is None:
        _apply(world, subscription, change.after)
        _postpone(world, subscription, change)
        return
    due = _due(world, composed)
    if due and behavior == "pending_if_incomplete":
        _propose(world, subscription, change, composed, params)
    else:
        _bill_now(world, subscription, change, composed)
    method = _method(world, subscription)
    if due and behavior != "default_incomplete" and method is not None:
        billing.try_to_pay(world, composed.invoice, method, off_session=bool(params.get("off_session")))
    _after_the_attempt(world, subscription, composed.invoice)


def _bill_now(world: World, subscription: Json, change: Change, composed: billing.Composed) -> None:
    """Apply the change, paid or not."""
    previous = _previous(subscription)
    _lay_over(subscription, change.after)
    _remember(world, change, billing.debits_of(composed))
    billing.issue(
        world,
        subscription,
        composed,
        lambda: world.events.record("customer.subscription.updated", subscription, previous),
    )


def _propose(
    world: World, subscription: Json, change: Change, composed: billing.Composed, params: Json
) -> None:
    """Create the change's invoice; the subscription stays unchanged until it is paid."""
    charged = billing.debits_of(composed)
    former = subscription["items"]["data"]
    expires = min(world.now() + PENDING_FOR_S, *(item["current_period_end"] for item in former))
    world.store.note(subscription["id"])["pending"] = {
        "after": change.after,
        "debits": {item_id: charged.get(item_id, []) for item_id in change.changed},
        "discounts": params.get("discounts"),
        "expires_at": expires,
        "invoice": composed.invoice["id"],
        "metadata": params.get("metadata"),
    }
    billing.issue(world, subscription, composed)


def _after_the_attempt(world: World, subscription: Json, invoice: Json) -> None:
    """Record the pending update, or the past due status of an unpaid change."""
    if invoice["status"] != "open":
        return
    pending, payment = pending_of(world, subscription), invoices.default_payment(world, invoice)
    if pending is None:
        waits = payment is not None and payment[1]["status"] in payments.CONFIRMABLE
        if waits and subscription["status"] == "active":
            world.events.change("customer.subscription.updated", subscription, status="past_due")
        return
    after = pending["after"]
    restarts = after["billing_cycle_anchor"] != subscription["billing_cycle_anchor"]
    shown = {
        "billing_cycle_anchor": after["billing_cycle_anchor"] if restarts else None,
        "discount": None,
        "discounts": None,
        "expires_at": pending["expires_at"],
        "metadata": pending["metadata"],
        "subscription_items": copied(after["items"]["data"]),
        "trial_end": None,
        "trial_from_plan": None,
    }
    world.events.change("customer.subscription.updated", subscription, pending_update=shown)


def _postpone(world: World, subscription: Json, change: Change) -> None:
    """Store the prorations as pending items of the next invoice."""
    charged: dict[str, list[Json]] = {}
    for part in change.parts:
        item = invoices.keep_item(world, billing.proration_item(world, subscription, part))
        world.events.record("invoiceitem.created", item)
        if part.amount >= 0:
            debit = billing.debit_of(part, discounts=list(part.discounts), invoice_item=item["id"])
            charged.setdefault(part.item["id"], []).append(debit)
    _remember(world, change, charged)


def _remember(world: World, change: Change, charged: dict[str, list[Json]]) -> None:
    billing.remember(world, {item_id: charged.get(item_id, []) for item_id in change.changed})


def _previous(subscription: Json) -> Json:
    return {key: copied(subscription[key]) for key in ("items", "billing_cycle_anchor", "latest_invoice")}


def _lay_over(subscription: Json, after: Json) -> None:
    subscription["items"]["data"] = copied(after["items"]["data"])
    subscription["billing_cycle_anchor"] = after["billing_cycle_anchor"]


def _apply(world: World, subscription: Json, after: Json) -> None:
    previous = _previous(subscription)
    _lay_over(subscription, after)
    world.events.record("customer.subscription.updated", subscription, previous)


def pending_of(world: World, subscription: Json) -> Json | None:
    """The stored pending change."""
    found: Json | None = world.store.note(subscription["id"]).get("pending")
    return found


def on_paid(world: World, subscription: Json, invoice_id: str) -> None:
    """Apply the pending change of a paid invoice."""
    pending = pending_of(world, subscription)
    if pending is None or pending["invoice"] != invoice_id:
        return
    del world.store.note(subscription["id"])["pending"]
    was_shown = subscription["pending_update"]
    previous = _previous(subscription) | ({"pending_update": was_shown} if was_shown else {})
    _lay_over(subscription, pending["after"])
    billing.remember(world, pending["debits"])
    subscription["pending_update"] = None
    if pending["metadata"] is not None:
        previous["metadata"] = subscription["metadata"]
        subscription["metadata"] = pending["metadata"]
    if pending["discounts"] is not None:
        subscription["discounts"] = discounts_from(world, subscription, pending["discounts"])
    if was_shown:
        world.events.record("customer.subscription.pending_update_applied", subscription, previous)
    world.events.record("customer.subscription.updated", subscription, previous)


def waits_for(world: World, subscription: Json, invoice_id: str) -> bool:
    """Whether the invoice belongs to a pending change only."""
    pending = pending_of(world, subscription)
    return pending is not None and pending["invoice"] == invoice_id


def on_voided(world: World, subscription: Json, invoice_id: str) -> None:
    """Discard the pending change of a voided invoice."""
    if not waits_for(world, subscription, invoice_id):
        return
    del world.store.note(subscription["id"])["pending"]
    previous = {"pending_update": subscription["pending_update"]}
    subscription["pending_update"] = None
    world.events.record("customer.subscription.pending_update_expired", subscription, previous)
    world.events.record("customer.subscription.updated", subscription, previous)


def drop_pending(world: World, subscription: Json) -> None:
    """Void the invoice of the pending change, which discards the change."""
    pending = pending_of(world, subscription)
    if pending is not None:
        invoices.void(world, world.store.get("invoice", pending["invoice"]))


def pending_expires_at(world: World, subscription: Json) -> int | None:
    """When the pending change expires; None while its payment is processing."""
    pending = pending_of(world, subscription)
    if pending is None:
        return None
    found = invoices.default_payment(world, world.store.get("invoice", pending["invoice"]))
    under_way = found is not None and found[1]["status"] not in payments.CONFIRMABLE
    return None if under_way else int(pending["expires_at"])


def discounts_from(world: World, subscription: Json, wanted: list[Json]) -> list[str]:
    """The discounts of an update: existing ones by id, and new ones from coupons."""
    kept = [each["discount"] for each in wanted if each.get("discount")]
    coupons = [
        world.store.get("coupon", each["coupon"], f"discounts[{position}][coupon]")
        for position, each in enumerate(wanted)
        if each.get("coupon")
    ]
    return [*kept, *billing.start_discounts(world, subscription, coupons)]


def end_items(world: World, subscription: Json, *, prorate: bool, invoice_now: bool) -> None:
    """The final invoice of a cancelled subscription: credit for unused time, and pending items."""
    parts = given_back(world, subscription, {}) if prorate else []
    ended = {item["id"] for item in subscription["items"]["data"]}
    change = Change(subscription, parts, ended if prorate else set(), at_once=invoice_now)
    waiting = billing.waiting_items(world, subscription, others=False)
    if not invoice_now or not (parts or waiting):
        _postpone(world, subscription, change)
        return
    composed = billing.compose(world, subscription, "subscription_update", parts, waiting)
    _remember(world, change, {})
    billing.issue(world, subscription, composed)
    method = invoices.saved_method(world, composed.invoice)
    if composed.invoice["status"] == "open" and method is not None:
        billing.try_to_pay(world, composed.invoice, method, off_session=True)
