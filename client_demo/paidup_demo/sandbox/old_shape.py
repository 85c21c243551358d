"""Objects as they looked in older versions, for webhook endpoints pinned to one of these.

Before 2026-03-25 (dahlia) a Checkout Session's `ui_mode` had other words. Before 2025-03-31 (basil) an
invoice had its PaymentIntent and subscription, a line its price and plan, a subscription its period. Only
webhooks are converted, never API answers.
"""

from __future__ import annotations

from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.objects import plan_of
from paidup_demo.sandbox.settings import BASIL_VERSION
from paidup_demo.sandbox.state import Store, copied

DAHLIA_VERSION = "2026-03-25.dahlia"
UI_MODES = {"elements": "custom", "embedded_page": "embedded", "hosted_page": "hosted"}
"""https://docs.stripe.com/changelog/dahlia/2026-03-25/updates-available-checkout-session-ui-modes"""


def event_at(store: Store, event: Json, version: str) -> Json:
    """A copy of the event as an endpoint of this version receives it."""
    sent: Json = copied(event)
    sent["api_version"] = version
    data = sent["data"]["object"]
    if version < DAHLIA_VERSION and data["object"] == "checkout.session":
        data["ui_mode"] = UI_MODES[data["ui_mode"]]
    if version >= BASIL_VERSION:
        return sent
    converter = {
        "invoice": _invoice,
        "subscription": _subscription,
        "payment_intent": _payment_intent,
        "charge": _charge,
    }.get(data["object"])
    if converter is not None:
        sent["data"]["object"] = converter(store, data)
    return sent


def _invoice(store: Store, invoice: Json) -> Json:
    details = (invoice.pop("parent") or {}).get("subscription_details") or {}
    for gone in ("amount_overpaid", "amount_paid_off_stripe", "total_taxes"):
        del invoice[gone]
    intent = _intent_of(store, invoice["id"])
    invoice["lines"]["data"] = [_line(store, line) for line in invoice["lines"]["data"]]
    return invoice | {
        "charge": intent and intent["latest_charge"],
        "discount": None,
        "paid": invoice["status"] == "paid",
        "paid_out_of_band": False,
        "payment_intent": intent and intent["id"],
        "quote": None,
        "subscription": details.get("subscription"),
        "subscription_details": {"metadata": details.get("metadata")},
        "tax": None,
        "total_tax_amounts": [],
        "transfer_data": None,
    }


def _line(store: Store, line: Json) -> Json:
    parent, pricing = line.pop("parent"), line.pop("pricing")
    details = parent["subscription_item_details"] or parent["invoice_item_details"]
    for gone in ("quantity_decimal", "subtotal", "taxes"):
        del line[gone]
    price = store.find("price", pricing["price_details"]["price"]) if pricing else None
    return line | {
        "plan": plan_of(price) if price and price["recurring"] else None,
        "price": copied(price),
        "proration": details["proration"],
        "proration_details": details["proration_details"],
        "subscription": details["subscription"],
        "subscription_item": details.get("subscription_item"),
        "tax_amounts": [],
        "tax_rates": [],
        "type": "invoiceitem" if details["invoice_item"] else "subscription",
    }


def _subscription(_: Store, subscription: Json) -> Json:
    for gone in ("billing_mode", "billing_schedules", "managed_payments"):
        del subscription[gone]
    items = subscription["items"]["data"]
    periods = [(item.pop("current_period_start"), item.pop("current_period_end")) for item in items]
    return subscription | {
        "current_period_start": periods[0][0],
        "current_period_end": periods[0][1],
        "discount": None,
        "plan": items[0]["plan"] if len(items) == 1 else None,
        "quantity": items[0]["quantity"] if len(items) == 1 else None,
    }


def _payment_intent(store: Store, intent: Json) -> Json:
    return intent | {"invoice": store.note(intent["id"]).get("invoice")}


def _charge(store: Store, charge: Json) -> Json:
    return charge | {"invoice": store.note(charge["payment_intent"] or "").get("invoice")}


def _intent_of(store: Store, invoice_id: str) -> Json | None:
    for payment in store.linked(invoice_id, "invoice_payment"):
        return store.find("payment_intent", payment["payment"]["payment_intent"])
    return None
