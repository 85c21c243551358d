"""Assigns a Checkout Session that was made elsewhere to an account, once.

The session's row is locked and gets its account in one transaction, with its customer, its subscription
and the events that waited for it. Credits follow from the session's invoice as for any other: at once,
or, where the process dies here, by the reconciler, since the session is due from that transaction on.
"""

from __future__ import annotations

import asyncio

import structlog
from tortoise.expressions import Subquery

from paidup.credits import ledger
from paidup.db.accounts import surviving
from paidup.db.connection import locked, repeatable, storage_errors, write_transaction
from paidup.db.customers import link_customer
from paidup.db.models import Account, CheckoutSession, Subscription
from paidup.domain.payment_facts import Source
from paidup.errors import Conflict, NotFound, StripeError
from paidup.payments import entitlements
from paidup.payments.checkout_verification import CheckoutVerification
from paidup.payments.unclaimed import unclaimed_sessions, wake_events
from paidup.realtime.hub import Hub
from paidup.realtime.publishing import publish_checkout
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import COMPLETE

log = structlog.get_logger(__name__)

SETTLED_WITHIN_S = 5.0
"""How long a claim waits for Stripe. After that, the reconciler settles it."""
MAX_NAMED = 50
"""How many sessions that name an account are assigned in one round."""


class Claims:
    def __init__(self, checkouts: CheckoutVerification, hub: Hub) -> None:
        self._checkouts = checkouts
        self._hub = hub

    async def claim(self, session: str, account: Account) -> None:
        """Make a session the account's, and settle it. Again by the same account: nothing changes.

        Raises NotFound, Conflict (it is another account's, or nobody has paid), StorageUnavailable.
        """
        if await assign(session, account.id):
            log.info("checkout_claimed", checkout=session, account=account.external_id)
            await publish_checkout(self._hub, session)
        await self._settle(session)
        with storage_errors():
            # Its invoice may name somebody else, which is known only once it has been read.
            if not await CheckoutSession.exists(id=session, account_id=account.id):
                raise Conflict(f"{session} belongs to another account.")

    async def adopt_named(self, account: Account) -> None:
        """A new account gets the sessions that name it in `client_reference_id`."""
        with storage_errors():
            named = unclaimed_sessions().filter(client_reference=account.external_id)
            rows = await named.order_by("created_at").limit(MAX_NAMED).only("id")
        for row in rows:
            await self._adopt(row.id, account)

    async def sweep(self) -> int:
        """Assign sessions whose named account was made at the moment in which they were read."""
        with storage_errors():
            accounts = Account.all().values("external_id")
            named = unclaimed_sessions().filter(client_reference__in=Subquery(accounts))
            rows = await named.order_by("created_at").limit(MAX_NAMED)
            owners = await Account.filter(external_id__in=[row.client_reference for row in rows])
            by_name = {account.external_id: await surviving(account) for account in owners}
        for row in rows:
            await self._adopt(row.id, by_name[row.client_reference or ""])
        return len(rows)

    async def _adopt(self, session: str, account: Account) -> None:
        try:
            await self.claim(session, account)
        except Conflict as error:  # claimed at the same moment
            log.info("checkout_not_adopted", checkout=session, error=str(error))

    async def _settle(self, session: str) -> None:
        try:
            async with asyncio.timeout(SETTLED_WITHIN_S):
                await self._checkouts.refresh(session, Source.VERIFICATION)
        except (StripeError, TimeoutError) as error:
            log.info("claim_settled_later", checkout=session, error=repr(error))


@repeatable
async def assign(session: str, account_id: int) -> bool:
    """Give the session its account. False where it is theirs already. Raises NotFound, Conflict."""
    at = now()
    async with write_transaction():
        # The account first, like the settlement.
        account = await ledger.lock_account(account_id)
        account_id = account.id
        row = await locked(CheckoutSession.filter(id=session)).get_or_none()
        if row is None:
            raise NotFound(f"There is no Checkout Session {session}.")
        if row.account_id == account_id:
            return False
        if row.account_id is not None:
            raise Conflict(f"{session} belongs to another account.")
        if row.status != COMPLETE:
            raise Conflict(f"{session} is {row.status}: nothing has been paid with it.")
        row.account_id, row.claimed_at = account_id, at
        # A read that has begun before says nothing of this account: the next one need not wait for it.
        row.next_check_at, row.lease_expires_at = at, None
        await row.save(update_fields=["account_id", "claimed_at", "next_check_at", "lease_expires_at"])
        if row.customer:
            await link_customer(account_id, row.customer, for_purchases=False)
        if row.subscription:
            new = Subscription(
                id=row.subscription, account_id=account_id, plan=row.plan, price=row.price, refresh_at=at
            )
            await Subscription.bulk_create([new], ignore_conflicts=True)
            await entitlements.refresh(account)
        await wake_events(row, at)
    return True
