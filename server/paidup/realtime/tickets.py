"""Tickets: signed, expiring tokens that open a WebSocket on one invoice, account or Checkout Session.

A ticket contains no secret. It is valid for one of them only, and it expires, so that a leaked one is
of little use. An invoice's ticket also names its account, so that an account's sockets can be counted
without reading a row. The kinds use different salts: an account's ticket is not valid for an invoice.
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
        self._checkouts = URLSafeTimedSerializer(secret_key, salt="paidup.ticket.checkout.v1")
        # Made once: the serializer would make a signer for each ticket, most of the cost of a check.
        self._signers = {
            serializer: next(serializer.iter_unsigners())
            for serializer in (self._invoices, self._accounts, self._checkouts)
        }
        self._ttl_s = ttl_s

    def issue(self, invoice: str, account_id: int) -> str:
        """A ticket for `invoice`. URL-safe characters only, so that it can be offered as a subprotocol."""
        return str(self._invoices.dumps([invoice, account_id]))

    def issue_for_account(self, account_id: int) -> str:
        """A ticket for the account's balance, with the same characters."""
        return str(self._accounts.dumps(account_id))

    def issue_for_checkout(self, checkout: str) -> str:
        """A ticket for the Checkout Session, which names nobody."""
        return str(self._checkouts.dumps(checkout))

    def expires_at(self, issued_at: datetime) -> datetime:
        return issued_at + timedelta(seconds=self._ttl_s)

    def check(self, ticket: str, invoice: str) -> int:
        """Verify an invoice's ticket and return its account's id.

        Raises NotAuthenticated (invalid or expired) or NotAllowed (for another invoice).
        """
        ticket_invoice, account_id = self._payload(self._invoices, ticket)
        if ticket_invoice != invoice:
            raise NotAllowed("The ticket is for another invoice.")
        return int(account_id)

    def check_checkout(self, ticket: str, checkout: str) -> None:
        """Verify a Checkout Session's ticket.

        Raises NotAuthenticated (invalid or expired) or NotAllowed (for another session).
        """
        if self._payload(self._checkouts, ticket) != checkout:
            raise NotAllowed("The ticket is for another Checkout Session.")

    def account_of(self, ticket: str) -> int:
        """Verify an account's ticket and return the account's id. Raises NotAuthenticated."""
        return int(self._payload(self._accounts, ticket))

    def _payload(self, serializer: URLSafeTimedSerializer, ticket: str) -> Any:
        try:
            payload = self._signers[serializer].unsign(ticket, max_age=self._ttl_s)
            return serializer.load_payload(payload)
        except SignatureExpired:
            raise NotAuthenticated("The ticket has expired. Request a new one.") from None
        except BadData:
            raise NotAuthenticated("The ticket is not valid.") from None
