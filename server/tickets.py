"""Tickets: a signed, dated permission to watch one invoice. Nothing else opens a socket.

A ticket names the invoice and nothing secret; it is bound to it, so that it opens no other,
and it ends, so that a leaked one is of little use.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from server.errors import NotAllowed, NotAuthenticated


class Tickets:
    def __init__(self, secret_key: str, ttl_s: int) -> None:
        self._serializer = URLSafeTimedSerializer(secret_key, salt="paidup.ticket.v1")
        self._ttl_s = ttl_s

    def issue(self, invoice: str) -> str:
        """A ticket for `invoice`: URL-safe characters only, so that it fits a subprotocol."""
        return str(self._serializer.dumps(invoice))

    def expires_at(self, issued_at: datetime) -> datetime:
        return issued_at + timedelta(seconds=self._ttl_s)

    def check(self, ticket: str, invoice: str) -> None:
        """Raises NotAuthenticated (no ticket of ours, or expired) or NotAllowed (another invoice's)."""
        try:
            named = self._serializer.loads(ticket, max_age=self._ttl_s)
        except SignatureExpired:
            raise NotAuthenticated("The ticket has expired: fetch a fresh one.") from None
        except BadSignature:
            raise NotAuthenticated("The ticket is not valid.") from None
        if named != invoice:
            raise NotAllowed("The ticket is for another invoice.")
