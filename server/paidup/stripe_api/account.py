"""What belongs to the Stripe account: prices, webhook endpoints, its id and its clock."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from paidup.stripe_api.client import API_VERSION, RateLimitedClient, body_of, understood
from paidup.stripe_api.permissions import Permission, missing_permissions
from paidup.stripe_api.price_shapes import PriceInfo, decode_price, decode_prices
from paidup.stripe_api.schemas import ListOf


class EndpointInfo(msgspec.Struct, frozen=True):
    """A webhook endpoint as Stripe has it. `api_version` is None for the account's default version.

    `secret` comes once, in the answer that made it.
    """

    id: str
    url: str
    enabled_events: list[str]
    status: str
    api_version: str | None = None
    secret: str | None = None

    @property
    def enabled(self) -> bool:
        return self.status == "enabled"

    def lacks(self, types: Sequence[str]) -> list[str]:
        """Which of these event types it is not enabled for."""
        return [] if "*" in self.enabled_events else sorted(set(types) - set(self.enabled_events))


_ENDPOINT = msgspec.json.Decoder(EndpointInfo)
_ENDPOINTS = msgspec.json.Decoder(ListOf[EndpointInfo])


class StripeAccount:
    """The prices and webhook endpoints of the account that Paidup sells for."""

    def __init__(self, client: RateLimitedClient) -> None:
        self._client = client
        # A connected account's events go to an endpoint of the platform: https://docs.stripe.com/connect/webhooks
        self._endpoints = client.platform_v1.webhook_endpoints

    async def list_prices(self, lookup_keys: Sequence[str], active: bool = True) -> list[PriceInfo]:
        """The prices of these lookup keys, or those that were archived. Stripe takes ten keys a call."""
        found: list[PriceInfo] = []
        for start in range(0, len(lookup_keys), 10):
            params: Any = {
                "lookup_keys": list(lookup_keys[start : start + 10]),
                "active": active,
                "limit": 100,
                "expand": ["data.currency_options", "data.product"],  # shown only where asked for
            }
            page = await self._client.read("prices.list", "/v1/prices", params)
            found.extend(understood(decode_prices, page).data)
        return found

    async def read_price(self, price: str) -> PriceInfo:
        """One price, active or archived, with its product and currencies. Raises StripeError."""
        params: Any = {"expand": ["currency_options", "product"]}
        read = await self._client.call(
            "prices.retrieve", self._client.v1.prices.retrieve_async, price, params
        )
        return understood(decode_price, body_of(read))

    async def read_id(self) -> str:
        """The id of the account that the key belongs to; a restricted key may be refused."""
        read = await self._client.call("accounts.retrieve", self._client.v1.accounts.retrieve_current_async)
        return str(read.id)

    async def missing_permissions(self, wanted: Sequence[Permission]) -> list[Permission]:
        """Which of these a restricted key does not have."""
        return await missing_permissions(self._client, wanted)

    async def read_clock(self) -> datetime | None:
        """Stripe's time, to the second, from the headers of a small answer."""
        params: Any = {"limit": 1}
        page = await self._client.call("prices.list", self._client.v1.prices.list_async, params)
        answered: Any = page.last_response
        headers = {name.lower(): value for name, value in answered.headers.items()}
        return parsedate_to_datetime(headers["date"]) if "date" in headers else None

    async def list_endpoints(self) -> list[EndpointInfo]:
        """The webhook endpoints of the account, newest first. Stripe allows sixteen."""
        params: Any = {"limit": 100}
        page = await self._client.call("webhook_endpoints.list", self._endpoints.list_async, params)
        return understood(_ENDPOINTS.decode, body_of(page)).data

    async def create_endpoint(self, url: str, types: Sequence[str]) -> EndpointInfo:
        """A webhook endpoint at our API version; its answer alone shows the signing secret."""
        params: Any = {"url": url, "enabled_events": list(types), "api_version": API_VERSION}
        if self._client.connected_account:
            params["connect"] = True
        made = await self._client.call("webhook_endpoints.create", self._endpoints.create_async, params)
        return understood(_ENDPOINT.decode, body_of(made))

    async def update_endpoint(self, endpoint: str, types: Sequence[str]) -> EndpointInfo:
        """Enable an endpoint, and for these types. Its API version cannot be changed."""
        params: Any = {"enabled_events": list(types), "disabled": False}
        made = await self._client.call(
            "webhook_endpoints.update", self._endpoints.update_async, endpoint, params
        )
        return understood(_ENDPOINT.decode, body_of(made))
