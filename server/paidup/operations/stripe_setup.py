"""Makes in Stripe what is needed there: the products and prices of `plans.toml`, and the webhook endpoint.

Safe to run again: what is there is left, or brought up to date. Refuses to change a price
that exists, since Stripe's prices are immutable and a customer may be paying it: one whose
amount differs from the file is reported. Refuses to delete anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import msgspec

from paidup.domain.catalog import Catalogue
from paidup.embedded_valkey import embedded_valkey
from paidup.errors import InvalidInput
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.redis_client import connect_redis
from paidup.settings import Settings
from paidup.stripe_api.gateway import API_VERSION, EndpointInfo, StripeGateway, open_gateway
from paidup.stripe_api.rate_limiter import RateLimiter

WEBHOOK_PATH = "/webhooks/stripe"


class PriceSetup(msgspec.Struct, frozen=True):
    """What became of one lookup key: `made`, `there`, or `differs` (amount, currency or interval)."""

    lookup_key: str
    price: str
    state: str


class EndpointSetup(msgspec.Struct, frozen=True):
    """What became of the webhook endpoint: `made`, `updated` or `there`.

    `secret` is known where it was made now, and never again. `api_version` is what the
    endpoint has, which may be older than ours.
    """

    id: str
    url: str
    state: str
    api_version: str | None
    secret: str | None = None

    @property
    def same_version(self) -> bool:
        return self.api_version == API_VERSION


@asynccontextmanager
async def gateway_alone(settings: Settings) -> AsyncIterator[StripeGateway]:
    """Stripe without the rest: for what is done before there is a database."""
    async with AsyncExitStack() as stack:
        url = settings.redis_url or stack.enter_context(embedded_valkey(settings.data_dir))
        redis = connect_redis(url, settings.redis_cluster)
        stack.push_async_callback(redis.aclose)
        budget = RateLimiter(redis, settings.stripe_requests_per_second)
        key, base = settings.stripe_secret_key, settings.stripe_api_base
        yield await stack.enter_async_context(open_gateway(key, base, settings.stripe_timeout_s, budget))


async def ensure_prices(gateway: StripeGateway, catalogue: Catalogue) -> list[PriceSetup]:
    """Make the prices that are missing. Raises StripeError."""
    there = {found.lookup_key: found for found in await gateway.list_prices(catalogue.lookup_keys)}
    done = []
    for plan in catalogue.plans:
        for price in plan.prices:
            found = there.get(price.lookup_key)
            if found is None:
                made = await gateway.create_price(plan.id, plan.name, price)
                done.append(PriceSetup(price.lookup_key, made, "made"))
                continue
            done.append(PriceSetup(price.lookup_key, found.id, "there" if found.fits(price) else "differs"))
    return done


async def ensure_endpoint(gateway: StripeGateway, url: str) -> EndpointSetup:
    """Make the webhook endpoint of this address, or enable what it lacks.

    Raises StripeError, and InvalidInput where it is no address.
    """
    address = webhook_address(url)
    for found in await gateway.list_endpoints():
        if found.url == address:
            return await _brought_up_to_date(gateway, found)
    made = await gateway.create_endpoint(address, HANDLED_TYPES)
    return EndpointSetup(made.id, made.url, "made", made.api_version, made.secret)


async def _brought_up_to_date(gateway: StripeGateway, found: EndpointInfo) -> EndpointSetup:
    lacking = found.lacks(HANDLED_TYPES)
    if found.enabled and not lacking:
        return EndpointSetup(found.id, found.url, "there", found.api_version)
    # What somebody enabled beside ours stays: any event is answered 200.
    updated = await gateway.update_endpoint(found.id, [*found.enabled_events, *lacking])
    return EndpointSetup(updated.id, updated.url, "updated", updated.api_version)


def webhook_address(url: str) -> str:
    """The endpoint's whole address; a bare host gets our path. Raises InvalidInput."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{url!r} is no address such as https://your.host{WEBHOOK_PATH}")
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{WEBHOOK_PATH}"
