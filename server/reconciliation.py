"""The reconciler: the third road. Finds what the browser and the webhook left open.

Owns the sweeps of `paidup work`, each bounded, each at its own pace: stored events that were
not handled, open invoices that are due to be asked about, and versions that were committed
but not published. Any number of reconcilers may run: each row is claimed by moving its due
time, so two never work on one. Refuses to credit: it asks, and the settlement settles.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
import structlog
from tortoise.expressions import F

from server.clock import now
from server.core.facts import Road
from server.core.pace import reconciler_delay_s
from server.core.stripe_shapes import Event, decode
from server.database import OUTAGES
from server.errors import PaidupError, StripeUnavailable
from server.events import Events
from server.models import Invoice, StripeEvent
from server.settlement import Settlement
from server.statuses import read_status
from server.verification import Verification

log = structlog.get_logger(__name__)

BATCH = 50
CLAIM_S = 60.0
STRIPE_PATIENCE_S = 0.2
"""The reconciler yields the budget to customers who wait."""
FAILURES: tuple[type[BaseException], ...] = (PaidupError, msgspec.DecodeError, *OUTAGES)
"""What may go wrong with one row without stopping the reconciler."""
PUBLISH_GRACE = timedelta(seconds=5)


class Reconciler:
    def __init__(self, settlement: Settlement, verification: Verification, events: Events) -> None:
        self._settlement = settlement
        self._verification = verification
        self._events = events

    async def run_forever(self, pace_s: float) -> None:
        """Sweep every `pace_s` seconds until cancelled."""
        while True:
            await self.sweep()
            await asyncio.sleep(pace_s)

    async def sweep(self) -> dict[str, int]:
        """One round of every sweep. How many rows each took up; an outage ends that sweep, no more."""
        done = {}
        for sweep in (self.unhandled_events, self.due_invoices, self.unpublished_versions):
            done[sweep.__name__] = await self._guarded(sweep)
        return done

    async def _guarded(self, sweep: Callable[[], Awaitable[int]]) -> int:
        try:
            return await sweep()
        except FAILURES as error:
            log.warning("sweep_interrupted", sweep=sweep.__name__, error=str(error))
            return 0

    async def unhandled_events(self) -> int:
        """Events stored but not handled, once their time has come."""
        due = await StripeEvent.filter(next_attempt_at__lte=now(), handled_at__isnull=True).limit(BATCH)
        claimed = 0
        for row in due:
            if not await _claim_event(row):
                continue
            claimed += 1
            try:
                await self._events.handle(decode(Event, row.payload))
            except FAILURES as error:
                log.warning("event_failed_again", stripe_event=row.id, error=str(error))
        return claimed

    async def due_invoices(self) -> int:
        """Open invoices whose time has come: ask Stripe, within what the budget leaves."""
        due = await Invoice.filter(next_check_at__lte=now()).order_by("next_check_at").limit(BATCH)
        claimed = 0
        for row in due:
            if not await _claim_invoice(row, now()):
                continue
            claimed += 1
            try:
                await self._verification.verify(row.id, Road.RECONCILIATION, STRIPE_PATIENCE_S)
            except StripeUnavailable as error:
                log.info("reconciliation_postponed", invoice=row.id, error=str(error))
                break  # Stripe is away or the budget is used up: the rest would fare no better
            except PaidupError as error:
                log.warning("reconciliation_failed", invoice=row.id, error=str(error))
        return claimed

    async def unpublished_versions(self) -> int:
        """Changes that were committed, and whose publisher died or found Redis away."""
        late = Invoice.filter(published_version__lt=F("version"), changed_at__lte=now() - PUBLISH_GRACE)
        rows = await late.order_by("changed_at").limit(BATCH)
        for row in rows:
            status = await read_status(row.id)
            if status is not None:
                await self._settlement.publish(status)
        return len(rows)


async def _claim_event(row: StripeEvent) -> bool:
    later = now() + timedelta(seconds=CLAIM_S)
    mine = StripeEvent.filter(id=row.id, next_attempt_at=row.next_attempt_at)
    return bool(await mine.update(next_attempt_at=later))


async def _claim_invoice(row: Invoice, at: datetime) -> bool:
    delay = reconciler_delay_s((at - row.created_at).total_seconds())
    mine = Invoice.filter(id=row.id, next_check_at=row.next_check_at)
    return bool(await mine.update(next_check_at=at + timedelta(seconds=delay)))
