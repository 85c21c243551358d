"""The composition: every long-lived part, opened in order, closed in reverse.

Owns which part is given which other. The web application and `paidup work` open the same
services; importing this module connects to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from server.account_limits import AccountLimits
from server.alarms import Alarms
from server.budget import Budget
from server.changes import Changes
from server.clock import Clock, now
from server.core.plans import Catalogue, parse_catalogue
from server.database import open_database
from server.embedded import embedded_valkey
from server.events import Events
from server.hub import Hub
from server.listeners import RedisClient
from server.metrics import Metrics
from server.models import Account
from server.prices import PriceBook
from server.pruning import retention_of
from server.purchases import Purchases
from server.reconciliation import Reconciler
from server.rereading import reread_forever
from server.roads import build_roads
from server.settings import Settings
from server.settlement import Settlement, TellBalance
from server.statuses import balance_of
from server.stripe_gateway import StripeGateway, open_gateway
from server.tickets import Tickets
from server.timeline import Timeline
from server.verification import Verification


@dataclass(frozen=True)
class Services:
    settings: Settings
    catalogue: Catalogue
    metrics: Metrics
    redis: RedisClient
    hub: Hub
    gateway: StripeGateway
    prices: PriceBook
    timeline: Timeline
    clock: Clock
    tell_balance: TellBalance
    settlement: Settlement
    verification: Verification
    events: Events
    purchases: Purchases
    changes: Changes
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
        budget = Budget(redis, settings.stripe_requests_per_second, metrics)
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
        prices = PriceBook(catalogue, gateway)
        await prices.load()

        async def tell_balance(account: Account) -> None:
            await hub.publish_balance(account.id, balance_of(account))

        roads = build_roads(
            *(catalogue, prices, gateway, hub, timeline, metrics, hub.publish, tell_balance, clock),
            retention=retention_of(settings),
        )
        stack.push_async_callback(roads.verification.close)
        rereader = asyncio.create_task(reread_forever(hub, settings.reread_s), name="rereader")
        stack.push_async_callback(_cancel, rereader)
        if settings.reconciler_in_server:
            sweeps = roads.reconciler.run_forever(settings.reconciler_pace_s)
            stack.push_async_callback(_cancel, asyncio.create_task(sweeps, name="reconciler"))
        purchases = Purchases(
            *(catalogue, prices, gateway, roads.verification, roads.subscriptions, clock),
        )
        changes = Changes(
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
            tell_balance=tell_balance,
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


def connect_redis(url: str, cluster: bool = False) -> RedisClient:
    """A client whose calls fail within seconds: every user of it has something better to do than wait.

    With `cluster`, `url` names one node or several, separated by commas: the rest is asked of them.
    """
    patience: dict[str, Any] = {
        "socket_timeout": 2.0,
        "socket_connect_timeout": 2.0,
        "retry": Retry(NoBackoff(), 1),
        "health_check_interval": 0,
    }
    if cluster:
        return _connect_cluster(url, patience)
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=50,  # a burst waits for a connection instead of being refused one
        timeout=2.0,
        **patience,
    )
    return Redis.from_pool(pool)


def _connect_cluster(urls: str, patience: dict[str, Any]) -> RedisCluster:
    """The first address says how to connect to all: the user, the password, TLS."""
    seeds = [parse_url(url.strip()) for url in urls.split(",")]
    nodes = [ClusterNode(seed.get("host", "localhost"), seed.get("port", 6379)) for seed in seeds]
    options: dict[str, Any] = {
        name: value for name, value in seeds[0].items() if name not in ("host", "port", "db")
    }
    return RedisCluster(
        startup_nodes=nodes,
        ssl=options.pop("connection_class", None) is SSLConnection,
        require_full_coverage=False,  # while nobody holds some slots, the others' customers are served
        max_connections=50,
        **options,
        **patience,
    )


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
