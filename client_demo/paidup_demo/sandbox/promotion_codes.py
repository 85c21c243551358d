"""The calls about promotion codes: https://docs.stripe.com/api/promotion_codes"""

from __future__ import annotations

import re

from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.api_catalogue import retriever, updated
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import BOOLEAN, INTEGER, METADATA, TEXT, Shape, choice, require
from paidup_demo.sandbox.objects.base import base
from paidup_demo.sandbox.pages import PAGING_BY_DATE, page
from paidup_demo.sandbox.state import new_id

CODE: Shape = {
    "active": BOOLEAN,
    "code": TEXT,
    "customer": TEXT,
    "max_redemptions": INTEGER,
    "metadata": METADATA,
    "promotion": {"coupon": TEXT, "type": choice("coupon")},
}


def create_promotion_code(call: Call) -> Json:
    """POST /v1/promotion_codes: a code for a coupon"""
    world, params = call.world, call.params
    require(params, "promotion")
    coupon = world.store.get("coupon", params["promotion"].get("coupon"), "promotion[coupon]")
    code = params.get("code") or new_id("", 8)[1:].upper()
    if not re.fullmatch("[A-Za-z0-9-]+", code):
        raise InvalidRequestError("Promotion codes have letters, digits and dashes only.", param="code")
    if any(
        row["active"] and row["code"].lower() == code.lower() for row in world.store.newest("promotion_code")
    ):
        raise InvalidRequestError(
            f"An active promotion code with `code: {code}` already exists.", param="code"
        )
    if params.get("customer"):
        world.store.get("customer", params["customer"], "customer")
    made = base("promotion_code", "promo", world.now()) | {
        "active": params.get("active", True),
        "code": code,
        "customer": params.get("customer"),
        "customer_account": None,
        "expires_at": None,
        "max_redemptions": params.get("max_redemptions"),
        "metadata": params.get("metadata", {}),
        "promotion": {"coupon": coupon["id"], "type": "coupon"},
        "restrictions": {
            "first_time_transaction": False,
            "minimum_amount": None,
            "minimum_amount_currency": None,
        },
        "times_redeemed": 0,
    }
    world.store.add(made)
    world.events.record("promotion_code.created", made)
    return present(made)


def update_promotion_code(call: Call) -> Json:
    """POST /v1/promotion_codes/{id}"""
    return updated(call.world, call.named("promotion_code"), call.params, "promotion_code.updated")


def list_promotion_codes(call: Call) -> Json:
    """GET /v1/promotion_codes"""
    params = call.params

    def keep(row: Json) -> bool:
        return all(row[name] == params[name] for name in ("active", "code", "customer") if name in params)

    return page(call.url, call.world.store.newest("promotion_code"), params, keep)


OPERATIONS = [
    Operation("POST", "/v1/promotion_codes", create_promotion_code, CODE),
    retriever("promotion_code"),
    Operation(
        "POST", "/v1/promotion_codes/{id}", update_promotion_code, {"active": BOOLEAN, "metadata": METADATA}
    ),
    Operation(
        "GET",
        "/v1/promotion_codes",
        list_promotion_codes,
        {**PAGING_BY_DATE, "active": BOOLEAN, "code": TEXT, "customer": TEXT},
    ),
]
