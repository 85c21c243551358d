"""Checkout Sessions, their line items, and Payment Links."""

from __future__ import annotations

import secrets
import string

from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.objects.base import SELF, base, nulls
from paidup_demo.sandbox.state import copied, new_id

_ALPHABET = string.ascii_letters + string.digits
NO_INVOICE_DATA: Json = nulls("account_tax_ids custom_fields description footer issuer rendering_options") | {
    "metadata": {}
}
SAVED_METHODS: Json = {
    "allow_redisplay_filters": ["always"],
    "payment_method_remove": None,
    "payment_method_save": None,
}


def checkout_session(created: int, mode: str, ui_mode: str) -> Json:
    """An open session without line items; keys that belong to another mode are null, as at Stripe."""
    empty = nulls(
        "after_expiration allow_promotion_codes amount_subtotal amount_total billing_address_collection"
        " cancel_url client_reference_id client_secret collected_information consent consent_collection"
        " currency currency_conversion customer customer_account customer_creation customer_details"
        " customer_email integration_identifier invoice invoice_creation locale origin_context payment_intent"
        " payment_link payment_method_configuration_details permissions recovered_from"
        " saved_payment_method_options setup_intent shipping_address_collection shipping_cost submit_type"
        " subscription success_url url wallet_options"
    )
    made = base("checkout.session", "cs_test", created) | empty
    return made | {
        # https://docs.stripe.com/api/checkout/sessions/object: as long as the example there
        "id": "cs_test_a1" + "".join(secrets.choice(_ALPHABET) for _ in range(56)),
        "adaptive_pricing": {"enabled": False},
        "automatic_tax": nulls("liability provider status") | {"enabled": False},
        "branding_settings": nulls("icon logo")
        | {
            "background_color": "#ffffff",
            "border_style": "rounded",
            "button_color": "#0074d4",
            "display_name": "Paidup sandbox",
            "font_family": "default",
        },
        "custom_fields": [],
        "custom_text": nulls("after_submit shipping_address submit terms_of_service_acceptance"),
        "discounts": [],
        "managed_payments": {"enabled": False},
        "metadata": {},
        "mode": mode,
        "payment_method_collection": "always" if mode == "subscription" else "if_required",
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "payment_status": "unpaid",
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "status": "open",
        "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
        "ui_mode": ui_mode,
    }


def checkout_line(price: Json, name: str, quantity: int, subtotal: int) -> Json:
    """A line item of a session or a Payment Link without discounts; `price` is in the session's currency."""
    return {
        "id": new_id("li"),
        "object": "item",
        "adjustable_quantity": None,
        "amount_discount": 0,
        "amount_subtotal": subtotal,
        "amount_tax": 0,
        "amount_total": subtotal,
        "currency": price["currency"],
        "description": name,
        "metadata": {},
        "price": copied(price),
        "quantity": quantity,
    }


def customer_details(email: str | None, name: str | None, address: Json | None) -> Json:
    """What the customer typed, or what is known of them before."""
    return {
        "address": address,
        "business_name": None,
        "email": email,
        "individual_name": None,
        "name": name,
        "phone": None,
        "tax_exempt": "none",
        "tax_ids": [] if address else None,
    }


def invoice_creation(wanted: Json) -> Json:
    """The `invoice_creation` of a session in payment mode."""
    data = wanted.get("invoice_data", {})
    return {"enabled": bool(wanted.get("enabled")), "invoice_data": NO_INVOICE_DATA | data}


def automatic_tax() -> Json:
    """Automatic tax before the customer has given an address."""
    return {"enabled": True, "liability": SELF, "provider": "stripe", "status": "requires_location_inputs"}


def payment_link(url: str, currency: str, params: Json) -> Json:
    """A Payment Link; `params` are those of its creation."""
    made = base("payment_link", "plink", 0) | nulls(
        "application application_fee_amount application_fee_percent consent_collection inactive_message"
        " managed_payments on_behalf_of optional_items payment_intent_data payment_method_types restrictions"
        " shipping_address_collection subscription_data transfer_data"
    )
    del made["created"]  # it has none
    return made | {
        "active": True,
        "after_completion": _after_completion(params.get("after_completion") or {}),
        "allow_promotion_codes": bool(params.get("allow_promotion_codes")),
        "automatic_tax": {"enabled": False, "liability": None},
        "billing_address_collection": params.get("billing_address_collection") or "auto",
        "currency": currency,
        "custom_fields": [],
        "custom_text": nulls("after_submit shipping_address submit terms_of_service_acceptance"),
        "customer_creation": params.get("customer_creation") or "if_required",
        "invoice_creation": invoice_creation(params.get("invoice_creation") or {}),
        "metadata": params.get("metadata", {}),
        "payment_method_collection": "always",
        "phone_number_collection": {"enabled": False},
        "shipping_options": [],
        "submit_type": params.get("submit_type") or "auto",
        "tax_id_collection": {"enabled": False, "required": "never"},
        "url": url,
    }


def _after_completion(wanted: Json) -> Json:
    if wanted.get("type") == "redirect":
        return {"redirect": {"url": wanted["redirect"]["url"]}, "type": "redirect"}
    message = wanted.get("hosted_confirmation", {}).get("custom_message")
    return {"hosted_confirmation": {"custom_message": message}, "type": "hosted_confirmation"}


def link_payment_data(wanted: Json) -> Json:
    """A Payment Link's `payment_intent_data`."""
    empty = nulls(
        "capture_method description setup_future_usage statement_descriptor statement_descriptor_suffix"
        " transfer_group"
    )
    return empty | {"metadata": {}} | wanted


def link_subscription_data(wanted: Json) -> Json:
    """A Payment Link's `subscription_data`."""
    empty = nulls("description trial_period_days trial_settings")
    return empty | {"invoice_settings": {"issuer": SELF}, "metadata": {}} | wanted
