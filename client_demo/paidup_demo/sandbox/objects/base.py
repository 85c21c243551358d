"""What Stripe's objects have in common."""

from __future__ import annotations

from typing import Any

from paidup_demo.sandbox.errors import Json
from paidup_demo.sandbox.state import new_id

NO_ADDRESS = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))


NO_BILLING_DETAILS: Json = {
    "address": NO_ADDRESS, "email": None, "name": None, "phone": None, "tax_id": None,
}  # fmt: skip


SELF = {"type": "self"}


def nulls(names: str) -> Json:
    """These keys with null values."""
    return dict.fromkeys(names.split())


def base(kind: str, prefix: str, created: int, **more: Any) -> Json:
    """The first keys of nearly every object."""
    return {"id": new_id(prefix), "object": kind, "created": created, "livemode": False, **more}


def list_of(items: list[Json], url: str, has_more: bool = False) -> Json:
    """Stripe's list object."""
    return {"object": "list", "data": items, "has_more": has_more, "url": url}
