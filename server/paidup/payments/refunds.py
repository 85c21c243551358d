"""Handles refunds, disputes and credit notes: finds the invoice that each is about, and reverses credits.

Where the object does not name its invoice, Stripe is asked. An event's payload may be older than what is
stored, and no status is the last one: what Stripe says now is read. The settlement moves the credits.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from paidup.credits.reversals import ReversalNews, is_changed
from paidup.db.connection import storage_errors
from paidup.db.models import Invoice, Reversal, ReversalKind
from paidup.domain.payment_facts import Source
from paidup.payments.outcomes import Outcome
from paidup.payments.settlement import Settlement
from paidup.payments.unclaimed import unclaimed_payments
from paidup.payments.verification import Verification
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import SESSION_PREFIX
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.reversal_schemas import CreditNote, Dispute, Refund
from paidup.stripe_api.schemas import StripeInvoice

StripeReversal = Refund | Dispute | CreditNote
REVERSAL_STRUCTS: dict[ReversalKind, type[Refund] | type[Dispute] | type[CreditNote]] = {
    ReversalKind.REFUND: Refund,
    ReversalKind.DISPUTE: Dispute,
    ReversalKind.CREDIT_NOTE: CreditNote,
}
_KINDS = {type_: kind for kind, type_ in REVERSAL_STRUCTS.items()}


class ReversalHandler:
    def __init__(self, gateway: StripeGateway, verification: Verification, settlement: Settlement) -> None:
        self._gateway = gateway
        self._verification = verification
        self._settlement = settlement

    async def read_and_handle(self, kind: ReversalKind, object_id: str, source: Source) -> Outcome:
        """Read the object as it is now, and handle that. Raises StripeError, StorageUnavailable."""
        fetched_at = now()
        reversal = await self._gateway.read_reversal(REVERSAL_STRUCTS[kind], object_id)
        return await self.handle(reversal, source, fetched_at)

    async def handle(
        self, reversal: StripeReversal, source: Source, fetched_at: datetime | None = None
    ) -> Outcome:
        """Have the settlement apply `reversal` to its invoice. Safe to call any number of times.

        `fetched_at` is when Stripe was asked for it; None for an event's payload, which is read again where
        it differs from what is stored. Raises StripeError, StorageUnavailable.
        """
        invoice = await self._find_invoice(reversal)
        if invoice is None:
            return Outcome.IRRELEVANT
        with storage_errors():
            known = await Invoice.exists(id=invoice)
        if not known:
            # The refund arrived before the payment: settle the invoice first.
            settled, read = await self._verification.read(invoice, source)
            if settled.status is None:
                if settled.outcome is Outcome.UNCLAIMED and isinstance(reversal, Refund):
                    await _end_unclaimed(reversal)
                stands_for_it = await _session_instead(read)
                if stands_for_it is None:
                    return settled.outcome
                invoice = stands_for_it
        if fetched_at is None:
            if not await _differs(reversal):
                return Outcome.ALREADY_SETTLED
            fetched_at = now()
            reversal = await self._gateway.read_reversal(type(reversal), reversal.id)
        return await self._settlement.reverse(_news(reversal, invoice, fetched_at))

    async def _find_invoice(self, reversal: StripeReversal) -> str | None:
        if isinstance(reversal, CreditNote):
            return reversal.invoice
        intent = reversal.payment_intent
        if intent is None and reversal.charge:
            intent = await self._gateway.intent_of_charge(reversal.charge)
        if intent is None:
            return None
        with storage_errors():
            row = await Invoice.filter(payment_intent=intent).only("id").first()
        if row is not None:
            return row.id
        return await self._gateway.invoice_of_intent(intent) or await self._session_of(intent)

    async def _session_of(self, intent: str) -> str | None:
        """The Checkout Session that a PaymentIntent has paid without an invoice, or None."""
        session = await self._gateway.checkout_sessions.of_intent(intent)
        return session.id if session and session.has_no_invoice else None


async def _session_instead(invoice: StripeInvoice) -> str | None:
    """The session whose row stands for this invoice, which Stripe made when its bank debit had succeeded."""
    if invoice.intent_id is None:
        return None
    with storage_errors():
        sessions = Invoice.filter(id__startswith=SESSION_PREFIX, payment_intent=invoice.intent_id)
        row = await sessions.only("id").first()
    return row.id if row else None


async def _end_unclaimed(refund: Refund) -> None:
    """Nobody has to be found for a payment that went back as a whole. A claim gives nothing then."""
    if refund.status == "succeeded" and refund.payment_intent:
        paid = unclaimed_payments().filter(payment_intent=refund.payment_intent)
        whole = paid.filter(amount_minor__lte=refund.amount)
        with storage_errors():
            await whole.update(resolution="refunded", resolved_at=now())


async def _differs(reversal: StripeReversal) -> bool:
    with storage_errors():
        known = await Reversal.get_or_none(id=reversal.id)
    return known is None or is_changed(known, *_state(reversal))


def _state(reversal: StripeReversal) -> tuple[str, int, bool | None]:
    """Status, amount in minor units, and whether a dispute's money is away."""
    amount = reversal.besides_refunds if isinstance(reversal, CreditNote) else reversal.amount
    status = reversal.status or "succeeded"  # a refund paid outside of Stripe shows none
    return status, amount, reversal.withdrawn if isinstance(reversal, Dispute) else None


def _news(reversal: StripeReversal, invoice: str, fetched_at: datetime) -> ReversalNews:
    status, amount, withdrawn = _state(reversal)
    return ReversalNews(reversal.id, kind_of(reversal), invoice, amount, status, fetched_at, withdrawn)


def kind_of(reversal: StripeReversal) -> ReversalKind:
    return _KINDS[type(reversal)]


def decode_reversal(kind: ReversalKind, data: msgspec.Raw) -> StripeReversal:
    """The object of an event. The fields of refunds and disputes are the same in all API versions."""
    return msgspec.json.decode(data, type=REVERSAL_STRUCTS[kind])
