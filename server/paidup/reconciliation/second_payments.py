"""Flags a second payment for one purchase: Stripe has taken both, and both are credited (S39, S40).

Which payments there are is known from the tables alone, whichever event came first, so a sweep looks at
the accounts whose sessions were completed, or whose payments were credited lately: a debit takes days, and
a payment of nobody's may be claimed later still. It also supersedes open pages of those who are subscribed
by now, so that none of them is paid as well. What an operator does about a flagged payment:
operations/second_payments.py.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog
from tortoise.expressions import Subquery
from tortoise.functions import Count
from tortoise.queryset import QuerySet

from paidup.db.bulk import execute
from paidup.db.connection import storage_errors
from paidup.db.models import CheckoutSession, Invoice, Subscription
from paidup.domain.decisions import InvoiceStatus
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import COMPLETE
from paidup.stripe_api.gateway import RUNNING
from paidup.subscriptions.sync import ENDED

log = structlog.get_logger(__name__)

RECENT = timedelta(days=1)
MAX_CANDIDATES = 500
MAX_REPLACED = 20
"""How many sessions that have replaced each other are followed."""

# ruff: noqa: S608 - made of constants, never of a value
_RUNNING = ", ".join(f"'{status}'" for status in RUNNING)
# `next_check_at` is what is indexed: each open session has one.
_SUPERSEDE = f"""
UPDATE checkout_sessions SET superseded_by = 'subscribed', next_check_at = $1
WHERE next_check_at IS NOT NULL AND status = 'open' AND purchase = 'subscription' AND superseded_by IS NULL
  AND EXISTS (SELECT 1 FROM subscriptions s
              WHERE s.account_id = checkout_sessions.account_id AND s.status IN ({_RUNNING}))"""


class SecondPayments:
    async def sweep(self) -> int:
        """Flag what is new. How many payments it flagged."""
        since, flagged = now() - RECENT, 0
        with storage_errors():
            await execute(_SUPERSEDE, now())
            settled = Invoice.filter(settled_at__gte=since)
            begun = settled.filter(billing_reason="subscription_create")
            completed = CheckoutSession.filter(completed_at__gte=since, subscription__not_isnull=True)
            accounts = {*await _with_two_subscriptions(begun), *await _with_two_subscriptions(completed)}
            for account in accounts:
                flagged += await _flag_subscriptions(account)
            for row in await _replaced(settled.filter(subscription__isnull=True)):
                flagged += await _flag_replaced(row)
        return flagged


async def _with_two_subscriptions(rows: QuerySet[Any]) -> list[Any]:
    """Those of the accounts of these rows that have several subscriptions, which have not ended."""
    owners = Subquery(rows.filter(account_id__not_isnull=True).values("account_id"))
    running = Subscription.filter(account_id__in=owners).exclude(status__in=list(ENDED))
    counted = running.annotate(count=Count("id")).filter(count__gt=1).group_by("account_id")
    return await counted.limit(MAX_CANDIDATES).values_list("account_id", flat=True)


async def _replaced(settled: QuerySet[Invoice]) -> list[CheckoutSession]:
    """Sessions of the accounts of these payments that were completed although another had replaced them."""
    owners = Subquery(settled.values("account_id"))
    replaced = CheckoutSession.filter(account_id__in=owners, status=COMPLETE, superseded_by__not_isnull=True)
    new = replaced.filter(subscription__isnull=True, duplicate_of__isnull=True)
    return await new.order_by("-completed_at").limit(MAX_CANDIDATES)


async def _flag_subscriptions(account_id: int) -> int:
    """Flag the sessions of this account that began a subscription beside another one that runs."""
    rows = await Subscription.filter(account_id=account_id).exclude(status__in=list(ENDED))
    if len(rows) < 2:
        return 0
    begun = [(at, row.id) for row in rows if (at := await _began(row)) is not None]
    if len(begun) < 2:
        return 0
    (_, first), *others = sorted(begun)
    flagged = 0
    for _, other in others:
        flagged += await _flag_one(other, first)
    return flagged


async def _began(row: Subscription) -> datetime | None:
    """When it was first paid; None where it was not, as far as is known, and grants nothing (S46)."""
    settled = Invoice.filter(subscription=row.id, settled_at__not_isnull=True)
    first = await settled.order_by("settled_at").only("id", "settled_at").first()
    if first is not None:
        return first.settled_at
    return row.created_at if row.status in RUNNING and row.plan is not None else None


async def _flag_one(later: str, first: str) -> bool:
    """Flag the session that made the `later` subscription; where none did, the one that made the first."""
    for subscription, beside in ((later, first), (first, later)):
        session = CheckoutSession.filter(subscription=subscription, status=COMPLETE)
        if await session.exists():
            return await _mark(session.filter(duplicate_of__isnull=True), beside)
    return False


async def _flag_replaced(row: CheckoutSession) -> bool:
    """Flag a session for a top-up that was paid although another had replaced it, which was paid as well."""
    if not await _is_paid(row.invoice):
        return False
    following = row.superseded_by
    for _ in range(MAX_REPLACED):
        later = await CheckoutSession.get_or_none(id=following) if following else None
        if await _is_paid(later.invoice if later else following):
            return await _mark(CheckoutSession.filter(id=row.id, duplicate_of__isnull=True), following or "")
        following = later.superseded_by if later else None
        if following is None:
            break
    return False


async def _is_paid(invoice: str | None) -> bool:
    paid = [InvoiceStatus.ACTIVE, InvoiceStatus.REVERSED]
    return invoice is not None and await Invoice.exists(id=invoice, status__in=paid)


async def _mark(session: QuerySet[CheckoutSession], other: str) -> bool:
    marked = bool(await session.update(duplicate_of=other))
    if marked:
        log.error("paid_twice", duplicate_of=other)
    return marked
