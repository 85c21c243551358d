"""Scans Stripe's lists for what was never delivered: events, paid invoices, refunds and disputes.

Each method is one bounded sweep, and goes on where the last one stopped (see `list_scanner.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial

import msgspec
import structlog

from paidup.db.models import EventSource, Invoice, Reversal, ReversalKind, StripeEvent
from paidup.domain.payment_facts import Source
from paidup.errors import StripeRefused
from paidup.payments.outcomes import Outcome
from paidup.payments.refunds import REVERSAL_STRUCTS, ReversalHandler, StripeReversal, kind_of
from paidup.payments.verification import Verification
from paidup.reconciliation.checkout_events import CHECKOUT_TYPES
from paidup.reconciliation.completed_sessions import CompletedSessions
from paidup.reconciliation.leftover_drafts import LeftoverDrafts
from paidup.reconciliation.list_scanner import Pace, Scan, scan
from paidup.reconciliation.read_budget import read_use
from paidup.reconciliation.stripe_events import PAYMENT_TYPES, REVERSAL_TYPES, Events, store
from paidup.reconciliation.webhook_health import webhooks_are_doubted
from paidup.runtime.clock import now
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.events import Event, EventData
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.rate_limiter import BACKGROUND_MAX_WAIT_S
from paidup.stripe_api.schemas import StripeInvoice, decode

log = structlog.get_logger(__name__)

HOUR_S = 3600
DAY_S = 24 * HOUR_S
MAX_IGNORED_REVERSALS = 10_000
"""How many refunds and disputes of unrelated payments are remembered."""


class ListSweeps:
    def __init__(
        self,
        gateway: StripeGateway,
        verification: Verification,
        events: Events,
        reversals: ReversalHandler,
        drafts: LeftoverDrafts,
        sessions: CompletedSessions,
        reads_per_month: int,
    ) -> None:
        self._reads_per_month = reads_per_month
        self._begun: set[str] = set()
        self._gateway = gateway
        self._verification = verification
        self._events = events
        self._reversal_handler = reversals
        self._drafts = drafts
        self._sessions = sessions
        self._ignored: set[str] = set()
        # Stripe takes at most twenty event types in one request.
        self._event_scans = [
            Scan(name, 60, 1.5 * HOUR_S, 3 * DAY_S, 30 * DAY_S, partial(self._handle_events, types))
            for name, types in (
                ("undelivered_events", PAYMENT_TYPES),
                ("undelivered_reversals", (*REVERSAL_TYPES, *CHECKOUT_TYPES)),
            )
        ]
        self._reversal_scans = [
            Scan(f"{kind}s", 300, 3 * HOUR_S, DAY_S, 30 * DAY_S, partial(self._handle_reversals, kind))
            for kind in ReversalKind
        ]
        self._invoice_scan = Scan(
            "paid_invoices", 300, 2 * HOUR_S, DAY_S + HOUR_S, 30 * DAY_S, self._settle_invoices
        )

    async def undelivered_events(self) -> int:
        """Store and handle events that Stripe could not deliver, up to 30 days back."""
        return await self._scan(*self._event_scans)

    async def _scan(self, *scans: Scan) -> int:
        pace = await self._pace()
        found = 0
        for each in scans:
            begun = each.name in self._begun
            found += await scan(each, pace if begun or pace is Pace.STOPPED else Pace.OFTEN)
            self._begun.add(each.name)
        return found

    async def _pace(self) -> Pace:
        """How often the scans run now: see `webhook_health.py` and `read_budget.py`."""
        at = now()
        if (await read_use(self._reads_per_month, at)).used_up:
            return Pace.STOPPED
        return Pace.OFTEN if await webhooks_are_doubted(at) else Pace.AT_REST

    async def _handle_events(
        self, types: Sequence[str], since: int, after: str | None
    ) -> tuple[int, str | None, bool]:
        page = await self._gateway.list_undelivered_events(types, since, after, BACKGROUND_MAX_WAIT_S)
        last, found = None, 0
        for raw in page.data:
            event = decode(Event, raw)
            last = event.id
            # An event that is stored already is handled by the process that stored it, or is due later.
            if not await StripeEvent.exists(id=event.id) and await store(
                event, bytes(raw).decode(), EventSource.LIST
            ):
                found += 1
                await self._events.retry(await StripeEvent.get(id=event.id))
        return found, last, page.has_more

    async def paid_invoices(self) -> int:
        """Settle paid invoices whose events were answered 200 and lost, or never sent."""
        return await self._scan(self._invoice_scan)

    async def _settle_invoices(self, since: int, after: str | None) -> tuple[int, str | None, bool]:
        page = await self._gateway.list_paid_invoices(since, after, BACKGROUND_MAX_WAIT_S)
        settled = Invoice.filter(id__in=[listed.id for listed in page.data], settled_at__not_isnull=True)
        known = {row.id for row in await settled.only("id")}
        missing = [listed for listed in page.data if listed.id not in known]
        outcomes = [await self.settle_paid(listed) for listed in missing]
        return (
            outcomes.count(Outcome.SETTLED),
            page.data[-1].id if page.data else None,
            page.has_more,
        )

    async def settle_paid(self, listed: StripeInvoice) -> Outcome:
        """Settle an invoice that a list showed as paid; where the list shows only part of it, read it."""
        return (await self._verification.settle_paid(listed, Source.RECONCILIATION)).outcome

    async def completed_sessions(self) -> int:
        """Settle Checkout Sessions, made here or elsewhere, of which nothing was heard."""
        return await self._scan(self._sessions.scan)

    async def leftover_drafts(self) -> int:
        """Delete drafts of top-ups that were never finished: once a day."""
        return await self._scan(self._drafts.scan)

    async def reversals(self) -> int:
        """Handle refunds, disputes and credit notes whose events were lost or never sent."""
        return await self._scan(*self._reversal_scans)

    async def _handle_reversals(
        self, kind: ReversalKind, since: int, after: str | None
    ) -> tuple[int, str | None, bool]:
        fetched_at = now()
        page = await self._gateway.list_reversals(REVERSAL_STRUCTS[kind], since, after, BACKGROUND_MAX_WAIT_S)
        rows = await Reversal.filter(id__in=[listed.id for listed in page.data]).only("id", "status")
        known = {(row.id, row.status) for row in rows}
        news = [
            listed
            for listed in page.data
            if (listed.id, listed.status) not in known and listed.id not in self._ignored
        ]
        outcomes = [await self._handle_reversal(listed, fetched_at) for listed in news]
        return outcomes.count(Outcome.SETTLED), page.data[-1].id if page.data else None, page.has_more

    async def _handle_reversal(self, listed: StripeReversal, fetched_at: datetime) -> Outcome | None:
        try:
            outcome = await self._reversal_handler.handle(listed, Source.RECONCILIATION, fetched_at)
        except StripeRefused as error:
            # A failure of this one: the others are still handled.
            log.warning("reversal_failed", reversal=listed.id, error=str(error))
            return None
        if (
            outcome in (Outcome.IRRELEVANT, Outcome.PAID_ELSEWHERE)
            and len(self._ignored) < MAX_IGNORED_REVERSALS
        ):
            self._ignored.add(listed.id)  # or each listing of it would cost a call to Stripe
        if outcome is Outcome.UNCLAIMED:
            await self._keep_until_claimed(listed)
        return outcome

    async def _keep_until_claimed(self, listed: StripeReversal) -> None:
        """Store what its event would have said: a claim may come when no list goes back so far."""
        event, body = listed_event(listed)
        if not await StripeEvent.exists(id=event.id) and await store(event, body, EventSource.LIST):
            await self._events.retry(await StripeEvent.get(id=event.id))


def listed_event(listed: StripeReversal) -> tuple[Event, str]:
    """An event that says what a list has shown, and its payload. Its id is the object's."""
    event = Event(
        id=f"{listed.id}_listed",
        type=_LISTED[kind_of(listed)],
        livemode=False,  # nothing asks: what a list shows is of the key's mode
        data=EventData(msgspec.Raw(msgspec.json.encode(listed))),
        api_version=API_VERSION,
    )
    return event, msgspec.json.encode(event).decode()


_LISTED = {
    ReversalKind.REFUND: "refund.updated",
    ReversalKind.DISPUTE: "charge.dispute.updated",
    ReversalKind.CREDIT_NOTE: "credit_note.created",
}
