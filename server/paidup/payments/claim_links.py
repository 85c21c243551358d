"""Claim links: signed, expiring tokens with which a customer claims a Checkout Session that is paid.

A token names the session and nobody: any customer who is logged in and has it may claim, once. It has
a salt of its own, so that no ticket is a claim, and no claim a ticket.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import quote

import msgspec
from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer

from paidup.db.connection import storage_errors
from paidup.db.models import CheckoutSession
from paidup.domain.payment_facts import Source
from paidup.errors import Conflict, InvalidInput, NotFound
from paidup.payments.checkout_verification import CheckoutVerification
from paidup.runtime.clock import now
from paidup.stripe_api.checkout_schemas import COMPLETE, OPEN


class ClaimLink(msgspec.Struct, frozen=True):
    """`claim` is the token for `POST /api/claims`; `url` is CLAIM_URL with it, where that is set."""

    checkout: str
    claim: str
    url: str | None
    expires_at: datetime


class ClaimLinks:
    """`page`: the address of the SaaS's page that claims, or empty."""

    def __init__(self, secret_key: str, days: int, page: str, checkouts: CheckoutVerification) -> None:
        self._serializer = URLSafeTimedSerializer(secret_key, salt="paidup.claim.v1")
        self._valid = timedelta(days=days)
        self._page = page
        self._checkouts = checkouts

    async def make(self, session: str) -> ClaimLink:
        """A link for a session that is paid and belongs to nobody; one that is not known so is read.

        Raises NotFound, Conflict (it has an account, or nobody has paid), StripeError.
        """
        row = await _row(session)
        if row is None or row.status == OPEN:  # its webhook may be late, or lost
            read = self._checkouts.verify if row is None else self._checkouts.refresh
            await read(session, Source.VERIFICATION)
            row = await _row(session)
        if row is None:
            raise NotFound(f"There is no Checkout Session {session} that sells a plan.")
        if row.account_id is not None:
            raise Conflict(f"{session} belongs to an account already.")
        if row.status != COMPLETE:
            raise Conflict(f"{session} is {row.status}: nothing has been paid with it.")
        claim = str(self._serializer.dumps(session))
        return ClaimLink(session, claim, self._url(claim), now() + self._valid)

    def session_of(self, claim: str) -> str:
        """The session that a token names. Raises InvalidInput where it is forged, changed or expired."""
        try:
            return str(self._serializer.loads(claim, max_age=int(self._valid.total_seconds())))
        except SignatureExpired:
            raise InvalidInput("The claim link has expired. Please ask for a new one.") from None
        except BadData:
            raise InvalidInput("The claim link is not valid.") from None

    def _url(self, claim: str) -> str | None:
        if not self._page:
            return None
        separator = "&" if "?" in self._page else "?"
        return f"{self._page}{separator}claim={quote(claim, safe='')}"


async def _row(session: str) -> CheckoutSession | None:
    with storage_errors():
        return await CheckoutSession.get_or_none(id=session)
