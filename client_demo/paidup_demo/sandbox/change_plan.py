"""Plans a change of a subscription: the items afterwards, and the prorations that are charged.

Planning changes nothing, so a preview is a plan that is not carried out; changes.py carries it out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from paidup_demo.sandbox import billing, currencies, objects
from paidup_demo.sandbox.errors import InvalidRequestError, Json, ParameterError
from paidup_demo.sandbox.prorations import Part, period_from, price_of, remaining, rhythm, unused
from paidup_demo.sandbox.state import copied
from paidup_demo.sandbox.world import World


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
    if price["recurring"]["usage_type"] != "licensed":
        raise InvalidRequestError(
            "This sandbox does not imitate metered prices on subscriptions.", param=param
        )
    quantity = wanted.get("quantity")
    return Seat(price, 1 if quantity is None else quantity, metadata=wanted.get("metadata", {}))


def check_prices(world: World, seats: list[Seat], currency: str) -> None:
    """Raise if a price is not sold in this currency, if intervals differ, or if one occurs twice."""
    for position, seat in enumerate(seats):
        currencies.price_in(world, seat.price, currency, f"items[{position}][price]")
    if len({rhythm(seat.price) for seat in seats}) > 1:
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
    seats = _seats(world, subscription, params.get("items", []))
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
        parts = unused_parts(world, former, moment) if prorates else []
        parts += billing.whole_periods(world, after)
        return Change(after, parts, {item["id"] for item in [*former, *items]}, at_once=True)
    parts = _prorations(world, subscription, items, changed, moment) if prorates else []
    return Change(after, parts, changed if prorates else set(), at_once=behavior == "always_invoice")


def _seats(world: World, subscription: Json, wanted: list[Json]) -> list[Seat]:
    """All future seats: the existing ones, changed or not, then the new ones."""
    former = subscription["items"]["data"]
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
    check_prices(world, seats, subscription["currency"])
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
    return unused_parts(world, items, _moment(world, items, params))


def unused_parts(world: World, items: list[Json], moment: int) -> list[Part]:
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
            parts += unused_parts(world, [former[item_id]], moment)
        if item_id in after and price_of(after[item_id]) and moment < after[item_id]["current_period_end"]:
            item = currencies.charged(world, subscription, after[item_id])
            coupons = billing.coupons_for(world, subscription, items, item, moment)
            parts.append(remaining(item, billing.name_of(world, item), moment, coupons))
    return parts
