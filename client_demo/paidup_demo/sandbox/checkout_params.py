"""The parameters of a Checkout Session, and Stripe's refusals of those that do not go together.

https://docs.stripe.com/api/checkout/sessions/create; the words of the refusals are those that Stripe's users
report.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from paidup_demo.sandbox.bank_methods import METHOD_TYPES
from paidup_demo.sandbox.checkout_quantities import ADJUSTABLE
from paidup_demo.sandbox.errors import InvalidRequestError, Json, ParameterError, parameter_missing
from paidup_demo.sandbox.forms import BOOLEAN, INTEGER, METADATA, TEXT, Shape, choice, require
from paidup_demo.sandbox.objects import nulls
from paidup_demo.sandbox.world import World

LOCALES = nulls(
    "auto bg cs da de el en en-GB es es-419 et fi fil fr fr-CA hi-IN hr hu id it ja ko lt lv ms mt nb nl pl"
    " pt pt-BR ro ru sk sl sv th tr vi zh zh-HK zh-TW"
)
AUTO = choice("auto", "never")
PAYMENT_INTENT_DATA: Shape = {
    "description": TEXT,
    "metadata": METADATA,
    "setup_future_usage": choice("off_session", "on_session"),
}
LINK_SUBSCRIPTION_DATA: Shape = {"description": TEXT, "metadata": METADATA, "trial_period_days": INTEGER}
SUBSCRIPTION_DATA: Shape = {
    **LINK_SUBSCRIPTION_DATA,
    "billing_mode": {
        "type": choice("flexible"),
        "flexible": {"proration_discounts": choice("included", "itemized")},
    },
}
INVOICE_CREATION: Shape = {
    "enabled": BOOLEAN,
    "invoice_data": {"description": TEXT, "footer": TEXT, "metadata": METADATA},
}
PRICE_DATA: Shape = {
    "currency": TEXT,
    "product": TEXT,
    "product_data": {"name": TEXT, "description": TEXT, "metadata": METADATA},
    "recurring": {"interval": choice("day", "week", "month", "year"), "interval_count": INTEGER},
    "unit_amount": INTEGER,
}
SESSION: Shape = {
    "allow_promotion_codes": BOOLEAN,
    "automatic_tax": {"enabled": BOOLEAN},
    "billing_address_collection": choice("auto", "required"),
    "cancel_url": TEXT,
    "client_reference_id": TEXT,
    "currency": TEXT,
    "customer": TEXT,
    "customer_creation": choice("always", "if_required"),
    "customer_email": TEXT,
    "customer_update": {"address": AUTO, "name": AUTO, "shipping": AUTO},
    "discounts": [{"coupon": TEXT, "promotion_code": TEXT}],
    "expires_at": INTEGER,
    "integration_identifier": TEXT,
    "invoice_creation": INVOICE_CREATION,
    "line_items": [
        {
            "adjustable_quantity": ADJUSTABLE,
            "metadata": METADATA,
            "price": TEXT,
            "price_data": PRICE_DATA,
            "quantity": INTEGER,
        }
    ],
    "locale": choice(*LOCALES),
    "metadata": METADATA,
    "mode": choice("payment", "subscription"),
    "origin_context": choice("mobile_app", "web"),
    "payment_intent_data": PAYMENT_INTENT_DATA,
    "payment_method_collection": choice("always", "if_required"),
    "payment_method_types": [choice(*METHOD_TYPES)],
    "redirect_on_completion": choice("always", "if_required", "never"),
    "return_url": TEXT,
    "saved_payment_method_options": {
        "allow_redisplay_filters": [choice("always", "limited", "unspecified")],
        "payment_method_remove": choice("disabled", "enabled"),
        "payment_method_save": choice("disabled", "enabled"),
    },
    "submit_type": choice("auto", "book", "donate", "pay", "subscribe"),
    "subscription_data": SUBSCRIPTION_DATA,
    "success_url": TEXT,
    "ui_mode": choice("elements", "embedded_page", "hosted_page"),
}
_EXCLUSIVE = (
    ("customer", "customer_creation"),
    ("customer", "customer_email"),
    ("allow_promotion_codes", "discounts"),
)
_OTHER_UI = {
    "hosted_page": ("redirect_on_completion", "return_url"),
    "embedded_page": ("cancel_url", "success_url"),
    "elements": ("cancel_url", "redirect_on_completion", "submit_type", "success_url"),
}
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
EXPIRES_FROM_S, EXPIRES_UNTIL_S = 30 * 60, 24 * 3600


def refuse_impossible(world: World, params: Json) -> None:
    """Raise Stripe's error for parameters that do not go together."""
    require(params, "mode", "line_items")
    for pair in _EXCLUSIVE:
        if all(params.get(name) for name in pair):
            raise InvalidRequestError(
                f"You may only specify one of these parameters: {', '.join(pair)}.", param=pair[0]
            )
    _refuse_by_mode(params)
    _refuse_by_ui(params)
    if params.get("customer_update") and not params.get("customer"):
        raise InvalidRequestError(
            "`customer_update` can only be used with `customer`.", param="customer_update"
        )
    if params.get("customer_email") and not _EMAIL.fullmatch(params["customer_email"]):
        raise refused_email(params["customer_email"], "customer_email")
    if len(params.get("client_reference_id") or "") > 200:
        raise ParameterError(
            "Invalid string: must be at most 200 characters",
            code="parameter_invalid_string",
            param="client_reference_id",
        )
    _refuse_expiry(world, params.get("expires_at"))


def refused_email(email: str, param: str) -> InvalidRequestError:
    """https://docs.stripe.com/error-codes#email-invalid"""
    return InvalidRequestError(f"Invalid email address: {email}", code="email_invalid", param=param)


def is_email(text: str) -> bool:
    """Whether Stripe would take it for an e-mail address."""
    return _EMAIL.fullmatch(text) is not None


def _refuse_by_mode(params: Json) -> None:
    mode = params["mode"]
    if mode == "subscription":
        if params.get("customer_creation"):
            raise InvalidRequestError(
                "`customer_creation` can only be used in `payment` mode.", param="customer_creation"
            )
        if params.get("invoice_creation", {}).get("enabled"):
            raise InvalidRequestError(
                "You can only enable invoice creation when `mode` is set to `payment`. Invoices are created"
                " automatically when `mode` is set to `subscription`, and are unsupported when set to"
                " `setup`.",
                param="invoice_creation",
            )
    elsewhere = {
        "subscription": ("payment_intent_data",),
        "payment": ("subscription_data", "payment_method_collection"),
    }[mode]
    for name in elsewhere:
        if params.get(name):
            raise InvalidRequestError(f"You can not pass `{name}` in `{mode}` mode.", param=name)


def _refuse_by_ui(params: Json) -> None:
    ui_mode = params.get("ui_mode") or "hosted_page"
    strange = [name for name in _OTHER_UI[ui_mode] if params.get(name)]
    if strange:
        raise InvalidRequestError(
            f"The following parameters are not supported with `ui_mode: {ui_mode}`: {', '.join(strange)}.",
            param=strange[0],
        )
    if ui_mode == "hosted_page":
        # https://github.com/stripe/stripe-node/issues/1944
        require(params, "success_url")
    if ui_mode == "embedded_page":
        stays = params.get("redirect_on_completion") == "never"
        if stays and params.get("return_url"):
            raise InvalidRequestError(
                "You can not pass `return_url` when `redirect_on_completion` is `never`.", param="return_url"
            )
        if not stays and not params.get("return_url"):
            raise parameter_missing("return_url")
    for name in ("success_url", "cancel_url", "return_url"):
        if params.get(name) and not is_web_address(params[name]):
            raise InvalidRequestError("Not a valid URL", code="url_invalid", param=name)


def is_web_address(text: str) -> bool:
    """Whether it is an absolute address of the web."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _refuse_expiry(world: World, expires_at: int | None) -> None:
    if expires_at is None:
        return
    if expires_at < world.now() + EXPIRES_FROM_S:
        raise InvalidRequestError(
            "The `expires_at` timestamp must be at least 30 minutes from Checkout Session creation.",
            param="expires_at",
        )
    if expires_at > world.now() + EXPIRES_UNTIL_S:
        raise InvalidRequestError(
            "The `expires_at` timestamp must be less than 24 hours from Checkout Session creation.",
            param="expires_at",
        )
