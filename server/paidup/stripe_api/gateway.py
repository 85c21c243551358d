"""Customers, subscriptions, invoices, reversals and events: what Paidup asks of Stripe.

Answers are decoded from the raw body into the types of `schemas.py`, which webhooks use as well.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from paidup.errors import StripeRefused, StripeUnavailable
from paidup.runtime.outgoing import DIRECT, Outgoing
from paidup.stripe_api.account import StripeAccount
from paidup.stripe_api.charged_cards import ChargedCard, charged_card
from paidup.stripe_api.checkout_schemas import is_session
from paidup.stripe_api.checkout_sessions import CheckoutSessions
from paidup.stripe_api.client import RateLimitedClient, body_of, decode_answer, open_client
from paidup.stripe_api.customers import CustomerReader
from paidup.stripe_api.one_time_invoices import OneTimeInvoices
from paidup.stripe_api.pagination import joined
from paidup.stripe_api.price_writer import PriceWriter
from paidup.stripe_api.rate_limiter import BACKGROUND_MAX_WAIT_S, Purpose, RateLimiter
from paidup.stripe_api.read_count import ReadCounter
from paidup.stripe_api.refunds import Refunds
from paidup.stripe_api.reversal_schemas import CreditNote, Dispute, Refund
from paidup.stripe_api.schemas import (
    ACCOUNT_METADATA_KEY,
    Line,
    ListOf,
    PaymentIntent,
    PreviewedInvoice,
    StripeInvoice,
    StripeSubscription,
)

MAX_LINE_PAGES = 20
MAX_SUBSCRIPTION_PAGES = 20
READ_INVOICE = "invoices.retrieve"
SUBSCRIPTIONS = "/v1/subscriptions"
RUNNING = ("trialing", "active", "past_due", "unpaid", "paused")
"""The statuses of a subscription that has begun and not ended."""

R = TypeVar("R", bound=Refund | Dispute | CreditNote)


class StripeGateway:
    """Background callers pass `max_wait_s`: their wait for a slot. Most slots are left to customers."""

    def __init__(self, client: RateLimitedClient) -> None:
        self._client = client
        self.connected_account = client.connected_account
        self.account = StripeAccount(client)
        self.checkout_sessions = CheckoutSessions(client)
        self.customers = CustomerReader(client)
        self.one_time_invoices = OneTimeInvoices(client)
        self.price_writer = PriceWriter(client)
        self.refunds = Refunds(client)
        self._reversals: dict[type, tuple[str, Any]] = {
            Refund: ("refunds", client.v1.refunds),
            Dispute: ("disputes", client.v1.disputes),
            CreditNote: ("credit_notes", client.v1.credit_notes),
        }

    async def create_customer(self, external_id: str, key: str) -> str:
        """A new customer's id; the same one for the same `key`."""
        params: Any = {"metadata": {ACCOUNT_METADATA_KEY: external_id}}
        made = await self._client.call(
            "customers.create", self._client.v1.customers.create_async, params, {"idempotency_key": key}
        )
        return str(made.id)

    async def create_subscription(
        self, customer: str, price: str, quantity: int, currency: str, external_id: str, key: str
    ) -> StripeSubscription:
        """A `default_incomplete` subscription, its first invoice expanded; the same for the same `key`."""
        params: Any = {
            "customer": customer,
            "currency": currency,
            "items": [{"price": price, "quantity": quantity}],
            "payment_behavior": "default_incomplete",
            # Prorations before discounts, like every other line: a discount changes no credits.
            "billing_mode": {"type": "flexible", "flexible": {"proration_discounts": "itemized"}},
            # No list of types: the methods that the account has enabled (Stripe's dynamic ones).
            "payment_settings": {"save_default_payment_method": "on_subscription"},
            "metadata": {ACCOUNT_METADATA_KEY: external_id},
            "expand": ["latest_invoice.confirmation_secret", "latest_invoice.payments"],
        }
        body = await self._client.post("subscriptions.create", SUBSCRIPTIONS, params, key)
        return decode_answer(StripeSubscription, body)

    async def change_subscription(
        self, subscription: str, item: str, price: str, quantity: int, restart_cycle: bool, key: str
    ) -> StripeSubscription:
        """Change price or quantity, billed at once. It applies only once that is paid, within 23 hours."""
        params: Any = {
            "items": [{"id": item, "price": price, "quantity": quantity}],
            "proration_behavior": "always_invoice",
            "payment_behavior": "pending_if_incomplete",
            "expand": ["latest_invoice.confirmation_secret", "latest_invoice.payments"],
        }
        if restart_cycle:
            params["billing_cycle_anchor"] = {"type": "now"}
        changed = await self._client.call(
            "subscriptions.update",
            self._client.v1.subscriptions.update_async,
            subscription,
            params,
            {"idempotency_key": key},
        )
        return decode_answer(StripeSubscription, body_of(changed))

    async def preview_change(
        self, subscription: str, item: str, price: str, quantity: int, restart_cycle: bool
    ) -> PreviewedInvoice:
        """The invoice that `change_subscription` would make now. Nothing is stored."""
        details: Any = {
            "items": [{"id": item, "price": price, "quantity": quantity}],
            "proration_behavior": "always_invoice",
        }
        if restart_cycle:
            details["billing_cycle_anchor"] = {"type": "now"}
        params: Any = {"subscription": subscription, "subscription_details": details}
        previewed = await self._client.call(
            "invoices.create_preview", self._client.v1.invoices.create_preview_async, params
        )
        return decode_answer(PreviewedInvoice, body_of(previewed))

    async def charged_card(self, subscription: str) -> ChargedCard | None:
        """The saved card that Stripe would charge, as far as this key may read it."""
        return await charged_card(self._client, subscription)

    async def cancel_at_period_end(self, subscription: str, cancel: bool) -> StripeSubscription:
        """End it with its period, or undo that."""
        params: Any = {"cancel_at_period_end": cancel}
        changed = await self._client.call(
            "subscriptions.update", self._client.v1.subscriptions.update_async, subscription, params
        )
        return decode_answer(StripeSubscription, body_of(changed))

    async def clear_cancel_at(self, subscription: str) -> StripeSubscription:
        """Undo an end at a date, as the customer portal sets it."""
        params: Any = {"cancel_at": ""}
        changed = await self._client.call(
            "subscriptions.update", self._client.v1.subscriptions.update_async, subscription, params
        )
        return decode_answer(StripeSubscription, body_of(changed))

    async def cancel_subscription(self, subscription: str) -> StripeSubscription:
        """End it now. Stripe voids an open first invoice, and refunds nothing."""
        ended = await self._client.call(
            "subscriptions.cancel", self._client.v1.subscriptions.cancel_async, subscription
        )
        return decode_answer(StripeSubscription, body_of(ended))

    async def read_subscription(
        self, subscription: str, max_wait_s: float | None = None
    ) -> StripeSubscription:
        """One subscription as it is now. Raises StripeRefused with `resource_missing` where there is none."""
        path = f"{SUBSCRIPTIONS}/{quote(subscription, safe='')}"
        body = await self._client.read("subscriptions.retrieve", path, {}, max_wait_s)
        return decode_answer(StripeSubscription, body)

    async def running_subscriptions(self, customer: str) -> list[StripeSubscription]:
        """All subscriptions of this customer that have begun and not ended, newest first.

        None where Stripe has no such customer: a deleted customer's subscriptions are cancelled.
        """
        try:
            found = await joined(partial(self._list_subscriptions, customer), MAX_SUBSCRIPTION_PAGES)
        except StripeRefused as error:
            if not error.is_missing:
                raise
            return []
        if found.has_more:  # what is beyond may run as well: nothing is sold, changed or cancelled by guess
            raise StripeUnavailable(f"{customer} has more subscriptions than can be read")
        return [each for each in found.data if each.status in RUNNING]

    async def _list_subscriptions(self, customer: str, after: str | None) -> ListOf[StripeSubscription]:
        # Stripe filters by one status; without one, it leaves out what was cancelled.
        params: Any = {"customer": customer, "limit": 100}
        if after:
            params["starting_after"] = after
        body = await self._client.read("subscriptions.list", SUBSCRIPTIONS, params)
        return decode_answer(ListOf[StripeSubscription], body)

    async def collect_invoice(self, invoice: str) -> StripeInvoice:
        """Finalise a draft and charge the saved card now, once, however often it is called. Two calls.

        Raises StripeRefused where the charge is declined, or the invoice is no draft any more.
        """
        opened = await self._client.call(
            "invoices.finalize",
            self._client.v1.invoices.finalize_invoice_async,
            invoice,
            {"auto_advance": True},
            {"idempotency_key": f"collect-{invoice}-finalize"},
            max_wait_s=BACKGROUND_MAX_WAIT_S,
        )
        if opened.status != "open":  # nothing was due
            return decode_answer(StripeInvoice, body_of(opened))
        paid = await self._client.call(
            "invoices.pay",
            self._client.v1.invoices.pay_async,
            invoice,
            {},
            {"idempotency_key": f"collect-{invoice}-pay"},
            max_wait_s=BACKGROUND_MAX_WAIT_S,
        )
        return decode_answer(StripeInvoice, body_of(paid))

    async def void_invoice(self, invoice: str, max_wait_s: float | None = None) -> StripeInvoice:
        """Void an open invoice. Raises StripeRefused where it is paid or void already."""
        voided = await self._client.call(
            "invoices.void",
            self._client.v1.invoices.void_invoice_async,
            invoice,
            max_wait_s=max_wait_s,
        )
        return decode_answer(StripeInvoice, body_of(voided))

    async def invoice_of_intent(self, intent: str) -> str | None:
        """The invoice that a PaymentIntent pays, or None where it pays none."""
        params: Any = {"payment": {"type": "payment_intent", "payment_intent": intent}, "limit": 1}
        page = await self._client.call(
            "invoice_payments.list", self._client.v1.invoice_payments.list_async, params
        )
        return str(page.data[0].invoice) if page.data else None

    async def read_intent(self, intent: str) -> PaymentIntent:
        """A PaymentIntent with its method. No read of an invoice shows that: Stripe expands four levels."""
        params: Any = {"expand": ["payment_method"]}
        read = await self._client.call(
            "payment_intents.retrieve", self._client.v1.payment_intents.retrieve_async, intent, params
        )
        return decode_answer(PaymentIntent, body_of(read))

    async def intent_of_charge(self, charge: str) -> str | None:
        """The PaymentIntent that made a charge, or None."""
        read = await self._client.call("charges.retrieve", self._client.v1.charges.retrieve_async, charge)
        return str(read.payment_intent) if read.payment_intent else None

    async def acquire_read_slots(self, max_wait_s: float, at_most: int) -> int:
        """Wait for a rate limiter slot for `read_invoice`. Raises StripeUnavailable after `max_wait_s`.

        Returns how many were taken: one, or several where they are free.
        """
        return await self._client.acquire_slot(READ_INVOICE, max_wait_s, Purpose.CUSTOMER, at_most)

    async def read_invoice(
        self,
        invoice: str,
        max_wait_s: float | None = None,
        slot_acquired: bool = False,
        purpose: Purpose = Purpose.CUSTOMER,
    ) -> StripeInvoice:
        """One invoice, with its payments, their intents and all its lines: one call, more beyond ten lines.

        `slot_acquired`: the caller has acquired the rate limiter slot already. A read for a customer's API
        call has the purpose REQUEST, so that it takes no slot from a payment in progress. A Checkout Session
        that was paid without an invoice is read as one. Raises StripeRefused with code `resource_missing`
        where there is none.
        """
        if is_session(invoice):
            session = await self.checkout_sessions.read(invoice, max_wait_s, slot_acquired, purpose)
            return session.as_invoice()
        if purpose is Purpose.REQUEST:
            await self._client.acquire_slot(READ_INVOICE, purpose=purpose)
        params: Any = {"expand": ["payments.data.payment.payment_intent", "confirmation_secret"]}
        # The verification queue retries by itself; the SDK's retries would have no slot.
        retries = 0 if slot_acquired else None
        has_slot = slot_acquired or purpose is Purpose.REQUEST
        path = f"/v1/invoices/{quote(invoice, safe='')}"
        body = await self._client.read(READ_INVOICE, path, params, max_wait_s, has_slot, retries)
        read = decode_answer(StripeInvoice, body)
        if not read.lines.has_more:
            return read
        lines = await joined(partial(self._list_lines, invoice), MAX_LINE_PAGES)
        return msgspec.structs.replace(read, lines=lines)

    async def _list_lines(self, invoice: str, after: str | None) -> ListOf[Line]:
        params: Any = {"limit": 100}
        if after:
            params["starting_after"] = after
        lines = self._client.v1.invoices.line_items
        page = await self._client.call("invoices.lines", lines.list_async, invoice, params)
        return decode_answer(ListOf[Line], body_of(page))

    async def list_paid_invoices(
        self, since: int, after: str | None = None, max_wait_s: float | None = None, until: int | None = None
    ) -> ListOf[StripeInvoice]:
        """A page of paid invoices created from `since` on, before `until` (Unix seconds), newest first."""
        created = {"gte": since} if until is None else {"gte": since, "lt": until}
        return await self._list_invoices("paid", created, after, max_wait_s)

    async def list_drafts(
        self, since: int, after: str | None = None, max_wait_s: float | None = None
    ) -> ListOf[StripeInvoice]:
        """A page of drafts created from `since` on (Unix seconds), newest first."""
        return await self._list_invoices("draft", {"gte": since}, after, max_wait_s)

    async def _list_invoices(
        self, status: str, created: dict[str, int], after: str | None, max_wait_s: float | None
    ) -> ListOf[StripeInvoice]:
        params: Any = {"status": status, "created": created, "limit": 100}
        if after:
            params["starting_after"] = after
        return decode_answer(
            ListOf[StripeInvoice],
            await self._client.read("invoices.list", "/v1/invoices", params, max_wait_s),
        )

    async def read_reversal(self, kind: type[R], object_id: str) -> R:
        """A refund, a dispute or a credit note as it is now. Raises StripeRefused without it."""
        name, service = self._reversals[kind]
        return decode_answer(
            kind, body_of(await self._client.call(f"{name}.retrieve", service.retrieve_async, object_id))
        )

    async def list_reversals(
        self, kind: type[R], since: int, after: str | None = None, max_wait_s: float | None = None
    ) -> ListOf[R]:
        """A page of those created at or after `since` (Unix seconds), newest first."""
        name, service = self._reversals[kind]
        params: Any = {"created": {"gte": since}, "limit": 100}
        if after:
            params["starting_after"] = after
        page = await self._client.call(f"{name}.list", service.list_async, params, max_wait_s=max_wait_s)
        reversals: ListOf[R] = decode_answer(ListOf[kind], body_of(page))  # type: ignore[valid-type]
        return reversals

    async def list_undelivered_events(
        self, types: Sequence[str], since: int, after: str | None = None, max_wait_s: float | None = None
    ) -> ListOf[msgspec.Raw]:
        """A page of undelivered events (raw), newest first. Stripe takes 20 types at a time."""
        params: Any = {
            "delivery_success": False,
            "types": list(types),
            "created": {"gte": since},
            "limit": 100,
        }
        if after:
            params["starting_after"] = after
        page = await self._client.call(
            "events.list", self._client.v1.events.list_async, params, max_wait_s=max_wait_s
        )
        return decode_answer(ListOf[msgspec.Raw], body_of(page))

    async def read_event(self, event: str) -> str:
        """The raw body of one event, which Stripe keeps for 30 days. Raises StripeRefused without it."""
        return body_of(
            await self._client.call("events.retrieve", self._client.v1.events.retrieve_async, event)
        )


@asynccontextmanager
async def open_gateway(
    key: str,
    api_base: str,
    timeout_s: float,
    rate_limiter: RateLimiter,
    reads: ReadCounter | None = None,
    connected_account: str = "",
    outgoing: Outgoing = DIRECT,
) -> AsyncIterator[StripeGateway]:
    """A gateway whose connections stay open for the length of the block. Connects to nothing yet."""
    opened = open_client(key, api_base, timeout_s, rate_limiter, reads, connected_account, outgoing)
    async with opened as client:
        yield StripeGateway(client)
