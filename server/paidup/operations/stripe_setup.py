"""Creates the webhook endpoint in Stripe, for `paidup stripe-setup`; `price_setup.py` creates the prices.

Safe to run again: an existing endpoint is kept or updated, and never deleted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import msgspec

from paidup.errors import InvalidInput
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.runtime.embedded_valkey import embedded_valkey
from paidup.runtime.redis_client import connect_redis
from paidup.settings import Settings
from paidup.stripe_api.account import EndpointInfo
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.gateway import StripeGateway, open_gateway
from paidup.stripe_api.rate_limiter import RateLimiter

WEBHOOK_PATH = "/webhooks/stripe"


class EndpointSetup(msgspec.Struct, frozen=True):
    """The result for the webhook endpoint: `created`, `updated` or `exists`.

    Stripe returns `secret` only when it creates the endpoint. `api_version` is the endpoint's, which
    may be older than the SDK's.
    """

    id: str
    url: str
    state: str
    api_version: str | None
    secret: str | None = None
    notes: list[str] = []
    """What is to be done before webhooks arrive there."""

    @property
    def same_version(self) -> bool:
        return self.api_version == API_VERSION


@asynccontextmanager
async def open_gateway_only(settings: Settings) -> AsyncIterator[StripeGateway]:
    """Open the Stripe gateway without the other services: stripe-setup runs before there is a database."""
    async with AsyncExitStack() as stack:
        url = settings.redis_url or stack.enter_context(embedded_valkey(settings.data_dir))
        redis = connect_redis(url, settings.redis_cluster)
        stack.push_async_callback(redis.aclose)
        rate_limiter = RateLimiter(redis, settings.stripe_requests_per_second)
        key, base = settings.stripe_secret_key, settings.stripe_api_base
        account = settings.stripe_account
        yield await stack.enter_async_context(
            open_gateway(
                key,
                base,
                settings.stripe_timeout_s,
                rate_limiter,
                connected_account=account,
                outgoing=settings.outgoing,
            )
        )


async def ensure_endpoint(gateway: StripeGateway, url: str) -> EndpointSetup:
    """Create the webhook endpoint at this URL, or enable it and its missing event types.

    Raises StripeError, and InvalidInput if it is not a URL.
    """
    address = webhook_address(url)
    for found in await gateway.account.list_endpoints():
        if found.url == address:
            return await _update_endpoint(gateway, found)
    created = await gateway.account.create_endpoint(address, HANDLED_TYPES)
    return EndpointSetup(created.id, created.url, "created", created.api_version, created.secret)


async def _update_endpoint(gateway: StripeGateway, found: EndpointInfo) -> EndpointSetup:
    missing_types = found.lacks(HANDLED_TYPES)
    if found.enabled and not missing_types:
        return EndpointSetup(found.id, found.url, "exists", found.api_version)
    # Keep other event types that someone enabled: webhooks of any type are answered 200.
    updated = await gateway.account.update_endpoint(found.id, [*found.enabled_events, *missing_types])
    return EndpointSetup(updated.id, updated.url, "updated", updated.api_version)


def webhook_address(url: str) -> str:
    """Return the endpoint's full URL; a URL without a path gets Paidup's. Raises InvalidInput."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{url!r} is not a URL such as https://your.host{WEBHOOK_PATH}")
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{WEBHOOK_PATH}"
