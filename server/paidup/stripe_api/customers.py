"""Reads customers: whether Stripe still has one, what its metadata says, and all that are subscribed."""

from __future__ import annotations

from typing import Any

import msgspec

from paidup.errors import StripeRefused
from paidup.stripe_api.client import RateLimitedClient, body_of, understood
from paidup.stripe_api.schemas import ListOf, StripeSubscription


class ShownCustomer(msgspec.Struct, frozen=True):
    """A customer. One that was deleted is still shown: https://docs.stripe.com/api/customers/delete."""

    id: str
    deleted: bool = False
    metadata: dict[str, str] | None = None


class SubscribedCustomer(msgspec.Struct, frozen=True):
    """A subscription, its latest invoice expanded, and its customer."""

    subscription: StripeSubscription
    customer: ShownCustomer

    @property
    def id(self) -> str:
        return self.subscription.id


_SHOWN = msgspec.json.Decoder(ShownCustomer)


class CustomerReader:
    def __init__(self, client: RateLimitedClient) -> None:
        self._client = client

    async def read(self, customer: str, max_wait_s: float | None = None) -> ShownCustomer | None:
        """The customer; None where Stripe has deleted it, or never had it. Raises StripeError."""
        retrieve = self._client.v1.customers.retrieve_async
        try:
            read = await self._client.call("customers.retrieve", retrieve, customer, max_wait_s=max_wait_s)
        except StripeRefused as error:
            if error.is_missing:
                return None
            raise
        shown = understood(_SHOWN.decode, body_of(read))
        return None if shown.deleted else shown

    async def list_subscribed(self, after: str | None, max_wait_s: float) -> ListOf[SubscribedCustomer]:
        """A page of all subscriptions that have not ended, newest first. One read for a hundred of them."""
        params: dict[str, Any] = {"limit": 100, "expand": ["data.customer", "data.latest_invoice"]}
        if after:
            params["starting_after"] = after
        body = await self._client.read("subscriptions.list", "/v1/subscriptions", params, max_wait_s)
        return understood(_decode_page, body)


def _decode_page(body: bytes) -> ListOf[SubscribedCustomer]:
    page = msgspec.json.decode(body, type=ListOf[dict[str, Any]])
    return ListOf([_subscribed(each) for each in page.data], page.has_more)


def _subscribed(listed: dict[str, Any]) -> SubscribedCustomer:
    shown = listed["customer"]  # an id where it could not be expanded
    customer = ShownCustomer(shown) if isinstance(shown, str) else msgspec.convert(shown, ShownCustomer)
    subscription = msgspec.convert({**listed, "customer": customer.id}, StripeSubscription)
    return SubscribedCustomer(subscription, customer)
