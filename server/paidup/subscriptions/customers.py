"""The Stripe customer that an account's purchases use: made on first use, and again where Stripe deleted it.

Which customers belong to which account is in db/customers.py.
"""

from __future__ import annotations

import hashlib

import structlog

from paidup.db.connection import repeatable, storage_errors, write_transaction
from paidup.db.customers import account_id_of, forget_customer, is_deleted, link_customer
from paidup.db.models import Account
from paidup.errors import Conflict, StripeRefused, StripeUnavailable
from paidup.runtime.clock import Clock
from paidup.stripe_api.gateway import StripeGateway

log = structlog.get_logger(__name__)

MISSING = frozenset({400, 404})
"""How Stripe refuses a customer that it has deleted, or never had: in a parameter, in the address."""


class StripeCustomers:
    def __init__(self, gateway: StripeGateway, clock: Clock) -> None:
        self._gateway = gateway
        self._clock = clock

    async def add(self, account: Account, customer: str) -> Account:
        """Link a customer that the SaaS's backend names. Raises Conflict where it is another account's.

        An account that has one already keeps it, and the other account keeps its own.
        """
        with storage_errors():
            owner = await account_id_of(customer)
            if owner is not None and account.stripe_customer is not None:
                return account
            linked = await self._link(account, customer)
            if not linked and account.stripe_customer is None:
                raise Conflict(f"The Stripe customer {customer} belongs to another account.")
            return await Account.get(id=account.id)

    async def for_purchase(self, account: Account) -> str:
        """The account's customer, made at Stripe where it has none. Raises StripeError."""
        if account.stripe_customer is not None:
            return account.stripe_customer
        key = f"paidup-customer-{digest(account)}-{account.purchase_number}"
        made = await self._gateway.create_customer(account.external_id, key)
        with storage_errors():
            if not await self._link(account, made):
                raise Conflict(f"The Stripe customer {made} belongs to another account.")
            current = (await Account.get(id=account.id)).stripe_customer
        if current is None:
            raise StripeUnavailable(f"the new customer {made} was deleted meanwhile")
        return current

    async def forget_if_gone(self, customer: str, error: StripeRefused) -> bool:
        """Whether Stripe no longer has the customer of a request that it refused.

        Then the account forgets it, so that its next purchase makes a new one. Ledger and balance stay.
        """
        return error.http_status in MISSING and await self._forget_unless_there(customer)

    async def is_gone(self, customer: str) -> bool:
        """Whether Stripe has deleted this customer: `customer.deleted` may have been lost. As above."""
        with storage_errors():
            known = await is_deleted(customer)
        return known or await self._forget_unless_there(customer)

    async def _forget_unless_there(self, customer: str) -> bool:
        try:
            if await self._gateway.customers.read(customer):
                return False
        except StripeRefused as refused:
            log.warning("customer_not_read", customer=customer, error=str(refused))
            return False
        log.warning("customer_gone", customer=customer)
        async with write_transaction():
            await forget_customer(customer, self._clock())
        return True

    @repeatable
    async def _link(self, account: Account, customer: str) -> bool:
        async with write_transaction():
            return await link_customer(account.id, customer)


def digest(account: Account) -> str:
    """The account in an idempotency key, which holds 255 ASCII characters. Outlives the database."""
    return hashlib.sha256(account.external_id.encode()).hexdigest()[:32]
