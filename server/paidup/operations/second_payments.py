"""What an operator does about a second payment for one purchase, or one of nobody's (`paidup resolve`).

Refund it: its subscription ends now, the money goes back, and its credits with it. Or leave its credits
to the customer: its subscription ends with its period, so that it is not charged again. Or keep both.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from paidup.db.connection import storage_errors
from paidup.db.models import CheckoutSession
from paidup.domain.entitlements import ENDED
from paidup.domain.payment_facts import Source
from paidup.errors import Conflict, NotFound, StripeRefused
from paidup.payments.checkout_rows import awaits_claim
from paidup.payments.refunds import ReversalHandler
from paidup.runtime.clock import now
from paidup.stripe_api.gateway import StripeGateway


class Remedy(StrEnum):
    REFUND = "refund"
    CREDIT = "credit"
    KEEP = "keep"


_RESOLUTIONS = {Remedy.REFUND: "refunded", Remedy.CREDIT: "credited", Remedy.KEEP: "kept"}


class Resolved(msgspec.Struct, frozen=True):
    """`duplicate_of` None: it belonged to nobody. `refund` is Stripe's, where one was made; None where the
    money had gone back before.
    """

    checkout: str
    duplicate_of: str | None
    resolution: str
    refund: str | None = None


class SecondPaymentRemedies:
    def __init__(self, gateway: StripeGateway, reversals: ReversalHandler) -> None:
        self._gateway = gateway
        self._reversals = reversals

    async def resolve(self, session: str, remedy: Remedy) -> Resolved:
        """Do it, and end the alarm. Doing it again changes nothing.

        Raises NotFound, Conflict where something else was done, StripeError, StorageUnavailable.
        """
        with storage_errors():
            row = await CheckoutSession.get_or_none(id=session)
        if row is None or (row.duplicate_of is None and not awaits_claim(row)):
            raise NotFound(f"{session} is no second payment, nor one that belongs to nobody.")
        if row.duplicate_of is None and remedy is Remedy.CREDIT:
            raise Conflict(f"{session} belongs to nobody: `paidup claim-link` makes a link to claim it.")
        resolution, refund = _RESOLUTIONS[remedy], None
        if row.resolution not in (None, resolution):
            raise Conflict(f"{session} was {row.resolution} already. Nothing was done.")
        if row.resolution is None:
            if remedy is Remedy.REFUND:
                refund = await self._refund(row)
            elif remedy is Remedy.CREDIT and row.subscription:
                await self._gateway.cancel_at_period_end(row.subscription, True)
            with storage_errors():
                await CheckoutSession.filter(id=session).update(resolution=resolution, resolved_at=now())
        return Resolved(session, row.duplicate_of, resolution, refund)

    async def _refund(self, row: CheckoutSession) -> str | None:
        """End its subscription first: what is refunded must not be charged again."""
        if row.subscription:
            await self._end(row.subscription)
        invoice = await self._gateway.read_invoice(row.invoice or row.id)
        intent = invoice.intent_id or row.payment_intent
        if intent is None:
            raise Conflict(f"{row.id} has no payment that could be refunded. `--keep` ends the alarm.")
        refund = await self._gateway.refunds.create(intent, f"paidup-second-payment-{row.id}")
        if refund is None:
            return None
        await self._reversals.handle(refund, Source.RECONCILIATION, now())
        return refund.id

    async def _end(self, subscription: str) -> None:
        try:
            await self._gateway.cancel_subscription(subscription)
        except StripeRefused:
            if (await self._gateway.read_subscription(subscription)).status not in ENDED:
                raise
