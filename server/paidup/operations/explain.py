"""Explain an invoice's status: gather all that is stored about it (`paidup explain`).

Reads only Paidup's own tables, so it works while Stripe and Redis are down. Changes nothing.
`explain_terminal.py` and the operators' page render the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from operator import attrgetter

import msgspec
from tortoise.expressions import Q

from paidup.db.accounts import find_account, surviving
from paidup.db.connection import storage_errors
from paidup.db.customers import account_id_of, customers_of
from paidup.db.models import Account, CreditGrant, Invoice, StripeEvent, TimelineEntry
from paidup.db.unit_accounts import in_unit, units_of
from paidup.domain.stages import stage_of
from paidup.operations.audit_log import list_corrections
from paidup.operations.checkout_report import sessions_of
from paidup.operations.event_deliveries import DeliveryFilter, list_deliveries
from paidup.operations.invoice_report import (
    Explanation,
    GrantDetails,
    InvoiceDetails,
    InvoiceReport,
    StoredEvent,
    TimelineEvent,
)
from paidup.operations.newest_invoices import newest_invoices
from paidup.operations.recommendations import pending_steps, recommendation
from paidup.operations.unhandled_events import unhandled_about
from paidup.realtime.status_queries import processing_of
from paidup.runtime.clock import now
from paidup.stripe_api.events import Event
from paidup.stripe_api.schemas import StripeInvoice, decode

MAX_INVOICES = 20
MAX_OTHER_EVENTS = 20
MAX_WAITING_EVENTS = 500
MAX_CORRECTIONS = 20
MAX_TIMELINE_EVENTS = 500
MAX_DELIVERIES = 50
REFERENCE_KINDS = "invoice, Checkout Session, PaymentIntent, subscription, Stripe customer or external id"


async def explain(reference: str) -> Explanation:
    """Return what is known of a reference: see `REFERENCE_KINDS`.

    Raises StorageUnavailable.
    """
    at = now()
    with storage_errors():
        owner_id = await account_id_of(reference)
        owner = await Account.get(id=owner_id) if owner_id else None
        account = await surviving(owner) if owner else await find_account(reference)
        matching = Q(id=reference) | Q(payment_intent=reference) | Q(subscription=reference)
        sessions = await sessions_of(reference, account.id if account else None)
        linked = [each.invoice for each in sessions if each.checkout == reference and each.invoice]
        matching |= Q(id__in=linked)
        rows, older_invoices = await _invoices(matching, account)
        await Invoice.fetch_for_list(rows, "account")
        invoices = [await _report(row.id, row, at) for row in rows]
        if not rows and not sessions and await TimelineEntry.exists(invoice=reference):
            invoices = [await _report(reference, None, at)]
        other_events = await _other_events(reference, account, invoices, at)
        corrections = await list_corrections(account, MAX_CORRECTIONS) if account else []
    shown = account or (rows[0].account if rows else None)
    return Explanation(
        reference=reference,
        at=at,
        account=shown.external_id if shown else None,
        balance=shown.balance if shown else None,
        invoices=invoices,
        older_invoices=older_invoices,
        sessions=sessions,
        other_events=other_events,
        corrections=corrections,
        units=_other_balances(shown) or msgspec.UNSET,
    )


async def _invoices(matching: Q, account: Account | None) -> tuple[list[Invoice], int]:
    """The newest that match, or are of the account, newest first, and how many more there are."""
    others = Invoice.filter(matching).exclude(account_id=account.id if account else 0)
    rows = await others.order_by("-created_at").limit(MAX_INVOICES)
    count = await others.count()
    if account:
        own = await newest_invoices(account.id, MAX_INVOICES)
        rows = sorted([*own, *rows], key=attrgetter("created_at"), reverse=True)[:MAX_INVOICES]
        count += await Invoice.filter(account_id=account.id).count()
    return rows, count - len(rows)


async def _report(invoice: str, row: Invoice | None, at: datetime) -> InvoiceReport:
    about = [invoice, row.checkout] if row and row.checkout else [invoice]
    entries = await TimelineEntry.filter(invoice__in=about).order_by("-id").limit(MAX_TIMELINE_EVENTS)
    entries.sort(key=lambda entry: (entry.at, entry.id))
    event_ids = {entry.detail["event"] for entry in entries if entry.detail and "event" in entry.detail}
    events = await StripeEvent.filter(id__in=list(event_ids)).order_by("received_at")
    grants = await CreditGrant.filter(invoice_id=invoice).order_by("installment")
    started_at = row.created_at if row else (entries[0].at if entries else at)
    details = _details(row) if row else None
    timeline = [
        TimelineEvent(
            entry.at,
            round((entry.at - started_at).total_seconds() * 1000),
            entry.event_type,
            entry.detail or {},
        )
        for entry in entries
    ]
    stored = [stored_event(event) for event in events]
    granted = [
        GrantDetails(
            grant.credits,
            grant.remaining,
            grant.state,
            grant.expires_at,
            grant.frozen,
            grant.unit or msgspec.UNSET,
        )
        for grant in grants
    ]
    return InvoiceReport(
        invoice=invoice,
        details=details,
        grants=granted,
        timeline=timeline,
        events=stored,
        deliveries=(await list_deliveries(DeliveryFilter(invoice=invoice), None, MAX_DELIVERIES)).deliveries,
        pending_steps=pending_steps(details, timeline, stored, at),
        recommendation=recommendation(details, granted, timeline, stored, at),
    )


async def _other_events(
    reference: str, account: Account | None, invoices: Sequence[InvoiceReport], at: datetime
) -> list[StoredEvent]:
    """Return events that mention the reference and had no effect."""
    shown = {event.id for report in invoices for event in report.events}
    found: dict[str, StoredEvent] = {}
    for text in {reference, *(await customers_of(account) if account else ())}:
        if not text.startswith(("in_", "cs_", "pi_", "sub_", "cus_")):
            continue  # an external id could match any text in a payload
        events = StripeEvent.filter(payload__contains=f'"{text}"')
        # In no order: PostgreSQL would follow that, and read every payload. Those that wait are few.
        waiting = await events.filter(handled_at__isnull=True).limit(MAX_WAITING_EVENTS)
        rows = sorted(waiting, key=attrgetter("received_at"), reverse=True)[:MAX_OTHER_EVENTS]
        if not invoices and account is None:
            # Most events of a known reference have no effect, so they are shown for unknown ones only.
            rows += await unhandled_about(text, at, MAX_OTHER_EVENTS)
        found.update({row.id: stored_event(row) for row in rows})
    return [event for event in found.values() if event.id not in shown]


def _other_balances(owner: Account | None) -> dict[str, int]:
    """The balances of other units than the default one."""
    units = units_of(owner.unit_balances) if owner else []
    return {unit: in_unit(owner, unit).balance for unit in units if owner}


def _details(row: Invoice) -> InvoiceDetails:
    return InvoiceDetails(
        account=row.account.external_id,
        customer=row.customer,
        subscription=row.subscription,
        payment_intent=row.payment_intent,
        plan=row.plan,
        billing_reason=row.billing_reason,
        amount_due_minor=row.amount_due_minor,
        currency=row.currency,
        status=row.status,
        stage=stage_of(row.status, row.payment_seen_at, now()),
        error=row.error,
        processing=processing_of(row),
        version=row.version,
        published_version=row.published_version,
        credits=row.credits_quoted,
        credits_reversed=row.credits_reversed,
        settled_via=row.settled_via,
        settled_at=row.settled_at,
        next_check_at=row.next_check_at,
        checks_made=row.checks_made,
        created_at=row.created_at,
    )


def stored_event(row: StripeEvent) -> StoredEvent:
    """Convert a stored event, and read from its payload which invoice it is about."""
    invoice, unknown_reference = _parse_payload(row.payload, row.error if row.handled_at is None else None)
    return StoredEvent(
        id=row.id,
        type=row.type,
        received_at=row.received_at,
        handled_at=row.handled_at,
        attempts=row.attempts,
        next_attempt_at=row.next_attempt_at,
        outcome=row.outcome,
        error=row.error,
        invoice=invoice,
        unknown_reference=unknown_reference,
    )


def _parse_payload(payload: str, error: str | None) -> tuple[str | None, str | None]:
    """Return the invoice that an event is about, and the unknown account, customer or prices in it."""
    try:
        event = decode(Event, payload)
        about = event.about()
        invoice = about if about.startswith("in_") else None
        if invoice is None or event.data is None or error is None:
            return invoice, None
        facts = decode(StripeInvoice, event.data.object).facts().invoice
    except msgspec.DecodeError:
        return None, None  # not an object that is known here; the payload stays stored
    if facts is None:
        return invoice, None
    if "unknown_price" in error or "unknown_currency" in error:
        return invoice, ", ".join(sorted({line.price for line in facts.lines if line.price})) or None
    return invoice, (facts.account or facts.customer) if "unknown_customer" in error else None
