"""Handles the events of Checkout Sessions, inside the answer to the webhook.

Stripe's page waits up to ten seconds for that answer before it sends the customer back:
https://docs.stripe.com/checkout/fulfillment. An event costs no call where its invoice is settled here
already, as after `invoice.paid`; else one, which reads the session with its invoice.
"""

from __future__ import annotations

from paidup.db.connection import storage_errors
from paidup.db.models import CheckoutSession, Invoice
from paidup.domain.payment_facts import Source
from paidup.payments.checkout_verification import CheckoutVerification
from paidup.payments.outcomes import Outcome
from paidup.stripe_api.checkout_schemas import EXPIRED, StripeCheckoutSession
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.events import Event, payload

CHECKOUT_TYPES = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
)


class CheckoutEvents:
    def __init__(self, checkouts: CheckoutVerification) -> None:
        self._checkouts = checkouts

    async def handle(self, event: Event, source: Source) -> Outcome:
        """Do what the event calls for. Raises StripeError, StorageUnavailable."""
        session = event.about()
        with storage_errors():
            known = await CheckoutSession.filter(id=session).only("id", "invoice").first()
        shown = payload(event, StripeCheckoutSession, API_VERSION)
        if event.kind == "checkout.session.expired":
            return await self._expired(session, shown, known is not None, source)
        if shown is not None and isinstance(shown.invoice, str) and await _is_known(shown.invoice):
            settled = await self._checkouts.take(shown, source)
            if settled.outcome is Outcome.ALREADY_SETTLED:
                return settled.outcome
        if shown is not None and known is not None:
            await self._checkouts.keep(shown)  # what follows may end at the invoice
        return (await self._checkouts.refresh(session, source)).outcome

    async def _expired(
        self, session: str, shown: StripeCheckoutSession | None, known: bool, source: Source
    ) -> Outcome:
        """It is over, and nothing was paid. One that is not known here is nobody's."""
        if not known:
            return Outcome.IRRELEVANT
        if shown is None or shown.status != EXPIRED:
            return (await self._checkouts.refresh(session, source)).outcome
        await self._checkouts.take(shown, source)
        return Outcome.NOTIFIED


async def _is_known(invoice: str) -> bool:
    """Else it has to be read: its metadata may say whose the session is."""
    with storage_errors():
        return await Invoice.exists(id=invoice)
