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
from tortoise.functions import Count, Min
from tortoise.queryset import QuerySet

from paidup.db.bulk import execute
from paidup.db.connection import storage_errors
from paidup.db.models import CheckoutSession, Invoice, Subscription
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.entitlements import ENDED
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import COMPLETE
from paidup.stripe_api.gateway import RUNNING

log = structlog.get_logger(__name__)

RECENT = timedelta(days=1)
MAX_CANDIDATES = 500
PAID_INVOICE = [InvoiceStatus.ACTIVE, InvoiceStatus.REVERSED]
MAX_REPLACED = 20
"""How many sessions that have replaced each other are followed."""

# ruff: noqa: S608 - made of constants, never of a value
_RUNNING = ", ".join(f"'{status}'" for status in RUNNING)
# `next_check_at` is what is indexed: each open session has one.
_SUPERSEDE = f"""
UPDATE checkout_sessions SET superseded_by = 'subscribed', next_check_at = $1
WHERE next_check_at IS NOT NULL AND status = 'open' AND purchase = 'subscription' AND superseded_by IS NULL
  AND EXISTS (SELECT 1 FROM subscriptions s
              WHERE s.account_id = checkout_sessions.account_id AND s.status IN ({_RUNNING})
                AND NOT EXISTS (SELECT 1 FROM checkout_sessions c
                                WHERE c.subscription = s.id AND c.named_by_payer AND c.claimed_at IS NULL))"""


class SecondPayments:
    async def sweep(self) -> int:
        """Flag what is new. How many payments it flagged. A few queries, however many accounts there are."""
        since = now() - RECENT
        with storage_errors():
            await execute(_SUPERSEDE, now())
            settled = Invoice.filter(settled_at__gte=since)
            begun = settled.filter(billing_reason="subscription_create")
            completed = CheckoutSession.filter(completed_at__gte=since, subscription__not_isnull=True)
            accounts = {*await _with_two_subscriptions(begun), *await _with_two_subscriptions(completed)}
            flagged = await _flag_subscriptions(accounts)
            return flagged + await _flag_replaced(await _replaced(settled.filter(subscription__isnull=True)))


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


async def _flag_subscriptions(accounts: set[Any]) -> int:
    """Flag the sessions of these accounts that began a subscription beside another one that runs."""
    if not accounts:
        return 0
    rows = await Subscription.filter(account_id__in=list(accounts)).exclude(status__in=list(ENDED))
    ids = [row.id for row in rows]
    first = Invoice.filter(subscription__in=ids, settled_at__not_isnull=True).group_by("subscription")
    paid = await first.annotate(at=Min("settled_at")).values_list("subscription", "at")
    sessions = await CheckoutSession.filter(subscription__in=ids, status=COMPLETE)
    by_subscription = {session.subscription or "": session for session in sessions}
    begun = dict(paid)
    of_account: dict[int, list[tuple[bool, datetime, str]]] = {}
    for row in rows:
        if at := begun.get(row.id) or _began_unpaid(row):
            place = (_is_of_payer(by_subscription.get(row.id)), at, row.id)
            of_account.setdefault(row.account_id, []).append(place)
    flagged = 0
    for places in of_account.values():
        (_, _, kept), *others = sorted(places)
        for _, _, other in others:
            flagged += await _flag_one(by_subscription, other, kept)
    return flagged


def _began_unpaid(row: Subscription) -> datetime | None:
    """When one began whose payment is not known; None where it grants nothing, as far as is known (S46)."""
    return row.created_at if row.status in RUNNING and row.plan is not None else None


def _is_of_payer(session: CheckoutSession | None) -> bool:
    """Whether a stranger has named the account: of two payments, theirs is the second one."""
    return session is not None and session.named_by_payer and session.claimed_at is None


async def _flag_one(sessions: dict[str, CheckoutSession], later: str, first: str) -> bool:
    """Flag the session that made the `later` subscription; where none did, the one that made the first."""
    for subscription, beside in ((later, first), (first, later)):
        if session := sessions.get(subscription):
            return session.duplicate_of is None and await _mark(session.id, beside)
    return False


async def _flag_replaced(rows: list[CheckoutSession]) -> int:
    """Flag sessions for a top-up that were paid although others had replaced them that were paid, too."""
    followed = await _followed({row.superseded_by for row in rows if row.superseded_by})
    ids = {row.invoice for row in (*rows, *followed.values())} | {row.superseded_by for row in rows}
    ids |= {row.superseded_by for row in followed.values()}
    paid_rows = Invoice.filter(id__in=[each for each in ids if each], status__in=PAID_INVOICE)
    paid = {row.id for row in await paid_rows.only("id")}
    flagged = 0
    for row in rows:
        if row.invoice in paid and (beside := _paid_successor(row, followed, paid)):
            flagged += await _mark(row.id, beside)
    return flagged


async def _followed(ids: set[str]) -> dict[str, CheckoutSession]:
    """These sessions, and those that have replaced them in turn."""
    found: dict[str, CheckoutSession] = {}
    for _ in range(MAX_REPLACED):
        rows = await CheckoutSession.filter(id__in=list(ids)) if ids else []
        found |= {row.id: row for row in rows}
        ids = {row.superseded_by for row in rows if row.superseded_by} - found.keys()
        if not ids:
            break
    return found


def _paid_successor(row: CheckoutSession, followed: dict[str, CheckoutSession], paid: set[str]) -> str | None:
    """What has replaced this session, at once or in turn, and was paid."""
    following = row.superseded_by
    for _ in range(MAX_REPLACED):
        if following is None:
            break
        later = followed.get(following)
        if (later.invoice if later else following) in paid:
            return following
        following = later.superseded_by if later else None
    return None


async def _mark(session: str, other: str) -> bool:
    unmarked = CheckoutSession.filter(id=session, duplicate_of__isnull=True)
    marked = bool(await unmarked.update(duplicate_of=other))
    if marked:
        log.error("paid_twice", duplicate_of=other)
    return marked
