"""Tickets: signed, expiring tokens that open a WebSocket on one invoice, account or Checkout Session.

A ticket contains no secret. It is valid for one of them only, and it expires, so that a leaked one is
of little use. An invoice's ticket also names its account, so that an account's sockets can be counted
without reading a row. The kinds use different salts: an account's ticket is not valid for an invoice.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timedelta
from typing import Any

import msgspec
from itsdangerous import BadData, SignatureExpired, URLSafeTimedSerializer

from paidup.errors import NotAllowed, NotAuthenticated


class Tickets:
    def __init__(self, secret_key: str, ttl_s: int) -> None:
        self._invoices = _Kind(secret_key, "paidup.ticket.v2", ttl_s)
        self._accounts = _Kind(secret_key, "paidup.ticket.account.v1", ttl_s)
        self._checkouts = _Kind(secret_key, "paidup.ticket.checkout.v1", ttl_s)
        self._ttl_s = ttl_s

    def issue(self, invoice: str, account_id: int) -> str:
        """A ticket for `invoice`. URL-safe characters only, so that it can be offered as a subprotocol."""
        return self._invoices.sign([invoice, account_id])

    def issue_for_account(self, account_id: int) -> str:
        """A ticket for the account's balance, with the same characters."""
        return self._accounts.sign(account_id)

    def issue_for_checkout(self, checkout: str) -> str:
        """A ticket for the Checkout Session, which names nobody."""
        return self._checkouts.sign(checkout)

    def expires_at(self, issued_at: datetime) -> datetime:
        return issued_at + timedelta(seconds=self._ttl_s)

    def check(self, ticket: str, invoice: str) -> int:
        """Verify an invoice's ticket and return its account's id.

        Raises NotAuthenticated (invalid or expired) or NotAllowed (for another invoice).
        """
        ticket_invoice, account_id = self._invoices.read(ticket)
        if ticket_invoice != invoice:
            raise NotAllowed("The ticket is for another invoice.")
        return int(account_id)

    def check_checkout(self, ticket: str, checkout: str) -> None:
        """Verify a Checkout Session's ticket.

        Raises NotAuthenticated (invalid or expired) or NotAllowed (for another session).
        """
        if self._checkouts.read(ticket) != checkout:
            raise NotAllowed("The ticket is for another Checkout Session.")

    def account_of(self, ticket: str) -> int:
        """Verify an account's ticket and return the account's id. Raises NotAuthenticated."""
        return int(self._accounts.read(ticket))


class _Kind:
    """Signs and reads the tickets of one salt."""

    def __init__(self, secret_key: str, salt: str, ttl_s: int) -> None:
        self._serializer = URLSafeTimedSerializer(secret_key, salt=salt)
        # Made once: the serializer would make a signer for each ticket, and the signer would derive its key.
        self._signer = next(self._serializer.iter_unsigners())
        self._hmac = hmac.new(self._signer.derive_key(), digestmod="sha1")
        self._ttl_s = ttl_s

    def sign(self, content: Any) -> str:
        return str(self._serializer.dumps(content))

    def read(self, ticket: str) -> Any:
        """What was signed. Raises NotAuthenticated (invalid or expired).

        A valid ticket costs one HMAC. Any other is left to the library, which says what is wrong with it.
        """
        value, _, signature = ticket.rpartition(".")
        content, _, issued_at = value.rpartition(".")
        if hmac.compare_digest(self._signature(value), signature.encode()) and not content.startswith("."):
            age_s = self._signer.get_timestamp() - int.from_bytes(_decode(issued_at), "big")
            if 0 <= age_s <= self._ttl_s:
                return msgspec.json.decode(_decode(content))
        try:
            return self._serializer.load_payload(self._signer.unsign(ticket, max_age=self._ttl_s))
        except SignatureExpired:
            raise NotAuthenticated("The ticket has expired. Request a new one.") from None
        except BadData:
            raise NotAuthenticated("The ticket is not valid.") from None

    def _signature(self, value: str) -> bytes:
        signing = self._hmac.copy()  # to set up the key again would take as long as the rest
        signing.update(value.encode())
        return urlsafe_b64encode(signing.digest()).rstrip(b"=")


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "===")
