"""What a Checkout page offers and asks for, as Stripe's parameters."""

from __future__ import annotations

from typing import Any

import msgspec


class CheckoutOptions(msgspec.Struct, frozen=True):
    """`locale` "auto": the browser's language. `collects_address`: always, not only where it is needed.

    `invoices_top_ups`: Stripe makes an invoice of a one-time payment, for a fee.
    """

    promotion_codes: bool = False
    automatic_tax: bool = False
    collects_address: bool = False
    locale: str = "auto"
    invoices_top_ups: bool = True

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
