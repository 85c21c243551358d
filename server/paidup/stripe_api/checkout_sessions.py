"""Makes, reads, expires and lists Checkout Sessions: https://docs.stripe.com/api/checkout/sessions"""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Any
from urllib.parse import quote

import msgspec

from paidup.domain.checkout_options import CheckoutOptions
from paidup.stripe_api.checkout_schemas import SessionLine, StripeCheckoutSession
from paidup.stripe_api.client import RateLimitedClient, body_of, decode_answer
from paidup.stripe_api.pagination import joined
from paidup.stripe_api.rate_limiter import Purpose
from paidup.stripe_api.schemas import ACCOUNT_METADATA_KEY, PURCHASE_METADATA_KEY, TOP_UP, ListOf

READ_SESSION = "checkout.sessions.retrieve"
PATH = "/v1/checkout/sessions"
MAX_LINE_PAGES = 20
# Four levels at most: https://docs.stripe.com/expand. So an invoice's payments come without their intents.
EXPANDED = ["invoice.payments", "payment_intent", "line_items"]


CHECKOUT_METADATA_KEY = "paidup_checkout"
"""What a session of ours sells: `SUBSCRIPTION`, or the top-up's plan."""
SUBSCRIPTION = "subscription"


class Ui(StrEnum):
    """Where the customer pays; the value is Stripe's `ui_mode`."""

    HOSTED = "hosted_page"
    EMBEDDED = "embedded_page"
    ELEMENTS = "elements"


class NewSession(msgspec.Struct, frozen=True):
    """A session to make. `top_up`: the plan that is bought once; None for a subscription.

    Its metadata says what it sells, so that a session whose answer was lost is known again. Stripe
    replaces `{CHECKOUT_SESSION_ID}` in `return_url`.
    """

    customer: str
    price: str
    quantity: int
    currency: str
    external_id: str
    top_up: str | None
    ui: Ui
    return_url: str
    cancel_url: str | None
    options: CheckoutOptions = CheckoutOptions()

    def params(self) -> dict[str, Any]:
        """As Stripe takes them. Without `payment_method_types`, the account's dynamic ones are offered."""
        metadata = {ACCOUNT_METADATA_KEY: self.external_id}
        params: dict[str, Any] = {
            "ui_mode": self.ui.value,
            "customer": self.customer,
            "client_reference_id": self.external_id,
            "currency": self.currency,
            "line_items": [{"price": self.price, "quantity": self.quantity}],
            "metadata": {**metadata, CHECKOUT_METADATA_KEY: self.top_up or SUBSCRIPTION},
            **self._addresses(),
            **self._purchase(metadata),
            **self.options.params(),
        }
        return params

    def _addresses(self) -> dict[str, str]:
        if self.ui is not Ui.HOSTED:
            return {"return_url": self.return_url}
        return {
            "success_url": self.return_url,
            **({"cancel_url": self.cancel_url} if self.cancel_url else {}),
        }

    def _purchase(self, metadata: dict[str, str]) -> dict[str, Any]:
        if self.top_up is None:
            billing = {"type": "flexible", "flexible": {"proration_discounts": "itemized"}}
            return {
                "mode": "subscription",
                "subscription_data": {"metadata": metadata, "billing_mode": billing},
            }
        params: dict[str, Any] = {"mode": "payment", "payment_intent_data": {"metadata": metadata}}
        if self.options.invoices_top_ups:
            invoice = {"metadata": {**metadata, PURCHASE_METADATA_KEY: TOP_UP}}
            params["invoice_creation"] = {"enabled": True, "invoice_data": invoice}
        return params


class CheckoutSessions:
    """Background callers pass `max_wait_s`: their wait for a slot. Most slots are left to customers."""

    def __init__(self, client: RateLimitedClient) -> None:
        self._client = client
        self._sessions = client.v1.checkout.sessions

    async def create(self, new: NewSession, key: str) -> StripeCheckoutSession:
        """An open session; the same one for the same `key`."""
        body = await self._client.post("checkout.sessions.create", PATH, new.params(), key)
        return decode_answer(StripeCheckoutSession, body)

    async def read(
        self,
        session: str,
        max_wait_s: float | None = None,
        slot_acquired: bool = False,
        purpose: Purpose = Purpose.CUSTOMER,
    ) -> StripeCheckoutSession:
        """One session with its invoice, its intent and its lines: one call, more beyond ten lines.

        As `StripeGateway.read_invoice`. Raises StripeRefused, `resource_missing`, where there is none.
        """
        if purpose is Purpose.REQUEST:
            await self._client.acquire_slot(READ_SESSION, purpose=purpose)
        params: Any = {"expand": EXPANDED}
        retries = 0 if slot_acquired else None
        has_slot = slot_acquired or purpose is Purpose.REQUEST
        path = f"{PATH}/{quote(session, safe='')}"
        body = await self._client.read(READ_SESSION, path, params, max_wait_s, has_slot, retries)
        read = decode_answer(StripeCheckoutSession, body)
        if read.line_items is None or not read.line_items.has_more or not read.has_no_invoice:
            return read
        lines = await joined(partial(self._list_lines, session), MAX_LINE_PAGES)
        return msgspec.structs.replace(read, line_items=lines)

    async def expire(self, session: str, max_wait_s: float | None = None) -> StripeCheckoutSession:
        """End an open session, so that nobody can pay it. Raises StripeRefused where it is not open."""
        path = f"{PATH}/{quote(session, safe='')}/expire"
        body = await self._client.post("checkout.sessions.expire", path, {}, max_wait_s=max_wait_s)
        return decode_answer(StripeCheckoutSession, body)

    async def list_complete(
        self, since: int, after: str | None = None, max_wait_s: float | None = None, until: int | None = None
    ) -> ListOf[StripeCheckoutSession]:
        """A page of completed sessions created from `since` on, before `until` (Unix seconds), newest first.

        Nothing is expanded: a session that is new here is read.
        """
        created = {"gte": since} if until is None else {"gte": since, "lt": until}
        params: Any = {"status": "complete", "created": created, "limit": 100}
        if after:
            params["starting_after"] = after
        body = await self._client.read("checkout.sessions.list", PATH, params, max_wait_s)
        return decode_answer(ListOf[StripeCheckoutSession], body)

    async def list_open(self, customer: str, purchase: str) -> list[StripeCheckoutSession]:
        """The customer's open sessions that Paidup has made for this purchase: those of a page at most."""
        params: Any = {"customer": customer, "status": "open", "limit": 100}
        body = await self._client.read("checkout.sessions.list", PATH, params)
        found = decode_answer(ListOf[StripeCheckoutSession], body).data
        return [each for each in found if (each.metadata or {}).get(CHECKOUT_METADATA_KEY) == purchase]

    async def of_intent(self, intent: str, max_wait_s: float | None = None) -> StripeCheckoutSession | None:
        """The session that a PaymentIntent pays, or None where it pays none."""
        params: Any = {"payment_intent": intent, "limit": 1}
        body = await self._client.read("checkout.sessions.list", PATH, params, max_wait_s)
        found = decode_answer(ListOf[StripeCheckoutSession], body).data
        return found[0] if found else None

    async def _list_lines(self, session: str, after: str | None) -> ListOf[SessionLine]:
        params: Any = {"limit": 100}
        if after:
            params["starting_after"] = after
        list_lines = self._sessions.line_items.list_async
        page = await self._client.call("checkout.sessions.lines", list_lines, session, params)
        return decode_answer(ListOf[SessionLine], body_of(page))
