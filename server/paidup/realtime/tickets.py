"""Tickets: a signed, dated permission to watch one invoice, or one account. Nothing else opens a socket.

A ticket names what it is for and nothing secret; it is bound to it, so that it opens no other,
and it ends, so that a leaked one is of little use. An invoice's ticket names its account, too, so
that an account's sockets can be counted without reading its row. The two kinds are signed apart: what is good
for an account is, for an invoice, no ticket at all.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer

from paidup.errors import NotAllowed, NotAuthenticated


class Tickets:
    def __init__(self, secret_key: str, ttl_s: int) -> None:
        self._invoices = URLSafeTimedSerializer(secret_key, salt="paidup.ticket.v2")
        self._accounts = URLSafeTimedSerializer(secret_key, salt="paidup.ticket.account.v1")
        # Made once: the serializer itself makes a signer for each ticket, most of what checking costs.
        self._signers = {
            serializer: next(serializer.iter_unsigners()) for serializer in (self._invoices, self._accounts)
        }
        self._ttl_s = ttl_s

    def issue(self, invoice: str, account_id: int) -> str:
        """A ticket for the account's `invoice`: URL-safe characters only, so that it fits a subprotocol."""
        return str(self._invoices.dumps([invoice, account_id]))

    def issue_for_account(self, account_id: int) -> str:
        """A ticket for the account's balance, of the same characters."""
        return str(self._accounts.dumps(account_id))

    def expires_at(self, issued_at: datetime) -> datetime:
        return issued_at + timedelta(seconds=self._ttl_s)

    def check(self, ticket: str, invoice: str) -> int:
        """The account whose invoice it is.

        Raises NotAuthenticated (no ticket of ours, or expired) or NotAllowed (another invoice's).
        """
        named, account_id = self._named(self._invoices, ticket)
        if named != invoice:
            raise NotAllowed("The ticket is for another invoice.")
        return int(account_id)

    def account_of(self, ticket: str) -> int:
        """The account that the ticket is for. Raises NotAuthenticated."""
        return int(self._named(self._accounts, ticket))

    def _named(self, serializer: URLSafeTimedSerializer, ticket: str) -> Any:
        try:
            payload = self._signers[serializer].unsign(ticket, max_age=self._ttl_s)
            return serializer.load_payload(payload)
        except SignatureExpired:
            raise NotAuthenticated("The ticket has expired: fetch a fresh one.") from None
        except BadData:
            raise NotAuthenticated("The ticket is not valid.") from None
