"""Constructors of Stripe's objects at the pinned version, every key present as Stripe shows it.

Pure functions that return a new dict; nothing here stores, decides or sends. Keys that Stripe shows only when
expanded (an invoice's `payments` and `confirmation_secret`) are in expansion.py.
"""

from __future__ import annotations

from paidup_demo.sandbox.objects.account import account, event, webhook_endpoint
from paidup_demo.sandbox.objects.base import list_of, nulls
from paidup_demo.sandbox.objects.billing import (
    credit_note,
    credit_note_line,
    invoice,
    invoice_item,
    invoice_item_owner,
    invoice_item_parent,
    invoice_payment,
    line_item,
    price_details,
    prorated_price_details,
    proration_parent,
    subscription,
    subscription_item,
    subscription_item_parent,
    subscription_parent,
)
from paidup_demo.sandbox.objects.catalogue import coupon, customer, discount, plan_of, price, product
from paidup_demo.sandbox.objects.money import (
    balance_transaction,
    card,
    charge,
    dispute,
    options_of,
    payment_intent,
    payment_method,
    pending,
    refund,
    refused,
    setup_intent,
)

__all__ = [
    "account",
    "balance_transaction",
    "card",
    "charge",
    "coupon",
    "credit_note",
    "credit_note_line",
    "customer",
    "discount",
    "dispute",
    "event",
    "invoice",
    "invoice_item",
    "invoice_item_owner",
    "invoice_item_parent",
    "invoice_payment",
    "line_item",
    "list_of",
    "nulls",
    "options_of",
    "payment_intent",
    "payment_method",
    "pending",
    "plan_of",
    "price",
    "price_details",
    "product",
    "prorated_price_details",
    "proration_parent",
    "refund",
    "refused",
    "setup_intent",
    "subscription",
    "subscription_item",
    "subscription_item_parent",
    "subscription_parent",
    "webhook_endpoint",
]
