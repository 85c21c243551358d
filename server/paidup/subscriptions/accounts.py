"""The accounts of the SaaS's users, made on first use."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from paidup.db.accounts import surviving
from paidup.db.bulk import quote_names, select_by_keys
from paidup.db.connection import is_sqlite, storage_errors
from paidup.db.instances import columns_of, row_of
from paidup.db.models import Account
from paidup.payments.claims import Claims
from paidup.runtime.batching import BatchExecutor
from paidup.subscriptions.customers import StripeCustomers

WITHIN_S = 10.0
"""For how long a caller waits until its account is read: those that came before are read first."""
BESIDE_AFTER_S = 1.0
"""A statement that takes longer, on a connection that does not answer, keeps no later requests waiting."""


class Accounts:
    def __init__(self, customers: StripeCustomers, claims: Claims, within_s: float = WITHIN_S) -> None:
        self._customers = customers
        self._claims = claims
        self._within_s = within_s
        # Requests that come together read theirs by one statement.
        self._find = BatchExecutor(_find_many, beside_after_s=BESIDE_AFTER_S)

    async def get(self, external_id: str, stripe_customer: str | None = None) -> Account:
        """A user's account; `stripe_customer` is added to its customers.

        A new one gets what was paid for it before it was there. Raises Conflict (another account's
        customer), StorageUnavailable.
        """
        with storage_errors():
            async with asyncio.timeout(self._within_s):
                found, created = await self._find(external_id), False
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


async def _find_many(external_ids: Sequence[str]) -> list[Account | None]:
    sqlite, columns = is_sqlite(), columns_of(Account)
    query = f"SELECT {quote_names(columns)} FROM accounts WHERE external_id"  # noqa: S608 - names of columns
    named = columns.index("external_id")
    found = {cells[named]: cells async for cells in select_by_keys(query, external_ids)}
    rows = [found.get(external_id) for external_id in external_ids]
    return [row_of(Account, cells, sqlite) if cells else None for cells in rows]  # of its own for each
