"""Voids top-ups that were never paid, so that they end at Stripe and here.

Stripe itself ends an unpaid first subscription, and an unpaid plan change, after 23 hours; an
invoice that is made by itself stays open for ever. Only invoices that Paidup made are voided (their
metadata says so), and none whose payment is processing, waits for a voucher to be paid, or has
succeeded, even in part. An invoice that is already void, or paid at the same moment, is read again
and settled.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from paidup.db.models import Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.payment_facts import Source
from paidup.errors import StripeRefused
from paidup.payments.verification import Verification
from paidup.runtime.clock import Clock
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.rate_limiter import BACKGROUND_MAX_WAIT_S
from paidup.stripe_api.schemas import PURCHASE_METADATA_KEY, TOP_UP, StripeInvoice

log = structlog.get_logger(__name__)

VOIDABLE_INTENTS = frozenset(
    {"requires_payment_method", "requires_confirmation", "requires_action", "canceled"}
)
"""No money has moved. https://docs.stripe.com/payments/paymentintents/lifecycle"""


class AbandonedPurchases:
    """Those whose invoice was finalized `after` ago, by Stripe's calendar (`clock`)."""

    def __init__(
        self, gateway: StripeGateway, verification: Verification, clock: Clock, after: timedelta
    ) -> None:
        self._gateway = gateway
        self._verification = verification
        self._clock = clock
        self._after = after

    def may_include(self, row: Invoice) -> bool:
        """Whether the row looks like one. `end` asks Stripe before it voids anything."""
        by_itself = row.subscription is None and row.billing_reason == "manual"
        old = self._clock() - (row.finalized_at or row.created_at) >= self._after
        return by_itself and old and row.status is not InvoiceStatus.PROCESSING

    async def end(self, row: Invoice) -> None:
        """Read the invoice, settle what Stripe says, and void it if it is abandoned. Raises StripeError."""
        if is_voidable(await self._read_and_settle(row.id)):
            try:
                voided = await self._gateway.void_invoice(row.id, BACKGROUND_MAX_WAIT_S)
            except StripeRefused as error:
                # Paid or voided at this moment, or its payment has begun.
                log.info("abandoned_purchase_not_voided", invoice=row.id, error=str(error))
                await self._read_and_settle(row.id)
                return
            log.info("abandoned_purchase_voided", invoice=row.id)
            await self._verification.settle(voided.facts(), Source.RECONCILIATION)

    async def _read_and_settle(self, invoice: str) -> StripeInvoice:
        read = await self._gateway.read_invoice(invoice, BACKGROUND_MAX_WAIT_S)
        await self._verification.settle(read.facts(), Source.RECONCILIATION)
        return read


def is_voidable(invoice: StripeInvoice) -> bool:
    """Whether it is a top-up of Paidup's own that is open, and that no money has reached."""
    payments = invoice.facts().payments
    return (
        invoice.status == "open"
        and invoice.amount_paid == 0
        and (invoice.metadata or {}).get(PURCHASE_METADATA_KEY) == TOP_UP
        and all(each.status in VOIDABLE_INTENTS and each.voucher is None for each in payments)
    )
