"""Checkout Sessions of a test: made as the SaaS's own code, a Payment Link or Paidup makes them, and paid."""

from __future__ import annotations

import json
from typing import Any

from paidup.db.models import CheckoutSession, Invoice
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

PRO = "paidup_pro_monthly"
EXTRA = "paidup_extra"
RETURN_URL = "https://app.example.test/activate?session_id={CHECKOUT_SESSION_ID}"
SEPA = {
    "type": "sepa_debit",
    "sepa_debit": {"iban": "AT611904300234573201"},
    "billing_details": {"name": "Ada", "email": "ada@example.com"},
}


class CheckoutShop:
    def __init__(self, stripe: StripeSide) -> None:
        self.stripe = stripe

    async def price(self, lookup_key: str) -> str:
        found = await self.stripe.api("GET", f"prices?lookup_keys[0]={lookup_key}")
        return str(found["data"][0]["id"])

    async def open(self, lookup_key: str = PRO, quantity: Any = 1, **form: Any) -> str:
        """A session made with the SaaS's own key; its id. `form` adds parameters of Stripe's."""
        mode = "payment" if lookup_key == EXTRA else "subscription"
        made = await self.stripe.api(
            "POST",
            "checkout/sessions",
            **{
                "mode": mode,
                "line_items[0][price]": await self.price(lookup_key),
                "line_items[0][quantity]": str(quantity),
                "success_url": RETURN_URL,
                **form,
            },
        )
        return str(made["id"])

    async def pay(self, session: str, card: str = "pm_card_visa", **more: Any) -> Any:
        """Pay it as on its page; what has become of it."""
        body = {"card": card, "email": "ada@example.com", "name": "Ada", **more}
        return await self.stripe.control(f"checkout/{session}/complete", body)

    async def event(self, kind: str, about: str | None = None) -> bytes:
        """The newest event of this type (about this object), as Stripe delivers it."""
        return json.dumps(await self.stripe.event(kind, about)).encode()

    async def reads(self) -> int:
        """How often the server has read a session."""
        return await self.stripe.calls("GET /v1/checkout/sessions/{id}")


async def linked(session: str) -> Invoice:
    """The row of the invoice that a session has become, once both are tied to each other."""

    async def found() -> bool:
        row = await CheckoutSession.get_or_none(id=session)
        return row is not None and row.invoice is not None

    await wait_until(found)
    row = await CheckoutSession.get(id=session)
    invoice = await Invoice.get(id=row.invoice)
    assert invoice.checkout == session
    return invoice
