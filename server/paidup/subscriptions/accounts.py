"""The accounts of the SaaS's users, made on first use, and what is read of them most."""

from __future__ import annotations

from collections.abc import Sequence

from paidup.db.accounts import surviving
from paidup.db.bulk import quote_names, select_by_keys
from paidup.db.connection import is_sqlite, storage_errors
from paidup.db.instances import columns_of, row_of
from paidup.db.models import Account
from paidup.db.shared_reads import WITHIN_S, SharedRead
from paidup.payments.claims import Claims
from paidup.realtime.status_queries import read_owned_statuses
from paidup.subscriptions.credit_reads import read_credits
from paidup.subscriptions.customers import StripeCustomers


class Accounts:
    """`read_credits` takes an account's id at the SaaS, `read_status` an invoice's; each is one statement."""

    def __init__(self, customers: StripeCustomers, claims: Claims, within_s: float = WITHIN_S) -> None:
        self._customers = customers
        self._claims = claims
        self._find = SharedRead(_find_many, within_s)
        self.read_credits = SharedRead(read_credits, within_s)
        self.read_status = SharedRead(read_owned_statuses, within_s)

    async def get(self, external_id: str, stripe_customer: str | None = None) -> Account:
        """A user's account; `stripe_customer` is added to its customers.

        A new one gets what was paid for it before it was there. Raises Conflict (another account's
        customer), StorageUnavailable.
        """
        found, created = await self._find(external_id), False
        with storage_errors():
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

    def is_current(self, account: Account, stripe_customer: str | None) -> bool:
        """Whether `get` would return this account, which was just read, as it is."""
        return account.merged_into is None and stripe_customer in (None, account.stripe_customer)


async def _find_many(external_ids: Sequence[str]) -> list[Account | None]:
    sqlite, columns = is_sqlite(), columns_of(Account)
    query = f"SELECT {quote_names(columns)} FROM accounts WHERE external_id"  # noqa: S608 - names of columns
    named = columns.index("external_id")
    found = {cells[named]: cells async for cells in select_by_keys(query, external_ids)}
    rows = [found.get(external_id) for external_id in external_ids]
    return [row_of(Account, cells, sqlite) if cells else None for cells in rows]  # of its own for each
