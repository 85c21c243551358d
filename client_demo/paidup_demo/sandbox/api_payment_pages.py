"""What Stripe.js calls for a Checkout Session that the shop's own page shows (`ui_mode: elements`).

Stripe does not document these calls; their names here are those that its script uses.
"""

from __future__ import annotations

import hmac

from paidup_demo.sandbox import checkout_payment, checkout_sessions, payment_methods
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.api_catalogue import METHOD
from paidup_demo.sandbox.checkout_discounts import redeem
from paidup_demo.sandbox.checkout_return import redirect_of
from paidup_demo.sandbox.errors import InvalidRequestError, Json
from paidup_demo.sandbox.forms import TEXT, require

PATH = "/v1/payment_pages/{id}"
SECRET = {"client_secret": TEXT}


def _session(call: Call) -> Json:
    """The session in the path; its client secret is the permission."""
    require(call.params, "client_secret")
    session = checkout_sessions.named(call.world, call.id)
    given, known = call.params["client_secret"], session["client_secret"] or ""
    if not hmac.compare_digest(given.encode(), known.encode()):
        raise InvalidRequestError("The client_secret provided does not match.", param="client_secret")
    return session


def retrieve_page(call: Call) -> Json:
    """GET /v1/payment_pages/{session}"""
    return _shown(call, _session(call))


def update_page(call: Call) -> Json:
    """POST /v1/payment_pages/{session}: a promotion code"""
    session = _session(call)
    redeem(call.world, session, call.params.get("promotion_code") or "")
    return _shown(call, session)


def confirm_page(call: Call) -> Json:
    """POST /v1/payment_pages/{session}/confirm: pays with what was typed"""
    session, world, params = _session(call), call.world, call.params
    if params.get("return_url"):
        session["return_url"] = params["return_url"]
    email = params.get("email")
    data = params.get("payment_method_data")
    if data and email:
        data = data | {"billing_details": {"email": email} | data.get("billing_details", {})}
    method = payment_methods.method_from(world.store, world.now(), data) if data else None
    checkout_payment.pay(world, session, {"email": email}, method, call.origin)
    return _shown(call, session)


def _shown(call: Call, session: Json) -> Json:
    intent = checkout_sessions.intent_of(call.world, session)
    action = (intent and intent["next_action"]) or {}
    shown = ("id", "amount_subtotal", "amount_total", "currency", "mode", "payment_method_types")
    return {name: session[name] for name in (*shown, "payment_status", "status", "total_details")} | {
        "object": "checkout.session",
        "email": (session["customer_details"] or {}).get("email"),
        "line_items": checkout_sessions.lines_of(call.world, session),
        "payment_intent_client_secret": intent["client_secret"] if intent and action else None,
        "redirect_to_url": action.get("redirect_to_url", {}).get("url"),
        "return_to": redirect_of(call.world, session),
        "return_url": session["return_url"],
    }


OPERATIONS = [
    Operation("GET", PATH, retrieve_page, SECRET, publishable=True),
    Operation("POST", PATH, update_page, {**SECRET, "promotion_code": TEXT}, publishable=True),
    Operation(
        "POST",
        f"{PATH}/confirm",
        confirm_page,
        {**SECRET, "email": TEXT, "payment_method_data": METHOD, "return_url": TEXT},
        publishable=True,
    ),
]
