"""Restricted keys, `rk_test_...`: what each may do, and Stripe's refusal of the rest.

A write permission includes the read one. An object that is expanded needs its own permission, too.
https://docs.stripe.com/keys/restricted-api-keys
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from paidup_demo.sandbox.errors import PermissionRefusedError, UnauthorizedError
from paidup_demo.sandbox.objects.account import ACCOUNT_ID
from paidup_demo.sandbox.state import Store, new_id

PREFIX = "rk_test_"
RESOURCES = {
    "account": "accounts_kyc_basic", "charges": "charge", "checkout": "checkout_session",
    "coupons": "coupon", "credit_notes": "credit_note", "customers": "customer", "disputes": "dispute",
    "events": "event", "invoice_payments": "invoice", "invoiceitems": "invoice", "invoices": "invoice",
    "payment_intents": "payment_intent", "payment_links": "payment_link",
    "payment_methods": "payment_method", "prices": "plan",
    "products": "product", "promotion_codes": "promotion_code", "refunds": "charge",
    "setup_intents": "setup_intent", "subscriptions": "subscription", "webhook_endpoints": "webhook",
}  # fmt: skip
"""The first part of a path, and the name of its permission; prices still have that of plans."""
EXPANDED = {
    "charge": "charge", "customer": "customer", "invoice": "invoice", "latest_charge": "charge",
    "latest_invoice": "invoice", "payment_intent": "payment_intent", "payment_method": "payment_method",
    "pending_setup_intent": "setup_intent", "product": "product", "subscription": "subscription",
    "default_payment_method": "payment_method",
}  # fmt: skip
KNOWN = {f"{name}_{access}" for name in RESOURCES.values() for access in ("read", "write")}


def create(store: Store, permissions: Iterable[str]) -> str:
    """A new key with these permissions, such as `customer_write`."""
    key = new_id(PREFIX.rstrip("_"), 24)
    store.add({"id": key, "permissions": sorted(permissions)}, "restricted_key")
    return key


def refuse_unless_permitted(store: Store, key: str, method: str, path: str, expand: Sequence[str]) -> None:
    """Raises Stripe's 403 that names the missing permission; 401 for a key that nobody made."""
    row = store.find("restricted_key", key)
    if row is None:
        raise UnauthorizedError(f"Invalid API Key provided: {_masked(key)}")
    resource = path.removeprefix("/v1/").partition("/")[0]
    access = "read" if method == "GET" else "write"
    steps = {step for one in expand for step in one.split(".")}
    needed = [f"{RESOURCES.get(resource, resource)}_{access}"]
    needed += [f"{EXPANDED[step]}_read" for step in sorted(steps & EXPANDED.keys())]
    for name in needed:
        if not {name, name.replace("_read", "_write")} & set(row["permissions"]):
            raise PermissionRefusedError(
                f"The provided key '{_masked(key)}' does not have the required permissions for this endpoint"
                f" on account '{ACCOUNT_ID}'. Having the 'rak_{name}' permission would allow this request to"
                " continue.",
                code="more_permissions_required",
            )


def _masked(key: str) -> str:
    return f"{PREFIX}{'*' * 12}{key[-4:]}"
