"""Clawbacks: from what Stripe says of a refund, a dispute or a credit note to the invoice that it is about.

Owns the way from a PaymentIntent or a charge to an invoice that is known here, asking Stripe
where the object does not say. Refuses to move credits: the settlement does.
"""

from __future__ import annotations

import msgspec

from paidup.credits.reversals import ReversalNews
from paidup.db.connection import storage_errors
from paidup.db.models import Invoice, ReversalKind
from paidup.domain.payment_facts import Source
from paidup.payments.settlement import Outcome, Settlement
from paidup.payments.verification import Verification
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.schemas import CreditNote, Dispute, Refund

Shape = Refund | Dispute | CreditNote
SHAPES: dict[ReversalKind, type[Refund] | type[Dispute] | type[CreditNote]] = {
    ReversalKind.REFUND: Refund,
    ReversalKind.DISPUTE: Dispute,
    ReversalKind.CREDIT_NOTE: CreditNote,
}
_KINDS = {shape: kind for kind, shape in SHAPES.items()}


class ReversalHandler:
    def __init__(self, gateway: StripeGateway, verification: Verification, settlement: Settlement) -> None:
        self._gateway = gateway
        self._verification = verification
        self._settlement = settlement

    async def read(self, kind: ReversalKind, object_id: str) -> Shape:
        """The object as it is now, through the API. Raises StripeError."""
        return await self._gateway.read_reversal(SHAPES[kind], object_id)

    async def take_up(self, shape: Shape, source: Source) -> Outcome:
        """Have the settlement reverse what `shape` calls for. Safe to call any number of times.

        Raises StripeError, StorageUnavailable.
        """
        invoice = await self._invoice(shape)
        if invoice is None:
            return Outcome.IRRELEVANT
        with storage_errors():
            known = await Invoice.exists(id=invoice)
        if not known:
            # The money went back before we heard that it came: take up the invoice first.
            settled, _ = await self._verification.read(invoice, source)
            if settled.status is None:
                return settled.outcome
        return await self._settlement.reverse(_news(shape, invoice))

    async def _invoice(self, shape: Shape) -> str | None:
        if isinstance(shape, CreditNote):
            return shape.invoice
        intent = shape.payment_intent
        if intent is None and shape.charge:
            intent = await self._gateway.intent_of_charge(shape.charge)
        if intent is None:
            return None
        with storage_errors():
            row = await Invoice.filter(payment_intent=intent).only("id").first()
        return row.id if row else await self._gateway.invoice_of_intent(intent)


def _news(shape: Shape, invoice: str) -> ReversalNews:
    amount = shape.besides_refunds if isinstance(shape, CreditNote) else shape.amount
    status = shape.status or "succeeded"  # a refund outside of Stripe's rails shows none
    return ReversalNews(shape.id, _KINDS[type(shape)], invoice, amount, status)


def decoded(kind: ReversalKind, data: msgspec.Raw) -> Shape:
    """The object of an event. A refund's and a dispute's fields have not changed with the versions."""
    return msgspec.json.decode(data, type=SHAPES[kind])
