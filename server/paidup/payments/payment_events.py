"""The outbound events of payments: one that fails, waits for the customer, or takes days."""

from __future__ import annotations

from paidup.db import outbox
from paidup.db.models import Account, Invoice
from paidup.db.unit_of_work import UnitOfWork
from paidup.domain.decisions import ATTEMPT_FAILED, Decision, InvoiceStatus
from paidup.domain.outbound_events import OutboundEventType
from paidup.realtime.status_queries import error_of

_EVENTS = {
    InvoiceStatus.REQUIRES_ACTION: OutboundEventType.PAYMENT_ACTION_REQUIRED,
    InvoiceStatus.FAILED: OutboundEventType.PAYMENT_FAILED,
    InvoiceStatus.PROCESSING: OutboundEventType.PAYMENT_PROCESSING,
}


def event_of(row: Invoice, decision: Decision) -> OutboundEventType | None:
    """The event of a decision that changes `row`, which is as it was before.

    None where only more is known of the same attempt. Another reason for a failure is another attempt's,
    unless none was known.
    """
    if decision.status is row.status:
        known = error_of(row)
        if decision.status is not InvoiceStatus.FAILED or known in (decision.error, ATTEMPT_FAILED):
            return None
    return _EVENTS.get(decision.status)


def announce(event_type: OutboundEventType, row: Invoice, account: Account, writes: UnitOfWork) -> None:
    """Add the event to `writes`. `row` is as it is after the decision."""
    outbox.announce(
        writes,
        event_type,
        account,
        row.id,
        row.subscription,
        plan=row.plan,
        billing_reason=row.billing_reason,
        amount_due_minor=row.amount_due_minor,
        currency=row.currency,
        method=row.payment_method,
        error=row.error,
    )
