"""Which of an account's unpaid invoices its customer can be waiting for."""

from __future__ import annotations

from datetime import datetime

from paidup.db.connection import storage_errors
from paidup.db.models import WITHOUT_INVOICE, Account, CheckoutSession, Invoice, Subscription
from paidup.db.unit_of_work import read_many
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.entitlements import ENDED
from paidup.payments.invoice_rows import is_uncollectible
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import COMPLETE
from paidup.subscriptions.checkout import PENDING

RENEWAL = "subscription_cycle"
MAX_LOOKED_AT = 20
"""Of the newest unpaid invoices. One account has few: its purchases reuse a pending one."""


_PENDING = (
    f"account_id = $1 AND status IN ({', '.join(repr(each.value) for each in PENDING)})"
    f" ORDER BY created_at DESC LIMIT {MAX_LOOKED_AT}"
)


_NEWEST_SESSION = (
    f"account_id = $1 AND {WITHOUT_INVOICE}"
    f" AND (status = '{COMPLETE}' OR expires_at > $2 AND superseded_by IS NULL)"
    " ORDER BY created_at DESC LIMIT 1"
)


async def newest_awaited(account: Account, touched_since: datetime) -> Invoice | None:
    """The newest unpaid invoice that the customer can be waiting for, or None.

    A payment that Stripe shows as made or processing always is. A renewal is while the customer has to
    act: another attempt of Stripe's own is nothing to wait for. A purchase is if its status has changed
    since `touched_since`. None is that is uncollectible, or whose subscription has ended.
    Raises StorageUnavailable.
    """
    with storage_errors():
        for row in await read_many(Invoice, _PENDING, account.id):
            if _may_be_awaited(row, touched_since) and not await _has_ended(row):
                return row
    return None


async def newest_session(account: Account) -> CheckoutSession | None:
    """The newest Checkout Session that the customer may be paying, or has paid without an invoice so far."""
    with storage_errors():
        found = await read_many(CheckoutSession, _NEWEST_SESSION, account.id, now())
    return found[0] if found else None


def _may_be_awaited(row: Invoice, touched_since: datetime) -> bool:
    if row.status is InvoiceStatus.PROCESSING or row.payment_seen_at is not None:
        return True
    if is_uncollectible(row):
        return False
    if row.billing_reason == RENEWAL:
        return row.status is not InvoiceStatus.OPEN
    return row.changed_at >= touched_since


async def _has_ended(row: Invoice) -> bool:
    """Whether the invoice's subscription is over: Stripe collects no more, and nobody waits."""
    if row.subscription is None or row.status is InvoiceStatus.PROCESSING or row.payment_seen_at:
        return False
    return await Subscription.exists(id=row.subscription, status__in=ENDED)
