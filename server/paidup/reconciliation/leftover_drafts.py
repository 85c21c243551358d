"""Deletes drafts of top-ups that were never finished: the process died between two of Stripe's calls.

Stripe keeps such a draft for ever. One page of Stripe's drafts is read a day, and only what Paidup made (its
metadata says so) is deleted, once nobody can go on with it: see `MIN_AGE`.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from paidup.errors import StripeRefused
from paidup.reconciliation.list_scanner import Scan
from paidup.runtime.clock import Clock
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.rate_limiter import BACKGROUND_MAX_WAIT_S
from paidup.stripe_api.schemas import PURCHASE_METADATA_KEY, TOP_UP, StripeInvoice

log = structlog.get_logger(__name__)

DAY_S = 24 * 3600
MIN_AGE = timedelta(hours=30)
"""The next try of the purchase goes on with the draft, as long as Stripe keeps its idempotency key: a day.
https://docs.stripe.com/api/idempotent_requests"""


class LeftoverDrafts:
    """Those that were made `after` ago, by Stripe's calendar (`clock`), and at least `MIN_AGE`."""

    def __init__(self, gateway: StripeGateway, clock: Clock, after: timedelta) -> None:
        self._gateway = gateway
        self._clock = clock
        self._after = max(after, MIN_AGE)
        lookback_s = int(self._after.total_seconds()) + 2 * DAY_S
        self.scan = Scan("leftover_drafts", DAY_S, DAY_S, lookback_s, 30 * DAY_S, self._handle_page)

    async def _handle_page(self, since: int, after: str | None) -> tuple[int, str | None, bool]:
        page = await self._gateway.list_drafts(since, after, BACKGROUND_MAX_WAIT_S)
        found = [each for each in page.data if self._is_leftover(each)]
        deleted = [await self._delete(each.id) for each in found]
        # A draft that is deleted cannot be what the next page begins after: then the next round starts over.
        return sum(deleted), page.data[-1].id if page.data else None, page.has_more

    def _is_leftover(self, invoice: StripeInvoice) -> bool:
        own = (invoice.metadata or {}).get(PURCHASE_METADATA_KEY) == TOP_UP
        age_s = self._clock().timestamp() - invoice.created
        return own and invoice.status == "draft" and age_s >= self._after.total_seconds()

    async def _delete(self, draft: str) -> bool:
        try:
            await self._gateway.one_time_invoices.delete_draft(draft, BACKGROUND_MAX_WAIT_S)
        except StripeRefused as error:  # finalised or deleted at this moment
            log.info("leftover_draft_not_deleted", invoice=draft, error=str(error))
            return False
        log.info("leftover_draft_deleted", invoice=draft)
        return True
