"""Adjustable quantities: the customer changes on the page of a Checkout Session how many they buy.

https://docs.stripe.com/payments/checkout/adjustable-quantity, and `AdjustableQuantity` of the SDK's LineItem.
Stripe's words for the refusals are not known; these are the sandbox's own. Not imitated: that the shop's own
page changes them (`updateLineItemQuantity` of Stripe.js).
"""

from __future__ import annotations

from paidup_demo.sandbox.checkout_discounts import apply_discounts
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.forms import BOOLEAN, INTEGER, Shape
from paidup_demo.sandbox.world import World

ADJUSTABLE: Shape = {"enabled": BOOLEAN, "maximum": INTEGER, "minimum": INTEGER}
USUAL_MAXIMUM, LARGEST = 99, 999_999


def adjustable(item: Json, param: str) -> Json | None:
    """What the line shows of it; None where the customer cannot change the quantity."""
    wanted = item.get("adjustable_quantity") or {}
    if not wanted.get("enabled"):
        return None
    shown = {"enabled": True, "maximum": USUAL_MAXIMUM, "minimum": 0} | wanted
    if not 0 <= shown["minimum"] <= item["quantity"] <= shown["maximum"] <= LARGEST:
        raise InvalidRequestError(
            f"The quantity {item['quantity']} has to be from {shown['minimum']} to {shown['maximum']},"
            f" and that at most {LARGEST}.",
            param=f"{param}[adjustable_quantity]",
        )
    return shown


def limits(line: Json, lines: list[Json]) -> tuple[int, int] | None:
    """The fewest and the most that the customer may choose. The only item cannot be removed."""
    shown = line["adjustable_quantity"]
    return shown and (max(shown["minimum"], 1 if len(lines) == 1 else 0), shown["maximum"])


def choose(world: World, session: Json, line_id: str | None, quantity: int) -> None:
    """Set the quantity of a line (of the first adjustable one where none is named); 0 removes it."""
    note = world.store.note(session["id"])
    lines = note["lines"]
    adjustable_ones = (
        each for each in lines if each["adjustable_quantity"] and line_id in (None, each["id"])
    )
    line = next(adjustable_ones, None)
    allowed = line and limits(line, lines)
    if session["status"] != "open" or line is None or not allowed:
        raise InvalidRequestError("The quantity cannot be changed here.", param="quantity")
    if not allowed[0] <= quantity <= allowed[1]:
        raise InvalidRequestError(
            f"Please choose a quantity from {allowed[0]} to {allowed[1]}.", param="quantity"
        )
    line["amount_subtotal"] = line["amount_subtotal"] // line["quantity"] * quantity
    line["quantity"] = quantity
    note["lines"] = [each for each in lines if each["quantity"]]
    apply_discounts(world, session, session["discounts"])
    world.store.touch()
