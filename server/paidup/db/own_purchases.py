"""Which purchases are an account's own: all but those of somebody who has paid and named the account for it.

Anybody may write any `client_reference_id` into the address of a Payment Link. What was bought so is
credited, with its renewals, and says nothing of the account: it refuses none of its own purchases, and a
failed payment takes nothing from it. What the account has claimed is its own.
"""

from __future__ import annotations

from tortoise.expressions import Q, Subquery
from tortoise.queryset import QuerySet

from paidup.db.models import CheckoutSession, Invoice


def named_by_payers(account_id: int) -> QuerySet[CheckoutSession]:
    """Sessions that are this account's only because somebody who paid has named it."""
    return CheckoutSession.filter(account_id=account_id, named_by_payer=True, claimed_at__isnull=True)


def of_own_purchases(account_id: int) -> Q:
    """The account's invoices but for those of `named_by_payers`, and the renewals of their subscriptions."""
    others = named_by_payers(account_id)
    # NOT IN finds nothing where one of many is NULL.
    subscriptions = others.filter(subscription__not_isnull=True).values("subscription")
    of_page = Q(checkout__isnull=True) | ~Q(checkout__in=Subquery(others.values("id")))
    return of_page & (Q(subscription__isnull=True) | ~Q(subscription__in=Subquery(subscriptions)))


async def is_own_purchase(row: Invoice) -> bool:
    """As `of_own_purchases`, of an invoice that may not be saved yet."""
    of_its_subscription = Q(subscription=row.subscription, subscription__not_isnull=True)
    others = named_by_payers(row.account_id).filter(Q(id=row.checkout or row.id) | of_its_subscription)
    return not await others.exists()
