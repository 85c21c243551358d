"""The composition: every long-lived part, opened in order, closed in reverse.

Owns which part is given which other. The web application and `paidup work` open the same
services; importing this module connects to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from paidup.clock import Clock, now
from paidup.db.connection import open_database
from paidup.db.models import Account
from paidup.domain.catalog import Catalogue, parse_catalogue
from paidup.embedded_valkey import embedded_valkey
from paidup.metrics import Metrics
from paidup.payments.settlement import PublishBalance, Settlement
from paidup.payments.timeline import Timeline
from paidup.payments.verification import Verification
from paidup.rate_limits.account_limits import AccountLimits
from paidup.realtime.hub import Hub
from paidup.realtime.resync import resync_forever
from paidup.realtime.status_queries import balance_of
from paidup.realtime.tickets import Tickets
from paidup.reconciliation.alarms import Alarms
from paidup.reconciliation.pruning import retention_of
from paidup.reconciliation.reconciler import Reconciler
from paidup.reconciliation.stripe_events import Events
from paidup.redis_client import RedisClient, connect_redis
from paidup.roads import build_roads
from paidup.settings import Settings
from paidup.stripe_api.gateway import StripeGateway, open_gateway
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.rate_limiter import RateLimiter
from paidup.subscriptions.checkout import Checkout
from paidup.subscriptions.plan_changes import PlanChanges


@dataclass(frozen=True)
class Services:
    settings: Settings
    catalogue: Catalogue
    metrics: Metrics
    redis: RedisClient
    hub: Hub
    gateway: StripeGateway
    prices: PriceCatalog
    timeline: Timeline
    clock: Clock
    publish_balance: PublishBalance
    settlement: Settlement
    verification: Verification
    events: Events
    purchases: Checkout
    changes: PlanChanges
    reconciler: Reconciler
    tickets: Tickets
    account_limits: AccountLimits
    alarms: Alarms


@asynccontextmanager
async def open_services(settings: Settings, clock: Clock = now) -> AsyncIterator[Services]:
    """Open everything for the length of the block. `clock` is Stripe's calendar: see clock.py.

    Raises ConfigurationError (plans file), StorageUnavailable (no database). Redis and Stripe
    being away is no error: both are waited for while serving.
    """
    catalogue = parse_catalogue(settings.plans_file.read_bytes(), str(settings.plans_file))
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            open_database(settings.effective_database_url, settings.database_pool)
        )
        url = settings.redis_url or stack.enter_context(embedded_valkey(settings.data_dir))
        redis = connect_redis(url, settings.redis_cluster)
        stack.push_async_callback(redis.aclose)
        budget = RateLimiter(redis, settings.stripe_requests_per_second, metrics)
        gateway = await stack.enter_async_context(
            open_gateway(
                settings.stripe_secret_key, settings.stripe_api_base, settings.stripe_timeout_s, budget
            )
        )
        hub = Hub(redis, metrics)
        await hub.open()
        stack.push_async_callback(hub.close)
        timeline = Timeline()
        timeline.open()
        stack.push_async_callback(timeline.close)
        prices = PriceCatalog(catalogue, gateway)
        await prices.load()

        async def publish_balance(account: Account) -> None:
            await hub.publish_balance(account.id, balance_of(account))

        roads = build_roads(
            *(catalogue, prices, gateway, hub, timeline, metrics, hub.publish, publish_balance, clock),
            retention=retention_of(settings),
        )
        stack.push_async_callback(roads.verification.close)
        rereader = asyncio.create_task(resync_forever(hub, settings.resync_interval_s), name="rereader")
        stack.push_async_callback(_cancel, rereader)
        if settings.reconciler_in_server:
            sweeps = roads.reconciler.run_forever(settings.reconciler_interval_s)
            stack.push_async_callback(_cancel, asyncio.create_task(sweeps, name="reconciler"))
        purchases = Checkout(
            *(catalogue, prices, gateway, roads.verification, roads.subscriptions, clock),
        )
        changes = PlanChanges(
            *(catalogue, prices, gateway, roads.verification, purchases, roads.subscriptions, clock)
        )
        yield Services(
            settings=settings,
            catalogue=catalogue,
            metrics=metrics,
            redis=redis,
            hub=hub,
            gateway=gateway,
            prices=prices,
            timeline=timeline,
            clock=clock,
            publish_balance=publish_balance,
            settlement=roads.settlement,
            verification=roads.verification,
            events=roads.events,
            purchases=purchases,
            changes=changes,
            reconciler=roads.reconciler,
            alarms=Alarms(),
            tickets=Tickets(settings.secret_key, settings.ticket_ttl_s),
            account_limits=AccountLimits(redis, settings, metrics),
        )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
