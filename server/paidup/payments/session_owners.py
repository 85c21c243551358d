"""Whose a Checkout Session is: one rule, with the same answer in whichever order its events come.

The events of its invoice and of its subscription show neither `client_reference_id` nor the session's own
metadata. So what they show decides first: the invoice's metadata, then an account that has the customer or
the subscription. Only where these say nothing does the session say whose it is.
"""

from __future__ import annotations

from typing import NamedTuple

from paidup.db.accounts import find_account
from paidup.db.connection import storage_errors
from paidup.db.customers import owner_of
from paidup.db.models import CheckoutSession, Invoice
from paidup.stripe_api.checkout_schemas import StripeCheckoutSession


class Owner(NamedTuple):
    """`named_by_payer`: only its `client_reference_id` says so, which its payer may have written."""

    account_id: int | None
    named_by_payer: bool = False


async def owner_of_session(shown: StripeCheckoutSession) -> Owner:
    """The account that a session is for; None where it is nobody's yet. Raises StorageUnavailable."""
    with storage_errors():
        if (invoice := await Invoice.get_or_none(id=shown.invoice_id or shown.id)) is not None:
            row = await CheckoutSession.filter(id=shown.id, account_id=invoice.account_id).first()
            return Owner(invoice.account_id, row is not None and row.named_by_payer)
        row = await CheckoutSession.get_or_none(id=shown.id)
        if row is not None and is_decided(row):
            return Owner(row.account_id)
        owner = await owner_of(shown.invoice_account, shown.subscription_id, shown.customer_id)
        if owner is not None or shown.invoice_account:
            return Owner(owner)  # what the invoice's metadata names is meant for nobody else
        named = shown.reference
        account = await find_account(named) if named else None
    if account is None:
        return Owner(None)
    return Owner(account.id, named_by_payer=shown.account is None)


def is_decided(row: CheckoutSession) -> bool:
    """Whether its account was settled for good: it was made for it, claimed by it, or credited to it."""
    return row.account_id is not None and bool(row.purchase or row.claimed_at or row.invoice)
