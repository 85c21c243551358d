"""The operators' overview: alarms, pending invoices, failed events and recent settlements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from tortoise.expressions import Q

from paidup.db.connection import storage_errors
from paidup.db.models import Invoice, StripeEvent, TimelineEntry
from paidup.db.unit_accounts import quoted_of
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.stages import Stage, stage_of
from paidup.operations.checkout_report import session_details
from paidup.operations.explain import stored_event
from paidup.operations.invoice_report import SessionDetails, StoredEvent
from paidup.operations.unhandled_events import unhandled_events
from paidup.payments.unclaimed import PARKED_UNCLAIMED, unclaimed_payments
from paidup.reconciliation.alarms import Alarm, unresolved
from paidup.runtime.clock import now

MAX_ROWS = 100
"""Rows of each list."""
UNTRIED_AFTER = timedelta(seconds=60)
"""An event that was not tried for this long is listed with the failed ones."""


class PendingInvoice(msgspec.Struct, frozen=True):
    """An invoice that is not settled yet. `last_event` is the newest entry of its timeline."""

    invoice: str
    account: str
    plan: str | None
    status: InvoiceStatus
    stage: Stage
    created_at: datetime
    next_check_at: datetime | None
    last_event: str | None
    last_event_at: datetime | None


class SettledInvoice(msgspec.Struct, frozen=True):
    """An invoice that was settled, and by which source (`via`)."""

    invoice: str
    account: str
    plan: str | None
    credits: int
    via: str | None
    settled_at: datetime | None
    created_at: datetime
    units: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    """What it gives of other units."""


class Overview(msgspec.Struct, frozen=True):
    """The newest MAX_ROWS of each list; totals count all rows.

    `unhandled_events` have a type that Paidup does not handle.
    """

    at: datetime
    alarms: list[Alarm]
    pending: list[PendingInvoice]
    pending_total: int
    failed_events: list[StoredEvent]
    failed_events_total: int
    unhandled_events: list[StoredEvent]
    settled: list[SettledInvoice]
    second_payments: list[SessionDetails] = []
    """Of purchases that were paid twice, about which nothing was done yet."""
    unclaimed: list[SessionDetails] = []
    """Paid, and of nobody yet."""
    unclaimed_total: int = 0


async def load_overview(alarms: Sequence[Alarm]) -> Overview:
    """Load the overview. Raises StorageUnavailable."""
    at = now()
    with storage_errors():
        pending = Invoice.filter(next_check_at__isnull=False)
        unclaimed = unclaimed_payments()
        claimable = Q(error__isnull=True) | Q(error__not=PARKED_UNCLAIMED)
        tried = Q(attempts__gt=0) | Q(received_at__lt=at - UNTRIED_AFTER)
        failed = StripeEvent.filter(tried, claimable, handled_at__isnull=True)
        settled = Invoice.filter(settled_at__not_isnull=True).order_by("-settled_at").limit(MAX_ROWS)
        return Overview(
            at=at,
            alarms=list(alarms),
            pending=await _pending_invoices(
                await pending.order_by("-created_at").limit(MAX_ROWS).select_related("account")
            ),
            pending_total=await pending.count(),
            failed_events=[
                stored_event(row) for row in await failed.order_by("-received_at").limit(MAX_ROWS)
            ],
            failed_events_total=await failed.count(),
            unhandled_events=[stored_event(row) for row in await unhandled_events(at, MAX_ROWS)],
            settled=[_settled_invoice(row) for row in await settled.select_related("account")],
            second_payments=[
                session_details(row) for row in await unresolved().limit(MAX_ROWS).select_related("account")
            ],
            unclaimed=[
                session_details(row)
                for row in await unclaimed.order_by("-completed_at").limit(MAX_ROWS).select_related("account")
            ],
            unclaimed_total=await unclaimed.count(),
        )


async def _pending_invoices(rows: Sequence[Invoice]) -> list[PendingInvoice]:
    last: dict[str, TimelineEntry] = {}
    async for entry in TimelineEntry.filter(invoice__in=[row.id for row in rows]).order_by("at", "id"):
        last[entry.invoice] = entry
    return [_pending_invoice(row, last.get(row.id)) for row in rows]


def _pending_invoice(row: Invoice, last: TimelineEntry | None) -> PendingInvoice:
    return PendingInvoice(
        invoice=row.id,
        account=row.account.external_id,
        plan=row.plan,
        status=row.status,
        stage=stage_of(row.status, row.payment_seen_at, now()),
        created_at=row.created_at,
        next_check_at=row.next_check_at,
        last_event=last.event_type if last else None,
        last_event_at=last.at if last else None,
    )


def _settled_invoice(row: Invoice) -> SettledInvoice:
    return SettledInvoice(
        invoice=row.id,
        account=row.account.external_id,
        plan=row.plan,
        credits=row.credits_quoted,
        units=quoted_of(row) or msgspec.UNSET,
        via=row.settled_via,
        settled_at=row.settled_at,
        created_at=row.created_at,
    )
