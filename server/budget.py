"""The budget of requests to Stripe: so many a second for each endpoint, shared by all processes.

Stripe allows 25 requests a second for any single endpoint, in one bucket across all ids, and
answers more with 429. Owns the waiting for a free place, with a deadline. With Redis away
each process counts by itself rather than not at all.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import RedisCluster

from server.errors import StripeUnavailable
from server.wires import REDIS_ERRORS, RedisClient

log = structlog.get_logger(__name__)

RETRY_S = 0.05


class Budget:
    """`per_second` requests for each endpoint name, counted in `redis`."""

    def __init__(self, redis: RedisClient, per_second: int) -> None:
        self._limit = RateLimitItemPerSecond(per_second)
        # Exact: a window that is only counted by halves lets nearly twice as many through in one second.
        self._shared = MovingWindowRateLimiter(_storage_on(redis))
        self._own = MovingWindowRateLimiter(MemoryStorage())

    async def take(self, endpoint: str, patience_s: float) -> None:
        """Wait for a place, `patience_s` seconds at most. Raises StripeUnavailable after that."""
        try:
            async with asyncio.timeout(patience_s):
                while not await self._hit(endpoint):
                    await asyncio.sleep(RETRY_S * (0.5 + random.random()))  # noqa: S311
        except TimeoutError:
            raise StripeUnavailable(f"the budget for {endpoint} is used up") from None

    async def _hit(self, endpoint: str) -> bool:
        try:
            return await self._shared.hit(self._limit, "stripe", endpoint)
        except REDIS_ERRORS as error:
            log.warning("budget_not_shared", error=str(error))
            return await self._own.hit(self._limit, "stripe", endpoint)


def _storage_on(redis: RedisClient) -> Storage:
    if isinstance(redis, RedisCluster):
        return _ClusterStorage(redis)
    pool: Any = redis.connection_pool
    return RedisStorage("async+redis://", implementation="redispy", connection_pool=pool)


class _ClusterStorage(RedisClusterStorage):
    """On a client that is there already; `limits` would open one of its own, and never close it."""

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis
        super().__init__("async+redis+cluster://unused:1", implementation="redispy")

    def configure_bridge(self) -> None:
        bridge: Any = self.bridge
        bridge.storage = self._redis
        bridge.connection_getter = lambda _: self._redis
