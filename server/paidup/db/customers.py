"""Which account a Stripe customer belongs to. An account may have several, a customer has one account.

Stripe makes a new customer for each Checkout session without one, and for each use of a Payment Link.
A customer moves to another account only where an operator says so: the primary key of `stripe_customers`
forbids that it has two.
"""

from __future__ import annotations

from datetime import datetime

from tortoise.expressions import F

from paidup.db.accounts import find_account
from paidup.db.connection import storage_errors
from paidup.db.models import Account, CheckoutSession, StripeCustomer, Subscription


async def owner_of(named: str | None, subscription: str | None, customer: str | None) -> int | None:
    """The account of an invoice or a subscription: the one that its metadata names, whatever its customer.

    Without metadata, it is the customer's account, unless the subscription is known to be another's.
    Metadata is written with the SaaS's secret key, so it is trusted. None where it names an account that
    is not known: then the credits are meant for somebody else than the customer's account; unless that of
    its subscription has claimed them.
    """
    if named:
        account = await find_account(named)
        return account.id if account else await _claimant(subscription)
    owner = await account_id_of(customer) if customer else None
    if owner is None or subscription is None:
        return owner
    row = await Subscription.filter(id=subscription).only("id", "account_id").first()
    return row.account_id if row else owner


async def _claimant(subscription: str | None) -> int | None:
    """The account that has claimed the Checkout Session of a subscription."""
    if subscription is None:
        return None
    claimed = CheckoutSession.filter(subscription=subscription, claimed_at__not_isnull=True)
    row = await claimed.only("id", "account_id").first()
    return row.account_id if row else None


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
    with storage_errors():
        known = StripeCustomer.filter(account_id=account.id, deleted_at__isnull=True)
        rows = await known.order_by("-created_at", "-id")
    current = account.stripe_customer
    others = [row.id for row in rows if row.id != current]
    return [current, *others] if current else others


async def is_deleted(customer: str) -> bool:
    """Whether Stripe is known to have deleted this customer."""
    return await StripeCustomer.exists(id=customer, deleted_at__isnull=False)


async def link_customer(account_id: int, customer: str, for_purchases: bool = True) -> bool:
    """Link a customer to an account; it becomes the one for new purchases where the account has none.

    `for_purchases` False: it does not, since anybody who paid may have named the account (a Payment Link
    takes any `client_reference_id`), and the email address of that customer is theirs. False, with nothing
    changed, where it belongs to another account. Needs a transaction that has locked the account.
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
    if row.deleted_at is None and for_purchases:
        await Account.filter(id=account_id, stripe_customer__isnull=True).update(stripe_customer=customer)
    return True


async def forget_customer(customer: str, at: datetime) -> bool:
    """Record that Stripe has deleted a customer, so that the account's next purchase makes a new one.

    Its invoices stay the account's. False where it is not known. Needs a transaction.
    """
    owner = await account_id_of(customer)
    if owner is None:
        return False
    # The next purchase has a new idempotency key: to the old one, Stripe repeats the deleted customer.
    await Account.filter(stripe_customer=customer).update(
        stripe_customer=None, purchase_number=F("purchase_number") + 1
    )
    row = StripeCustomer(id=customer, account_id=owner)  # missing where the release before linked it
    await StripeCustomer.bulk_create([row], ignore_conflicts=True)
    await StripeCustomer.filter(id=customer, deleted_at__isnull=True).update(deleted_at=at)
    return True


async def unlink_customer(account_id: int, customer: str) -> None:
    """Undo `link_customer`. Needs a transaction that has locked the account."""
    await StripeCustomer.filter(id=customer, account_id=account_id).delete()
    # A new idempotency key, as in `forget_customer`.
    await Account.filter(id=account_id, stripe_customer=customer).update(
        stripe_customer=None, purchase_number=F("purchase_number") + 1
    )
