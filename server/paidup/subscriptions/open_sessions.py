"""An account's open Checkout Sessions: one for each purchase. An older one is expired, never paid as well.

Two requests at once may make two. The rows are inserted under the account's lock, so one of the two
sees the other, and marks it as superseded; it is then expired at Stripe, by this process or by the
reconciler, before its page can have been opened. A session that has no row, since the process ended before
it could write one, is found in Stripe's list by the next purchase, whichever way that is paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import structlog
from tortoise.expressions import F
from tortoise.queryset import QuerySet

from paidup.credits import ledger
from paidup.db.connection import repeatable, storage_errors, write_transaction
from paidup.db.models import Account, CheckoutSession
from paidup.domain.payment_facts import Source
from paidup.errors import PaymentUnderWay, StripeError, StripeRefused
from paidup.payments.checkout_rows import new_row, next_check, update_row
from paidup.payments.checkout_verification import CheckoutVerification
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import EXPIRED, OPEN, StripeCheckoutSession
from paidup.stripe_api.gateway import StripeGateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import Purpose

log = structlog.get_logger(__name__)


class Sold(NamedTuple):
    """What a new session sells, and where its customer goes on to."""

    purchase: str
    price: str
    quantity: int
    return_to: str | None


class OpenSessions:
    def __init__(self, gateway: StripeGateway, checkouts: CheckoutVerification, prices: PriceCatalog) -> None:
        self._sessions = gateway.checkout_sessions
        self._checkouts = checkouts
        self._prices = prices

    async def newest(self, account: Account, purchase: str) -> CheckoutSession | None:
        with storage_errors():
            return await _open(account, purchase).order_by("-created_at").first()

    async def read(self, row: CheckoutSession) -> StripeCheckoutSession | None:
        """An open session as it is now, which is kept and settled. None where Stripe has deleted it."""
        try:
            shown = await self._sessions.read(row.id, purpose=Purpose.REQUEST)
        except StripeRefused as error:
            if not error.is_missing:
                raise
            await self._checkouts.forget(row.id)
            return None
        await self._checkouts.take(shown, Source.VERIFICATION)
        return shown

    async def close_all(self, account: Account, purchase: str) -> None:
        """As `close_known`, and those of the account's customer that have no row."""
        await self.close_known(account, purchase)
        if account.stripe_customer is not None:
            for each in await self.without_row(account.stripe_customer, purchase):
                await self.close(each.id)

    async def close_known(self, account: Account, purchase: str) -> None:
        """Expire the account's open sessions for this purchase, so that another one may be paid.

        Raises PaymentUnderWay where one of them was paid, or is being paid.
        """
        with storage_errors():
            rows = await _open(account, purchase)
        for row in rows:
            await self.close(row.id)

    async def close(
        self, session: str, source: Source = Source.VERIFICATION, max_wait_s: float | None = None
    ) -> None:
        """Expire a session. Raises PaymentUnderWay where it was paid, or is being paid.

        Background callers pass `max_wait_s`.
        """
        purpose = Purpose.REQUEST if max_wait_s is None else Purpose.CUSTOMER
        try:
            shown = await self._sessions.expire(session, max_wait_s)
        except StripeRefused as error:
            log.info("session_not_expired", checkout=session, error=str(error))
            if error.is_missing:
                await self._checkouts.forget(session)
                return
            shown = await self._sessions.read(session, max_wait_s, purpose=purpose)
        settled = await self._checkouts.take(shown, source)
        if shown.status != EXPIRED:
            raise PaymentUnderWay(settled.invoice or session)

    async def without_row(
        self, customer: str, purchase: str, made: str | None = None
    ) -> list[StripeCheckoutSession]:
        """Open sessions for this purchase that are not known here: but for the one just `made`.

        Where Stripe does not answer, there are none: nobody has the address of such a page.
        """
        try:
            listed = await self._sessions.list_open(customer, purchase)
        except StripeError as error:
            log.warning("sessions_not_listed", customer=customer, error=str(error))
            return []
        ids = [each.id for each in listed if each.id != made]
        with storage_errors():
            rows = await CheckoutSession.filter(id__in=ids).only("id") if ids else []
        known = {row.id for row in rows}
        return [each for each in listed if each.id in ids and each.id not in known]

    @repeatable
    async def insert(
        self,
        made: StripeCheckoutSession,
        account: Account,
        sold: Sold,
        without_row: Sequence[StripeCheckoutSession] = (),
    ) -> tuple[CheckoutSession, list[str]]:
        """The row of a new session, and the ids of open ones that it supersedes: they have to be closed.

        Those `without_row` get theirs: should another request be about to insert it, that one gives way.

        Its idempotency key is rotated with it, since the next request finds the row. The row may be over
        already, where Stripe has repeated the answer to a key that was used before.
        """
        at, number = now(), account.purchase_number
        new = new_row(made, at)
        update_row(new, made, at, self._prices)
        new.plan, new.price, new.quantity = self._prices[sold.price].plan, sold.price, sold.quantity
        new.purchase, new.return_to = sold.purchase, sold.return_to
        new.next_check_at = next_check(new, at)
        async with write_transaction():
            account = await ledger.lock_account(account.id)
            new.account_id = account.id
            ids: list[str] = []
            if not await CheckoutSession.exists(id=made.id):  # else of the same request at the same time
                for each in without_row:
                    lost = new_row(each, at)
                    lost.account_id, lost.purchase, lost.customer = (
                        account.id,
                        sold.purchase,
                        each.customer_id,
                    )
                    await CheckoutSession.bulk_create([lost], ignore_conflicts=True)
                ids = [each.id for each in await _open(account, sold.purchase)]
                await new.save(force_create=True)
                superseded = CheckoutSession.filter(id__in=ids, superseded_by__isnull=True)
                await superseded.update(superseded_by=made.id, next_check_at=at)
            rotated = Account.filter(id=account.id, purchase_number=number)
            await rotated.update(purchase_number=F("purchase_number") + 1)
            row = await CheckoutSession.get(id=made.id)
        return row, ids


def _open(account: Account, purchase: str) -> QuerySet[CheckoutSession]:
    return CheckoutSession.filter(account_id=account.id, status=OPEN, purchase=purchase)
