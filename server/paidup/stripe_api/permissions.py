"""The permissions that a restricted key (`rk_...`) needs, each with a call that shows whether it is there.

The calls change nothing: a read lists one object, and a write names an object that does not exist. Stripe
answers such a write 404 where the key may write, and 403 where it may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from paidup.errors import StripeRefused
from paidup.stripe_api.client import RateLimitedClient

REFUSED = 403


class Permission(NamedTuple):
    """A permission under its name in Stripe's dashboard, `read` or `write`, and a path that needs it."""

    resource: str
    access: str
    path: str

    def __str__(self) -> str:
        return f"{self.resource}: {self.access}"


PERMISSIONS = (
    Permission("Customers", "write", "/v1/customers/cus_paidup_doctor"),
    Permission("Subscriptions", "write", "/v1/subscriptions/sub_paidup_doctor"),
    Permission("Invoices", "write", "/v1/invoices/in_paidup_doctor"),
    Permission("Checkout Sessions", "write", "/v1/checkout/sessions/cs_test_paidup_doctor"),
    Permission("Payment Intents", "read", "/v1/payment_intents"),
    Permission("Payment Methods", "read", "/v1/payment_methods"),
    Permission("Setup Intents", "read", "/v1/setup_intents"),
    Permission("Charges and Refunds", "read", "/v1/charges"),
    Permission("Disputes", "read", "/v1/disputes"),
    Permission("Credit notes", "read", "/v1/credit_notes"),
    Permission("Products", "read", "/v1/products"),
    Permission("Prices", "read", "/v1/prices"),
    Permission("Events", "read", "/v1/events"),
    Permission("Webhook Endpoints", "read", "/v1/webhook_endpoints"),
)
"""For `paidup serve`, `work` and the operators' commands."""

SETUP_PERMISSIONS = (
    Permission("Products", "write", "/v1/products/prod_paidup_doctor"),
    Permission("Prices", "write", "/v1/prices/price_paidup_doctor"),
    Permission("Webhook Endpoints", "write", "/v1/webhook_endpoints/we_paidup_doctor"),
)
"""For `paidup stripe-setup`, in addition; it runs once, and may have a key of its own."""


async def missing_permissions(client: RateLimitedClient, wanted: Sequence[Permission]) -> list[Permission]:
    """Those that the key does not have. Raises StripeUnavailable, or StripeRefused for an unknown key."""
    missing = []
    params: dict[str, Any]
    for permission in wanted:
        writes = permission.access == "write"
        method, params = ("post", {"metadata": {"paidup": "doctor"}}) if writes else ("get", {"limit": 1})
        try:
            await client.send("permissions", method, permission.path, params)
        except StripeRefused as error:
            if error.http_status == REFUSED:
                missing.append(permission)
            elif error.http_status not in (400, 404):
                raise
    return missing
