"""Makes the invoice of a one-time price, and leaves no draft of it behind.

Stripe makes it in three calls: a draft, its item, and its finalization, which opens it. If a later call
fails, the draft is deleted, and the error is final: the next try has new idempotency keys. If the
draft cannot be deleted either, the next try has the same keys, and goes on with the same draft.
"""

from __future__ import annotations

from typing import Any

import structlog

from paidup.errors import StripeError, StripeRefused, StripeUnavailable
from paidup.stripe_api.client import RateLimitedClient, body_of, decode_answer
from paidup.stripe_api.schemas import (
    ACCOUNT_METADATA_KEY,
    PURCHASE_METADATA_KEY,
    TOP_UP,
    StripeInvoice,
)

log = structlog.get_logger(__name__)

EXPANDED = ["confirmation_secret", "payments"]


class OneTimeInvoices:
    def __init__(self, client: RateLimitedClient) -> None:
        self._client = client
        self._invoices = client.v1.invoices
        self._items = client.v1.invoice_items

    async def create(
        self, customer: str, price: str, quantity: int, currency: str, external_id: str, key: str
    ) -> StripeInvoice:
        """An open invoice for `quantity` of a price, in this currency; the same for the same `key`.

        Without a currency, Stripe takes the customer's, or else the account's default, in which the price
        may not be sold: https://docs.stripe.com/api/invoices/create.
        """
        draft: Any = {
            "customer": customer,
            "currency": currency,
            "collection_method": "charge_automatically",
            "auto_advance": False,  # the customer confirms it now
            "pending_invoice_items_behavior": "exclude",
            "metadata": {ACCOUNT_METADATA_KEY: external_id, PURCHASE_METADATA_KEY: TOP_UP},
        }
        made = await self._client.call(
            "invoices.create", self._invoices.create_async, draft, {"idempotency_key": f"{key}-invoice"}
        )
        item: Any = {
            "customer": customer,
            "invoice": made.id,
            "pricing": {"price": price},
            "quantity": quantity,
        }
        try:
            return await self._open(made.id, item, key)
        except StripeError as error:
            return await self._discard(made.id, error)

    async def _open(self, draft: str, item: Any, key: str) -> StripeInvoice:
        await self._client.call(
            "invoice_items.create", self._items.create_async, item, {"idempotency_key": f"{key}-item"}
        )
        params: Any = {"auto_advance": False, "expand": EXPANDED}
        final = await self._client.call(
            "invoices.finalize",
            self._invoices.finalize_invoice_async,
            draft,
            params,
            {"idempotency_key": f"{key}-finalize"},
        )
        return decode_answer(StripeInvoice, body_of(final))

    async def _discard(self, draft: str, error: StripeError) -> StripeInvoice:
        """Delete the draft and raise `error`; or return the invoice, where it is open after all."""
        try:
            params: Any = {"expand": EXPANDED}
            read = await self._client.call("invoices.retrieve", self._invoices.retrieve_async, draft, params)
            invoice = decode_answer(StripeInvoice, body_of(read))
            if invoice.status != "draft":
                return invoice  # only the answer was lost
            await self.delete_draft(draft)
        except StripeRefused as refused:
            if not refused.is_missing:  # else it was deleted before, and Stripe repeats an answer
                log.warning("draft_not_deleted", invoice=draft, error=str(refused))
                raise StripeUnavailable(str(error)) from refused
        except StripeUnavailable as unavailable:
            log.warning("draft_not_deleted", invoice=draft, error=str(unavailable))
            raise StripeUnavailable(str(error)) from unavailable
        if isinstance(error, StripeRefused):
            raise error
        raise StripeUnavailable(str(error), final=True) from error

    async def delete_draft(self, draft: str, max_wait_s: float | None = None) -> None:
        """Delete a draft, and its items first: they might wait for the customer's next invoice otherwise.

        Raises StripeRefused where it is no draft any more, or gone.
        """
        params: Any = {"invoice": draft, "limit": 100}
        listed = await self._client.call(
            "invoice_items.list", self._items.list_async, params, max_wait_s=max_wait_s
        )
        for item in listed.data:
            await self._client.call(
                "invoice_items.delete", self._items.delete_async, item.id, max_wait_s=max_wait_s
            )
        await self._client.call("invoices.delete", self._invoices.delete_async, draft, max_wait_s=max_wait_s)
