"""What a Checkout page offers and asks for, as Stripe's parameters."""

from __future__ import annotations

from typing import Any

import msgspec

LOCALES = (
    *("auto", "bg", "cs", "da", "de", "el", "en", "en-GB", "es", "es-419", "et", "fi", "fil", "fr", "fr-CA"),
    *("hi-IN", "hr", "hu", "id", "it", "ja", "ko", "lt", "lv", "ms", "mt", "nb", "nl", "pl", "pt", "pt-BR"),
    *("ro", "ru", "sk", "sl", "sv", "th", "tr", "vi", "zh", "zh-HK", "zh-TW"),
)
"""Of stripe.checkout.Session.locale."""


class CheckoutOptions(msgspec.Struct, frozen=True):
    """`locale` "auto": the browser's language. `collects_address`: always, not only where it is needed."""

    promotion_codes: bool = False
    automatic_tax: bool = False
    collects_address: bool = False
    locale: str = "auto"

    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = {}
        if self.promotion_codes:
            params["allow_promotion_codes"] = True
        if self.automatic_tax:
            params["automatic_tax"] = {"enabled": True}
        if self.collects_address:
            params["billing_address_collection"] = "required"
        if self.automatic_tax or self.collects_address:
            # Tax of a customer who was made before is computed from the address that is saved with them:
            # https://docs.stripe.com/tax/checkout#existing-customers
            params["customer_update"] = {"address": "auto", "name": "auto"}
        if self.locale != "auto":
            params["locale"] = self.locale
        return params
