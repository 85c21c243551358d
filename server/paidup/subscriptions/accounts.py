"""The accounts of the SaaS's users, made on first use."""

from __future__ import annotations

from paidup.db.accounts import surviving
from paidup.db.connection import storage_errors
from paidup.db.models import Account
from paidup.db.unit_of_work import read_rows
from paidup.payments.claims import Claims
from paidup.subscriptions.customers import StripeCustomers


class Accounts:
    def __init__(self, customers: StripeCustomers, claims: Claims) -> None:
        self._customers = customers
        self._claims = claims

    async def get(self, external_id: str, stripe_customer: str | None = None) -> Account:
        """A user's account; `stripe_customer` is added to its customers.

        A new one gets what was paid for it before it was there. Raises Conflict (another account's
        customer), StorageUnavailable.
        """
        with storage_errors():
            found, created = await _find(external_id), False
            if found is None:
                found, created = await Account.get_or_create(external_id=external_id)
            account = await surviving(found)
        if stripe_customer and account.stripe_customer != stripe_customer:
            account = await self._customers.add(account, stripe_customer)
        if created:
            await self._claims.adopt_named(account)
            with storage_errors():
                await account.refresh_from_db()
        return account


async def _find(external_id: str) -> Account | None:
    found = await read_rows("accounts.external_id = $1", [external_id], Account)
    return found[0] if found else None
