"""The arithmetic of prorations: what of an item's price is charged or given back for a part of its period.

Pure: values in, parts out, to the second and in whole minor units. change_plan.py decides which parts are
needed, and billing.py turns them into lines. As in Stripe's flexible billing mode, a credit is a share of the
original charge, not of the current price.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction

from paidup_demo.sandbox.clock import add_interval, day_of_month
from paidup_demo.sandbox.errors import Json


@dataclass(frozen=True)
class Part:
    """A line to be. `amount` is before `discounts` (id and amount, which is below zero where given back)."""

    item: Json
    amount: int
    description: str
    period: tuple[int, int]
    proration: bool = False
    discounts: tuple[tuple[str, int], ...] = ()
    credited: Json | None = None


def share(amount: int, seconds: int, of: int) -> int:
    """A part of an amount, rounded half away from zero."""
    exact = Fraction(abs(amount) * seconds, of)
    return int(exact + Fraction(1, 2)) * (1 if amount >= 0 else -1)


def percentage(amount: int, percent: float) -> int:
    """So many per cent of an amount, rounded half away from zero."""
    return share(amount, round(percent * 10_000), 1_000_000)


def price_of(item: Json) -> int:
    """Minor units for one whole period."""
    return int(item["price"]["unit_amount"]) * int(item["quantity"])


def rhythm(price: Json) -> tuple[str, int]:
    """Interval and count: what must be the same for all items of a subscription."""
    recurring = price["recurring"]
    return recurring["interval"], recurring["interval_count"]


def period_from(start: int, price: Json, anchor: int) -> tuple[int, int]:
    """The period of this price that begins then, with the anchor's day of the month."""
    return start, add_interval(start, *rhythm(price), day_of_month(anchor))


def whole(item: Json, name: str, *, on_trial: bool) -> Part:
    """The item's whole current period; a trial costs nothing."""
    price, quantity = item["price"], item["quantity"]
    unit = f"{price['unit_amount'] / 100:.2f} {price['currency'].upper()} / {price['recurring']['interval']}"
    return Part(
        item,
        amount=0 if on_trial else price_of(item),
        description=f"Trial period for {name}" if on_trial else f"{quantity} × {name} (at {unit})",
        period=(item["current_period_start"], item["current_period_end"]),
    )


def remaining(item: Json, name: str, moment: int, coupons: Iterable[tuple[str, Json, Fraction]]) -> Part:
    """The rest of the item's period from this moment, charged. `coupons`: discount id, coupon, its share."""
    start, end = item["current_period_start"], item["current_period_end"]
    amount = share(price_of(item), end - moment, end - start)
    left, discounts = amount, []
    for discount, coupon, portion in coupons:
        off = _off(left, coupon, portion * Fraction(end - moment, end - start))
        discounts.append((discount, off))
        left -= off
    text = f"Remaining time on {_counted(item, name)} after {_day(moment)}"
    return Part(item, amount, text, (moment, end), proration=True, discounts=tuple(discounts))


def spread(amount: int, over: list[int]) -> list[int]:
    """The amount in parts, in proportion to these amounts; the last part has what rounding leaves."""
    parts = [amount * each // (sum(over) or 1) for each in over[:-1]]
    return [*parts, amount - sum(parts)] if over else []


def taken_off(amount: int, coupon: Json) -> int:
    """What a coupon takes off this amount."""
    return _off(amount, coupon, Fraction(1))


def _off(left: int, coupon: Json, portion: Fraction) -> int:
    if coupon["percent_off"] is not None:
        return percentage(left, coupon["percent_off"])
    return min(left, share(coupon["amount_off"], portion.numerator, portion.denominator))


def unused(item: Json, name: str, moment: int, debits: list[Json]) -> list[Part]:
    """What was charged for the time from this moment, given back: one part for each debit of that time."""
    parts = []
    for debit in debits:
        start, end = debit["start"], debit["end"]
        left = end - max(moment, start)
        amount = share(debit["amount"], left, end - start) if left > 0 else 0
        if amount == 0:
            continue
        text = f"Unused time on {_counted(item | {'quantity': debit['quantity']}, name)} after {_day(moment)}"
        back = tuple((discount, -share(off, left, end - start)) for discount, off in debit["discounts"])
        credited = {key: debit.get(key) for key in ("invoice", "line", "invoice_item")}
        parts.append(Part(item, -amount, text, (max(moment, start), end), True, back, credited))
    return parts


def _counted(item: Json, name: str) -> str:
    return name if item["quantity"] == 1 else f"{item['quantity']} × {name}"


def _day(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%d %b %Y")
