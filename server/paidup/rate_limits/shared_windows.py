"""Rate limits that all processes share: moving windows in Redis.

Exact, unlike a fixed window, which lets nearly twice as many through around its edge. The keys
expire with their window. While Redis is away nothing waits for it: whoever asks is told so, and
counts in its own process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from limits.aio.storage import RedisClusterStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import RedisCluster

from paidup.redis_client import REDIS_ERRORS, RedisClient

log = structlog.get_logger(__name__)

REDIS_RETRY_S = 5.0
"""How long Redis is not asked after an error: each try costs its caller the time limit."""

T = TypeVar("T")


class SharedWindows:
    """The windows in `redis`. An answer is waited for `timeout_s` at most."""

    def __init__(self, redis: RedisClient, timeout_s: float) -> None:
        self._limiter = MovingWindowRateLimiter(_storage_on(redis))
        self._timeout_s = timeout_s
        self.away_until = float("-inf")
        """Until then Redis counts as away (the loop's time)."""

    async def ask(self, question: Callable[[MovingWindowRateLimiter], Awaitable[T]]) -> T | None:
        """What `question` says of the windows; None while Redis is away."""
        loop = asyncio.get_running_loop()
        if loop.time() < self.away_until:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await question(self._limiter)
        except REDIS_ERRORS as error:
            self.away_until = loop.time() + REDIS_RETRY_S
            log.warning("budget_not_shared", error=str(error) or type(error).__name__)
            return None


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
