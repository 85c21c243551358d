"""Finds Checkout Sessions that were paid, and whose events were all lost, in Stripe's list.

A Payment Link, a pricing table or the dashboard may have made them, so that nothing here knows of them.
A list shows no prices: one that is new here is read once, and remembered where it sells no plan. None that
was made before this installation is looked at: what it sold was given out elsewhere.
"""

from __future__ import annotations

import structlog

from paidup.db.connection import storage_errors
from paidup.db.installation import installed_at
from paidup.db.models import CheckoutSession
from paidup.domain.payment_facts import Source
from paidup.errors import StripeRefused
from paidup.payments.checkout_rows import awaits_claim
from paidup.payments.checkout_verification import CheckoutVerification
from paidup.payments.outcomes import Outcome, Settled
from paidup.reconciliation.list_scanner import Scan
from paidup.stripe_api.checkout_schemas import EXPIRED
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.rate_limiter import BACKGROUND_MAX_WAIT_S

log = structlog.get_logger(__name__)

DAY_S = 24 * 3600
LOOKBACK_S = DAY_S + 3600
"""A session can be paid for a day after it was made: https://docs.stripe.com/api/checkout/sessions/create"""
MAX_IGNORED = 10_000
"""How many sessions of other products are remembered."""
_FOUND = (Outcome.SETTLED, Outcome.UNCLAIMED)
_IGNORED = (Outcome.IRRELEVANT, Outcome.NOT_OURS, Outcome.PAID_ELSEWHERE)


class CompletedSessions:
    def __init__(self, gateway: StripeGateway, checkouts: CheckoutVerification) -> None:
        self._sessions = gateway.checkout_sessions
        self._checkouts = checkouts
        self._ignored: set[str] = set()
        self.scan = Scan("completed_sessions", 300, 2 * 3600, LOOKBACK_S, 30 * DAY_S, self._handle_page)

    async def _handle_page(self, since: int, after: str | None) -> tuple[int, str | None, bool]:
        since = max(since, int((await installed_at()).timestamp()))
        page = await self._sessions.list_complete(since, after, BACKGROUND_MAX_WAIT_S)
        with storage_errors():
            rows = await CheckoutSession.filter(id__in=[listed.id for listed in page.data])
        known = {row.id for row in rows if row.invoice is not None or awaits_claim(row)} | self._ignored
        over = {row.id for row in rows if row.status == EXPIRED}
        new = [listed.id for listed in page.data if listed.id not in known]
        outcomes = [await self._verify(session, session in over) for session in new]
        found = sum(outcome in _FOUND for outcome in outcomes)
        return found, page.data[-1].id if page.data else None, page.has_more

    async def _verify(self, session: str, thought_over: bool) -> Outcome | None:
        settled: Settled | None
        try:
            if thought_over:
                settled = await self._checkouts.refresh(session, Source.RECONCILIATION)
            else:
                settled = await self._checkouts.verify(session, Source.RECONCILIATION, BACKGROUND_MAX_WAIT_S)
        except StripeRefused as error:
            # A failure of this one: the others are still handled.
            log.warning("session_not_read", checkout=session, error=str(error))
            return None
        if settled is None:
            return None
        if settled.outcome in _IGNORED and len(self._ignored) < MAX_IGNORED:
            self._ignored.add(session)  # or each listing of it would cost a call to Stripe
        return settled.outcome
