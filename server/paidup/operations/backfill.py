"""Settle paid invoices that were missed (`paidup backfill`), and handle one event again (`paidup replay`).

Both are idempotent and can be interrupted at any time: each invoice is settled in a transaction of
its own. Credits are granted by the settlement alone.
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
from paidup.stripe_api.events import Event
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.pagination import pages
from paidup.stripe_api.schemas import ListOf, StripeInvoice, decode

log = structlog.get_logger(__name__)

FAILED = "failed"
MAX_WAIT_S = 60.0
"""How long a page waits for the rate limiter, which serves customers first."""


class Replayed(msgspec.Struct, frozen=True):
    """The result of a replay. `source` is `here` (stored), or `stripe` if the event had to be fetched."""

    event: str
    type: str
    source: str
    outcome: str
    done: bool


def parse_since(text: str) -> datetime:
    """Parse an ISO 8601 date or time, UTC unless it has an offset. Raises InvalidInput."""
    try:
        since = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is not a date such as 2026-11-01 or 2026-11-01T09:00:00Z") from None
    return since if since.tzinfo else since.replace(tzinfo=UTC)


async def backfill(
    gateway: StripeGateway,
    reconciler: Reconciler,
    since: datetime,
    counts: Counter[str],
    on_progress: Callable[[int, int], None] = lambda done, created: None,
) -> None:
    """Settle every paid invoice created since then, newest first; adds each outcome to `counts`.

    `on_progress` gets the number of invoices done and the creation time of the last one (Unix
    seconds). Raises StripeError if a page cannot be read; invoices settled before stay settled.
    """

    async def fetch(after: str | None) -> ListOf[StripeInvoice]:
        return await gateway.list_paid_invoices(int(since.timestamp()), after, MAX_WAIT_S)

    async for page in pages(fetch):
        settled = await _settled_ids(page.data)
        for invoice in page.data:
            already = invoice.id in settled
            counts[Outcome.ALREADY_SETTLED if already else await _settle(reconciler, invoice)] += 1
            on_progress(counts.total(), invoice.created)


async def _settled_ids(invoices: list[StripeInvoice]) -> set[str]:
    """Return the ids that are settled already, which need no transaction."""
    with storage_errors():
        rows = await Invoice.filter(
            id__in=[invoice.id for invoice in invoices], status=InvoiceStatus.ACTIVE
        ).only("id")
    return {row.id for row in rows}


async def _settle(reconciler: Reconciler, invoice: StripeInvoice) -> str:
    try:
        return await reconciler.lists.settle_paid(invoice)
    except (StripeRefused, msgspec.DecodeError) as error:
        # Only this invoice is affected, so continue with the others.
        log.warning("backfill_failed", invoice=invoice.id, error=str(error))
        return FAILED


async def replay(gateway: StripeGateway, events: Events, event_id: str) -> Replayed:
    """Handle a stored event again, or fetch it from Stripe and store it first.

    Raises NotFound if it is neither stored nor at Stripe, StripeError, StorageUnavailable.
    """
    with storage_errors():
        row = await StripeEvent.get_or_none(id=event_id)
    stored = row.payload if row else ""  # also empty if it was pruned
    body = stored or await _fetch(gateway, event_id)
    source = "here" if stored else "stripe"
    event = decode(Event, body)
    if row is None:
        await store(event, body, EventSource.LIST)
    elif not stored:
        with storage_errors():  # if handling fails again, the reconciler needs the payload
            await StripeEvent.filter(id=event_id).update(payload=body)
    try:
        outcome = await events.handle(event, row.source if row else EventSource.LIST)
    except Exception as error:
        # The error is stored with the event already; report it to the operator, too.
        return Replayed(event.id, event.type, source, f"{FAILED}: {type(error).__name__}: {error}", False)
    return Replayed(event.id, event.type, source, outcome, outcome not in RETRYABLE_OUTCOMES)


async def _fetch(gateway: StripeGateway, event_id: str) -> str:
    try:
        return await gateway.read_event(event_id)
    except StripeRefused as error:
        if error.is_missing or error.http_status == 404:
            raise NotFound(
                f"The payload of {event_id} is neither stored nor at Stripe, which keeps events for 30 days."
            ) from error
        raise
