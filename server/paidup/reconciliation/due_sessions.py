"""Checkout Sessions whose time has come: those to be read again, and those that another has replaced.

One that was superseded while its page was open is expired at Stripe, so that it cannot be paid. Where
it was paid at that moment, it is credited, and flagged by `second_payments.py`.
"""

from __future__ import annotations

from datetime import timedelta

import structlog

from paidup.db.connection import locked, storage_errors, write_transaction
from paidup.db.models import CheckoutSession
from paidup.domain.backoff import FIRST_CHECK_S
from paidup.domain.payment_facts import Source
from paidup.errors import PaymentUnderWay, StripeRefused, StripeUnavailable
from paidup.payments.checkout_rows import next_check
from paidup.payments.checkout_verification import CheckoutVerification
from paidup.payments.claims import Claims
from paidup.reconciliation.due_rows import BATCH, for_each
from paidup.reconciliation.failures import FAILURES
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import OPEN
from paidup.stripe_api.rate_limiter import BACKGROUND_MAX_WAIT_S
from paidup.subscriptions.open_sessions import OpenSessions

log = structlog.get_logger(__name__)


class DueSessions:
    def __init__(self, checkouts: CheckoutVerification, open_: OpenSessions, claims: Claims) -> None:
        self._checkouts = checkouts
        self._open = open_
        self._claims = claims

    async def adopt_named(self) -> int:
        """Give sessions to the accounts that they name, where those were made at the same moment."""
        return await self._claims.sweep()

    async def sweep(self) -> int:
        """Read or expire the sessions that are due, as far as the rate limiter leaves slots."""
        at = now()
        async with write_transaction():
            due = CheckoutSession.filter(next_check_at__lte=at).order_by("next_check_at")
            rows = await locked(due.limit(BATCH), skip=True)
            for row in rows:
                row.next_check_at = next_check(row, at)
            if rows:
                await CheckoutSession.bulk_update(rows, fields=["next_check_at"])
        await for_each(rows, self._look_at)
        return len(rows)

    async def _look_at(self, row: CheckoutSession) -> None:
        try:
            if row.superseded_by and row.status == OPEN:
                await self._open.close(row.id, Source.RECONCILIATION, BACKGROUND_MAX_WAIT_S)
            else:
                await self._read(row)
        except PaymentUnderWay:
            return  # it was paid at that moment, and is credited
        except StripeUnavailable as error:
            log.info("reconciliation_postponed", checkout=row.id, error=str(error))
            soon = now() + timedelta(seconds=FIRST_CHECK_S)
            with storage_errors():
                await CheckoutSession.filter(id=row.id, next_check_at__not_isnull=True).update(
                    next_check_at=soon
                )
        except FAILURES as error:
            log.warning("reconciliation_failed", checkout=row.id, error=str(error))

    async def _read(self, row: CheckoutSession) -> None:
        try:
            await self._checkouts.verify(row.id, Source.RECONCILIATION, BACKGROUND_MAX_WAIT_S)
        except StripeRefused as error:
            # One that Stripe has not yet shown is younger.
            if not error.is_missing or row.expires_at > now():
                raise
            await self._checkouts.forget(row.id)
