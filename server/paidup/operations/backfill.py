"""What operators run by hand over the third road: a backfill of paid invoices, a replay of one event.

Owns paging through what Stripe lists as paid, and the count of what became of each. Both are
idempotent and may be stopped at any moment: each invoice is settled by its own transaction.
Refuses to credit: the settlement does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import structlog

from paidup.db.connection import storage_errors
from paidup.db.models import EventSource, Invoice, StripeEvent
from paidup.domain.decisions import InvoiceStatus
from paidup.errors import InvalidInput, NotFound, StripeRefused
from paidup.payments.outcomes import Outcome
from paidup.reconciliation.reconciler import Reconciler
from paidup.reconciliation.stripe_events import RETRYABLE_OUTCOMES, Events, store
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.schemas import Event, decode
from paidup.stripe_api.schemas import Invoice as StripeInvoice

log = structlog.get_logger(__name__)

FAILED = "failed"
PATIENCE_S = 60.0
"""How long a page waits for its place in the budget: customers go first."""


class Replayed(msgspec.Struct, frozen=True):
    """What became of one event; `source` is `here`, or `stripe` where it had to be fetched."""

    event: str
    type: str
    source: str
    outcome: str
    done: bool


def since_when(text: str) -> datetime:
    """A date or a time as ISO 8601, UTC unless it says else. Raises InvalidInput."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is no date such as 2026-11-01 or 2026-11-01T09:00:00Z") from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


async def backfill(
    gateway: StripeGateway,
    reconciler: Reconciler,
    since: datetime,
    counts: Counter[str],
    on_progress: Callable[[int, int], None] = lambda done, created: None,
) -> None:
    """Settle every paid invoice created since then, newest first; `counts` grows by outcome.

    `on_progress` hears how many are done and how far back they go (Unix seconds). Raises
    StripeError where a page cannot be had: what was settled stays, and running again goes on.
    """
    after: str | None = None
    while True:
        page = await gateway.list_paid_invoices(int(since.timestamp()), after, PATIENCE_S)
        settled = await _active(page.data)
        for shape in page.data:
            known = shape.id in settled
            counts[Outcome.ALREADY_SETTLED if known else await _settled(reconciler, shape)] += 1
            on_progress(counts.total(), shape.created)
        if not page.has_more or not page.data:
            return
        after = page.data[-1].id


async def _active(shapes: list[StripeInvoice]) -> set[str]:
    """Those of a page that are credited already: they cost no transaction each."""
    with storage_errors():
        rows = await Invoice.filter(id__in=[shape.id for shape in shapes], status=InvoiceStatus.ACTIVE).only(
            "id"
        )
    return {row.id for row in rows}


async def _settled(reconciler: Reconciler, shape: StripeInvoice) -> str:
    try:
        return await reconciler.settle_paid(shape)
    except (StripeRefused, msgspec.DecodeError) as error:
        # This one's own fault: the others are not to wait for it.
        log.warning("backfill_failed", invoice=shape.id, error=str(error))
        return FAILED


async def replay(gateway: StripeGateway, events: Events, event_id: str) -> Replayed:
    """Handle a stored event again, or fetch it from Stripe and store it first.

    Raises NotFound where neither has it, StripeError, StorageUnavailable.
    """
    with storage_errors():
        row = await StripeEvent.get_or_none(id=event_id)
    stored = row.payload if row else ""  # empty also where it was pruned
    body = stored or await _fetched(gateway, event_id)
    source = "here" if stored else "stripe"
    event = decode(Event, body)
    if row is None:
        await store(event, body, EventSource.LIST)
    elif not stored:
        with storage_errors():  # where it fails once more, the reconciler reads it
            await StripeEvent.filter(id=event_id).update(payload=body)
    try:
        outcome = await events.handle(event, row.source if row else EventSource.LIST)
    except Exception as error:
        # Noted on the event already; the operator hears of it here.
        return Replayed(event.id, event.type, source, f"{FAILED}: {type(error).__name__}: {error}", False)
    return Replayed(event.id, event.type, source, outcome, outcome not in RETRYABLE_OUTCOMES)


async def _fetched(gateway: StripeGateway, event_id: str) -> str:
    try:
        return await gateway.read_event(event_id)
    except StripeRefused as error:
        if error.code == "resource_missing" or error.http_status == 404:
            raise NotFound(
                f"The payload of {event_id} is neither here nor at Stripe, which keeps events for 30 days."
            ) from error
        raise
