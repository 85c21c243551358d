"""Customers, products, prices and coupons."""

from __future__ import annotations

from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.objects.base import base, nulls
from paidup_demo.sandbox.state import new_id


def customer(created: int, params: Json) -> Json:
    """A customer."""
    made = base("customer", "cus", created) | nulls(
        "address currency customer_account default_source description discount email name phone shipping"
        " test_clock"
    )
    return made | {
        "balance": params.get("balance") or 0,
        "delinquent": False,
        "invoice_prefix": new_id("x", 8)[2:].upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "metadata": {},
        "next_invoice_sequence": 1,
        "preferred_locales": [],
        "tax_exempt": "none",
    }


def product(created: int, name: str) -> Json:
    """A product."""
    return base("product", "prod", created) | {
        **nulls(
            "default_price description package_dimensions shippable statement_descriptor tax_code"
            " unit_label url"
        ),
        "active": True,
        "images": [],
        "marketing_features": [],
        "metadata": {},
        "name": name,
        "type": "service",
        "updated": created,
    }


def price(created: int, *, product: str, currency: str, unit_amount: int, recurring: Json | None) -> Json:
    """A price per unit; `recurring` {"interval", "interval_count"} or None for one-time."""
    rhythm = None
    if recurring is not None:
        rhythm = {
            "interval": recurring["interval"],
            "interval_count": recurring.get("interval_count") or 1,
            "meter": recurring.get("meter"),
            "trial_period_days": None,
            "usage_type": recurring.get("usage_type") or "licensed",
        }
    return base("price", "price", created) | {
        **nulls("custom_unit_amount lookup_key nickname tiers_mode transform_quantity"),
        "active": True,
        "billing_scheme": "per_unit",
        "currency": currency,
        "metadata": {},
        "product": product,
        "recurring": rhythm,
        "tax_behavior": "unspecified",
        "type": "recurring" if rhythm else "one_time",
        "unit_amount": unit_amount,
        "unit_amount_decimal": str(unit_amount),
    }


def plan_of(price: Json) -> Json:
    """The legacy `plan` object of a recurring price."""
    rhythm = price["recurring"]
    return {
        **nulls("meter tiers_mode transform_usage trial_period_days"),
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": "per_unit",
        "created": price["created"],
        "currency": price["currency"],
        "interval": rhythm["interval"],
        "interval_count": rhythm["interval_count"],
        "livemode": False,
        "metadata": price["metadata"],
        "nickname": price["nickname"],
        "product": price["product"],
        "usage_type": "licensed",
    }


def coupon(created: int, params: Json) -> Json:
    """A coupon of a percentage or an amount."""
    return base("coupon", "co", created) | {
        "id": params.get("id") or new_id("", 8)[1:],
        "amount_off": params.get("amount_off"),
        "currency": params.get("currency"),
        "duration": params.get("duration") or "once",
        "duration_in_months": params.get("duration_in_months"),
        "max_redemptions": None,
        "metadata": params.get("metadata", {}),
        "name": params.get("name"),
        "percent_off": params.get("percent_off"),
        "redeem_by": None,
        "times_redeemed": 0,
        "valid": True,
    }


def discount(created: int, coupon_id: str, customer: str, subscription: str | None) -> Json:
    """A coupon applied to a subscription, or to one invoice."""
    return {
        **nulls(
            "checkout_session customer_account end invoice invoice_item promotion_code subscription_item"
        ),
        "id": new_id("di"),
        "object": "discount",
        "customer": customer,
        "source": {"coupon": coupon_id, "type": "coupon"},
        "start": created,
        "subscription": subscription,
    }
