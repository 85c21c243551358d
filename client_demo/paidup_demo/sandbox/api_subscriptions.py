"""The calls about subscriptions.

Validates the parameters and calls subscriptions.py and pausing.py.
"""

from __future__ import annotations

from paidup_demo.sandbox import pausing, subscriptions
from paidup_demo.sandbox.api import Call, Operation
from paidup_demo.sandbox.api_catalogue import retriever
from paidup_demo.sandbox.bank_methods import METHOD_TYPES
from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.expansion import present
from paidup_demo.sandbox.forms import BOOLEAN, INTEGER, METADATA, TEXT, Shape, choice, require
from paidup_demo.sandbox.pages import PAGING_BY_DATE, page

PAYMENT_SETTINGS: Shape = {
    "payment_method_types": [choice(*METHOD_TYPES)],
    "save_default_payment_method": choice("off", "on_subscription"),
}
SUBSCRIPTION: Shape = {
    "currency": TEXT,
    "customer": TEXT,
    "items": [{"price": TEXT, "quantity": INTEGER, "metadata": METADATA}],
    "payment_behavior": choice("default_incomplete", "allow_incomplete", "error_if_incomplete"),
    "payment_settings": PAYMENT_SETTINGS,
    "metadata": METADATA,
    "description": TEXT,
    "default_payment_method": TEXT,
    "off_session": BOOLEAN,
    "trial_period_days": INTEGER,
    "trial_end": TEXT,
    "default_tax_rates": [TEXT],
    "discounts": [{"coupon": TEXT}],
    "cancel_at": INTEGER,
    "cancel_at_period_end": BOOLEAN,
    "collection_method": choice("charge_automatically", "send_invoice"),
    "days_until_due": INTEGER,
    "billing_mode": {
        "type": choice("flexible"),
        "flexible": {"proration_discounts": choice("included", "itemized")},
    },
}
ITEM_UPDATE: Shape = {
    "id": TEXT,
    "price": TEXT,
    "quantity": INTEGER,
    "deleted": BOOLEAN,
    "metadata": METADATA,
}
CHANGE: Shape = {
    "billing_cycle_anchor": {"type": choice("now", "unchanged")},
    "items": [ITEM_UPDATE],
    "proration_behavior": choice("always_invoice", "create_prorations", "none"),
    "proration_date": INTEGER,
    "trial_end": choice("now"),
}
SUBSCRIPTION_UPDATE: Shape = {
    **CHANGE,
    "cancel_at": INTEGER,
    "cancel_at_period_end": BOOLEAN,
    "default_payment_method": TEXT,
    "description": TEXT,
    "discounts": [{"coupon": TEXT, "discount": TEXT}],
    "metadata": METADATA,
    "off_session": BOOLEAN,
    "pause_collection": {"behavior": choice("mark_uncollectible", "void")},
    "payment_behavior": choice(
        "allow_incomplete", "default_incomplete", "error_if_incomplete", "pending_if_incomplete"
    ),
    "payment_settings": PAYMENT_SETTINGS,
}
CANCELLATION: Shape = {"invoice_now": BOOLEAN, "prorate": BOOLEAN}
ENDED = ("canceled", "incomplete_expired")


def create_subscription(call: Call) -> Json:
    """POST /v1/subscriptions"""
    require(call.params, "customer", "items")
    return present(subscriptions.create(call.world, call.params))


def update_subscription(call: Call) -> Json:
    """POST /v1/subscriptions/{id}"""
    stored = call.named("subscription")
    subscriptions.update(call.world, stored, call.params)
    return present(stored)


def cancel_subscription(call: Call) -> Json:
    """DELETE /v1/subscriptions/{id}"""
    stored, params = call.named("subscription"), call.params
    prorate, invoice_now = bool(params.get("prorate")), bool(params.get("invoice_now"))
    subscriptions.cancel(call.world, stored, prorate=prorate, invoice_now=invoice_now)
    return present(stored)


def pause_subscription(call: Call) -> Json:
    """POST /v1/subscriptions/{id}/pause"""
    stored = call.named("subscription")
    pausing.pause(call.world, stored)
    return present(stored)


def resume_subscription(call: Call) -> Json:
    """POST /v1/subscriptions/{id}/resume"""
    stored = call.named("subscription")
    subscriptions.resume(call.world, stored)
    return present(stored)


def list_subscriptions(call: Call) -> Json:
    """GET /v1/subscriptions: without `status`, cancelled ones are left out"""
    params = call.params
    status, price, customer = params.get("status"), params.get("price"), params.get("customer")

    if customer is not None:
        call.world.store.get("customer", customer, "customer")

    def keep(row: Json) -> bool:
        alive = row["status"] not in ENDED
        listed = row["status"] != "canceled"
        wanted = {None: listed, "all": True, "ended": not alive}.get(status, row["status"] == status)
        has_price = price is None or any(item["price"]["id"] == price for item in row["items"]["data"])
        return bool(wanted and has_price and (customer is None or row["customer"] == customer))

    return page(call.url, call.world.store.newest("subscription"), params, keep)


OPERATIONS = [
    Operation("POST", "/v1/subscriptions", create_subscription, SUBSCRIPTION),
    retriever("subscription"),
    Operation("POST", "/v1/subscriptions/{id}", update_subscription, SUBSCRIPTION_UPDATE),
    Operation("DELETE", "/v1/subscriptions/{id}", cancel_subscription, CANCELLATION),
    Operation("POST", "/v1/subscriptions/{id}/pause", pause_subscription),
    Operation(
        "POST",
        "/v1/subscriptions/{id}/resume",
        resume_subscription,
        {"billing_cycle_anchor": choice("now"), "payment_behavior": choice("resume_on_payment_success")},
    ),
    Operation(
        "GET",
        "/v1/subscriptions",
        list_subscriptions,
        {**PAGING_BY_DATE, "customer": TEXT, "price": TEXT, "status": TEXT},
    ),
]
