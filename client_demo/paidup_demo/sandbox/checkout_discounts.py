"""Discounts of Checkout Sessions: a coupon given at creation, or a promotion code that the customer types."""

from __future__ import annotations

from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.prorations import spread, taken_off
from paidup_demo.sandbox.world import World


def apply_discounts(world: World, session: Json, wanted: list[Json]) -> None:
    """Set the session's discount (at most one), and its totals."""
    if len(wanted) > 1:
        raise InvalidRequestError("You can only apply one discount.", param="discounts")
    session["discounts"] = [_shown(world, one) for one in wanted]
    coupons = coupons_of(world, session)
    for coupon in coupons:
        if coupon["amount_off"] and coupon["currency"] != session["currency"]:
            raise InvalidRequestError("This coupon is of another currency.", param="discounts[0][coupon]")
    lines = world.store.note(session["id"])["lines"]
    subtotals = [line["amount_subtotal"] for line in lines]
    total = sum(subtotals)
    off = sum(taken_off(total, coupon) for coupon in coupons)
    for line, part in zip(lines, spread(off, subtotals), strict=True):
        line.update(amount_discount=part, amount_total=line["amount_subtotal"] - part)
    session.update(amount_subtotal=total, amount_total=total - off)
    session["total_details"]["amount_discount"] = off


def _shown(world: World, wanted: Json) -> Json:
    if wanted.get("promotion_code"):
        code = world.store.get("promotion_code", wanted["promotion_code"], "discounts[0][promotion_code]")
        return {"coupon": None, "promotion_code": code["id"]}
    coupon = world.store.get("coupon", wanted.get("coupon"), "discounts[0][coupon]")
    return {"coupon": coupon["id"], "promotion_code": None}


def coupons_of(world: World, session: Json) -> list[Json]:
    """The coupons of the session's discounts."""
    found = []
    for shown in session["discounts"]:
        code = shown["promotion_code"] and world.store.get("promotion_code", shown["promotion_code"])
        found.append(world.store.get("coupon", code["promotion"]["coupon"] if code else shown["coupon"]))
    return found


def redeem(world: World, session: Json, code: str) -> None:
    """The customer types a code: https://docs.stripe.com/payments/checkout/discounts"""
    if not session["allow_promotion_codes"] or session["status"] != "open":
        raise InvalidRequestError("Promotion codes cannot be used here.")
    found = next((row for row in world.store.newest("promotion_code") if _is(row, code, session)), None)
    if found is None:
        raise InvalidRequestError("This code is invalid.", param="promotion_code")
    apply_discounts(world, session, [{"promotion_code": found["id"]}])
    world.store.touch()


def _is(row: Json, code: str, session: Json) -> bool:
    fits = row["customer"] in (None, session["customer"])
    return bool(row["active"] and fits and row["code"].lower() == code.strip().lower())


def count_redemption(world: World, session: Json) -> None:
    """The session is complete: its code has been used once more, and ends with its last use."""
    for shown in session["discounts"]:
        if shown["promotion_code"]:
            code = world.store.get("promotion_code", shown["promotion_code"])
            code["times_redeemed"] += 1
            if code["max_redemptions"] is not None and code["times_redeemed"] >= code["max_redemptions"]:
                code["active"] = False
