"""Renewals under way: when Stripe collects them, and their collection at once where a plan asks for it.

Stripe makes a renewal's invoice as a draft, finalises it about an hour later and then charges the customer
(https://docs.stripe.com/billing/invoices/subscription). A plan with `collect_renewals = "at_once"` has the
draft finalised and paid as soon as it is known here. Where that fails, Stripe collects it as usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import structlog

from paidup.credits.renewal_grace import RENEWAL, facts_of
from paidup.db.connection import storage_errors
from paidup.db.models import Invoice, Subscription
from paidup.domain.catalog import Catalogue, CollectRenewals, StripePrice
from paidup.domain.entitlements import IN_GOOD_STANDING
from paidup.domain.payment_facts import Source
from paidup.domain.quotes import quote
from paidup.domain.renewals import DRAFT_FOR
from paidup.errors import StripeError
from paidup.payments.outcomes import EventOutcome
from paidup.payments.verification import Verification
from paidup.runtime.clock import at_unix
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.schemas import StripeInvoice

log = structlog.get_logger(__name__)


class Renewal(msgspec.Struct, frozen=True):
    """A renewal that is not paid yet. `since`: when its period began. `expected_at` None: not known.

    `invoice` is None as long as it is not known here. `reason` is Stripe's `billing_reason`.
    """

    subscription: str
    plan: str | None
    invoice: str | None
    since: datetime
    expected_at: datetime | None
    reason: str = RENEWAL


async def renewal_under_way(rows: Sequence[Subscription], at: datetime) -> Renewal | None:
    """The first renewal of these subscriptions that Stripe is collecting, or will within the hour."""
    for row in rows:
        if row.status in IN_GOOD_STANDING and (found := await _under_way(row, at)):
            return found
    return None


async def _under_way(row: Subscription, at: datetime) -> Renewal | None:
    with storage_errors():
        known = await facts_of(row.id, row)
        since = known.paid_until
        if since is None or since > at or (known.failed_until and known.failed_until > since):
            return None
        if row.cancel_at and row.cancel_at <= since:
            return None
        settled = await Invoice.exists(id=row.latest_invoice, settled_at__not_isnull=True)
    expected = row.collection_at if row.collection_at and row.collection_at > since else since + DRAFT_FOR
    invoice = None if settled else row.latest_invoice
    return Renewal(row.id, row.plan, invoice, since, expected if expected > at else None)


class Renewals:
    def __init__(
        self,
        gateway: StripeGateway,
        catalogue: Catalogue,
        prices: Mapping[str, StripePrice],
        verification: Verification,
    ) -> None:
        self._gateway = gateway
        self._catalogue = catalogue
        self._prices = prices
        self._verification = verification

    @staticmethod
    def renews(draft: StripeInvoice) -> bool:
        """Whether `on_draft` may do something for it."""
        return draft.status == "draft" and _renews(draft)

    async def on_draft(self, draft: StripeInvoice, source: Source) -> EventOutcome:
        """A draft was made: note when Stripe finalises it, or collect it now. No StripeError is raised."""
        row = await self._find(draft)
        if row is None or draft.status != "draft":
            return EventOutcome.SKIPPED
        await self._note(row, draft.automatically_finalizes_at)
        if not self._is_collected_at_once(draft):
            return EventOutcome.NOT_YET
        return await self._collect(draft, source)

    async def on_failed_attempt(self, invoice: StripeInvoice) -> None:
        """A collection failed: note when Stripe tries again."""
        row = await self._find(invoice)
        if row is not None:
            await self._note(row, invoice.next_payment_attempt)

    async def _find(self, invoice: StripeInvoice) -> Subscription | None:
        """The row of the subscription that this invoice renews; None if it renews none that is known here."""
        if not _renews(invoice):
            return None
        with storage_errors():
            return await Subscription.get_or_none(id=invoice.subscription_id)

    async def _note(self, row: Subscription, moment: int | None) -> None:
        collection_at = at_unix(moment) if moment else None
        with storage_errors():
            await Subscription.filter(id=row.id).update(collection_at=collection_at)

    def _is_collected_at_once(self, draft: StripeInvoice) -> bool:
        """Whether all that it bills is ours, Stripe would collect it by itself, and its plan says so."""
        facts = draft.facts().invoice
        if facts is None or not (draft.auto_advance and draft.collection_method == "charge_automatically"):
            return False
        quoted = quote(facts.lines, self._catalogue, self._prices)
        plan = self._catalogue.find(quoted.plan)
        known = quoted.complete and not quoted.unknown_prices
        if plan is None or not (known and facts.lines_complete):
            return False
        return plan.collect_renewals is CollectRenewals.AT_ONCE

    async def _collect(self, draft: StripeInvoice, source: Source) -> EventOutcome:
        try:
            collected = await self._gateway.collect_invoice(draft.id)
        except StripeError as error:
            # Declined, or Stripe is busy: it collects by itself later, and its events say how that goes.
            log.info("renewal_not_collected", invoice=draft.id, error=str(error))
            return EventOutcome.NOT_YET
        settled = await self._verification.settle(collected.facts(), source)
        return EventOutcome(settled.outcome.value)


def _renews(invoice: StripeInvoice) -> bool:
    return invoice.billing_reason == RENEWAL and invoice.subscription_id is not None
