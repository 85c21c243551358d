"""Which account a Stripe customer belongs to. An account may have several, a customer has one account.

Stripe makes a new customer for each Checkout session without one, and for each use of a Payment Link.
A customer never moves to another account: the primary key of `stripe_customers` forbids it.
"""

from __future__ import annotations

from datetime import datetime

from paidup.db.models import Account, StripeCustomer


async def account_id_of(customer: str) -> int | None:
    """The account that a customer belongs to, or None."""
    row = await StripeCustomer.get_or_none(id=customer)
    if row is not None:
        return row.account_id
    # A process of the release before has linked it in a rolling deploy.
    account = await Account.filter(stripe_customer=customer).only("id").first()
    return account.id if account else None


async def customers_of(account: Account) -> list[str]:
    """The account's customers that Stripe still has: the one for new purchases first, then the newest."""
    rows = await StripeCustomer.filter(account_id=account.id, deleted_at__isnull=True).order_by(
        "-created_at", "-id"
    )
    current = account.stripe_customer
    others = [row.id for row in rows if row.id != current]
    return [current, *others] if current else others


async def link_customer(account_id: int, customer: str) -> bool:
    """Link a customer to an account; it becomes the one for new purchases where the account has none.

    False, with nothing changed, where it belongs to another account. Needs a transaction that has
    locked the account.
    """
    owner = await account_id_of(customer)
    if owner not in (None, account_id):
        return False
    await StripeCustomer.bulk_create(
        [StripeCustomer(id=customer, account_id=account_id)], ignore_conflicts=True
    )
    row = await StripeCustomer.get(id=customer)
    if row.account_id != account_id:
        return False  # linked at the same moment
    if row.deleted_at is None:
        await Account.filter(id=account_id, stripe_customer__isnull=True).update(stripe_customer=customer)
    return True


async def forget_customer(customer: str, at: datetime) -> None:
    """Record that Stripe has deleted a customer, so that the account's next purchase makes a new one.

    Its invoices stay the account's. Needs a transaction.
    """
    await StripeCustomer.filter(id=customer, deleted_at__isnull=True).update(deleted_at=at)
    await Account.filter(stripe_customer=customer).update(stripe_customer=None)
