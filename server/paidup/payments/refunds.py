"""Handles refunds, disputes and credit notes: finds the invoice that each is about, and reverses credits.

Where the object does not name its invoice, Stripe is asked. The settlement moves the credits.
"""

from __future__ import annotations

import msgspec

from paidup.credits.reversals import ReversalNews
from paidup.db.connection import storage_errors
from paidup.db.models import Invoice, ReversalKind
from paidup.domain.payment_facts import Source
from paidup.payments.outcomes import Outcome
from paidup.payments.settlement import Settlement
from paidup.payments.verification import Verification
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.schemas import CreditNote, Dispute, Refund

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

    async def read(self, kind: ReversalKind, object_id: str) -> StripeReversal:
        """The object as it is now, read through the API. Raises StripeError."""
        return await self._gateway.read_reversal(REVERSAL_STRUCTS[kind], object_id)

    async def handle(self, reversal: StripeReversal, source: Source) -> Outcome:
        """Have the settlement apply `reversal` to its invoice. Safe to call any number of times.

        Raises StripeError, StorageUnavailable.
        """
        invoice = await self._find_invoice(reversal)
        if invoice is None:
            return Outcome.IRRELEVANT
        with storage_errors():
            known = await Invoice.exists(id=invoice)
        if not known:
            # The refund arrived before the payment: settle the invoice first.
            settled, _ = await self._verification.read(invoice, source)
            if settled.status is None:
                return settled.outcome
        return await self._settlement.reverse(_news(reversal, invoice))

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
        return row.id if row else await self._gateway.invoice_of_intent(intent)


def _news(reversal: StripeReversal, invoice: str) -> ReversalNews:
    amount = reversal.besides_refunds if isinstance(reversal, CreditNote) else reversal.amount
    status = reversal.status or "succeeded"  # a refund paid outside of Stripe shows none
    return ReversalNews(reversal.id, _KINDS[type(reversal)], invoice, amount, status)


def decode_reversal(kind: ReversalKind, data: msgspec.Raw) -> StripeReversal:
    """The object of an event. The fields of refunds and disputes are the same in all API versions."""
    return msgspec.json.decode(data, type=REVERSAL_STRUCTS[kind])
