"""The subscriptions of an account as last read, and as Stripe will say of those just paid."""

from __future__ import annotations

from collections.abc import Sequence

from tortoise.expressions import Q

from paidup.credits.grants import CHANGE
from paidup.db.connection import storage_errors
from paidup.db.models import NOT_ENDED, Account, Invoice, Subscription
from paidup.db.unit_of_work import read_many
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.entitlements import ENDED, NEVER_BEGUN

MAX_SHOWN = 20
"""How many subscriptions of one account are shown."""


_BY_AGE = "ORDER BY created_at DESC, id DESC LIMIT"
_RUNNING = f"account_id = $1 AND {NOT_ENDED} {_BY_AGE} {MAX_SHOWN}"
_NEWEST = f"account_id = $1 {_BY_AGE} 1"
_CANCELED = f"account_id = $1 AND status = 'canceled' {_BY_AGE} 1"


async def current_subscriptions(account: Account) -> list[Subscription]:
    """The account's subscriptions as last read, newest first: all that run, else the newest one."""
    rows = await known_subscriptions(account.id)
    return [row for row in rows if row.status not in (*ENDED, "incomplete")] or rows[:1]


async def known_subscriptions(account_id: int) -> list[Subscription]:
    """All that have not ended, also those that are not paid yet; else the newest one. Newest first.

    Where none of these has begun, the newest that has begun and ended follows.
    """
    with storage_errors():
        rows = await read_many(Subscription, _RUNNING, account_id)
        rows = rows or await read_many(Subscription, _NEWEST, account_id)
        if rows and all(row.status in NEVER_BEGUN for row in rows):
            rows += await read_many(Subscription, _CANCELED, account_id)
        paid = await _credited_invoices(rows)
    for row in rows:
        own = [invoice for invoice in paid if invoice.subscription == row.id]
        # Not an invoice of zero: whether the subscription is in a trial is read from Stripe.
        begun = [invoice for invoice in own if invoice.total_minor > 0]
        if row.status == "incomplete" and begun:
            row.status, row.plan = "active", row.plan or begun[0].plan  # no plan: it was not read yet
        # A change that waits has the latest invoice.
        if row.pending_plan and any(
            invoice.id == row.latest_invoice and invoice.billing_reason == CHANGE for invoice in own
        ):
            row.plan, row.pending_plan = row.pending_plan, None
    return rows


async def _credited_invoices(rows: Sequence[Subscription]) -> list[Invoice]:
    """The credited invoices that say more of these subscriptions than their rows do."""
    begun = [row.id for row in rows if row.status == "incomplete"]
    changed = [row.latest_invoice for row in rows if row.pending_plan and row.latest_invoice]
    if not (begun or changed):
        return []
    of_rows = Q(subscription__in=begun) | Q(id__in=changed)
    return await Invoice.filter(of_rows, status=InvoiceStatus.ACTIVE).order_by("-created_at", "-id")
