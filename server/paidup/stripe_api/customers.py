"""Reads customers: whether Stripe still has one, and what its metadata says."""

from __future__ import annotations

import msgspec

from paidup.errors import StripeRefused
from paidup.stripe_api.client import RateLimitedClient, body_of


class ShownCustomer(msgspec.Struct, frozen=True):
    """A customer. One that was deleted is still shown: https://docs.stripe.com/api/customers/delete."""

    id: str
    deleted: bool = False
    metadata: dict[str, str] | None = None


class CustomerReader:
    def __init__(self, client: RateLimitedClient) -> None:
        self._client = client

    async def read(self, customer: str, max_wait_s: float | None = None) -> ShownCustomer | None:
        """The customer; None where Stripe has deleted it, or never had it. Raises StripeError."""
        retrieve = self._client.v1.customers.retrieve_async
        try:
            read = await self._client.call("customers.retrieve", retrieve, customer, max_wait_s=max_wait_s)
        except StripeRefused as error:
            if error.code == "resource_missing":
                return None
            raise
        shown = msgspec.json.decode(body_of(read), type=ShownCustomer)
        return None if shown.deleted else shown
