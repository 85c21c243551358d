"""The call by which Stripe.js learns which payment methods to show. Stripe does not document it."""

from __future__ import annotations

from paidup_demo.sandbox import bank_methods, payments
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.forms import INTEGER, TEXT, Shape, choice, require
from paidup_demo.sandbox.state import new_id

SESSION: Shape = {
    "client_secret": TEXT,
    "deferred_intent": {
        "amount": INTEGER,
        "currency": TEXT,
        "mode": choice("payment", "setup", "subscription"),
        "payment_method_types": [choice(*bank_methods.METHOD_TYPES)],
        "setup_future_usage": choice("off_session", "on_session"),
    },
}


def elements_session(call: Call) -> Json:
    """GET /v1/elements/sessions: for an intent by its client secret, or before there is one"""
    world, deferred = call.world, call.params.get("deferred_intent")
    if deferred:
        require(deferred, "currency", "mode")
        enabled = deferred.get("payment_method_types") or list(world.conditions.payment_methods)
        recurring = deferred["mode"] == "subscription"
        kinds = bank_methods.usable_types(enabled, deferred["currency"], recurring)
    else:
        require(call.params, "client_secret")
        kinds = payments.of_secret(world, call.params["client_secret"])["payment_method_types"]
    preference = {"object": "payment_method_preference", "ordered_payment_method_types": kinds}
    return {
        "id": new_id("elements_session", 11),
        "object": "elements_session",
        "payment_method_preference": preference,
    }


OPERATIONS = [Operation("GET", "/v1/elements/sessions", elements_session, SESSION, publishable=True)]
