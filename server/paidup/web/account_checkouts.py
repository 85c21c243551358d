"""What `GET /api/account` tells of the customer's Checkout Sessions."""

from __future__ import annotations

from datetime import datetime

import msgspec

from paidup.db.connection import storage_errors
from paidup.db.models import Account
from paidup.reconciliation.alarms import unresolved
from paidup.subscriptions.pending import newest_session

MAX_SHOWN = 20


class AwaitedCheckout(msgspec.Struct, frozen=True):
    """A session whose page the customer may be paying, or has paid a moment ago. Both are Stripe's words."""

    checkout: str
    status: str
    payment_status: str
    plan: str | None
    expires_at: datetime


class PaidTwice(msgspec.Struct, frozen=True):
    """A second payment for one purchase. Both are credited, until something is done about it."""

    checkout: str
    duplicate_of: str | None
    plan: str | None
    at: datetime | None


async def awaited_checkout(account: Account) -> AwaitedCheckout | None:
    """The newest session that has not become an invoice yet, if its customer can be waiting for it."""
    row = await newest_session(account)
    if row is None:
        return None
    return AwaitedCheckout(row.id, row.status, row.payment_status, row.plan, row.expires_at)


async def paid_twice(account: Account) -> list[PaidTwice]:
    """Second payments about which nothing was done yet, newest first."""
    with storage_errors():
        rows = await unresolved().filter(account_id=account.id).limit(MAX_SHOWN)
    return [PaidTwice(row.id, row.duplicate_of, row.plan, row.completed_at) for row in rows]
