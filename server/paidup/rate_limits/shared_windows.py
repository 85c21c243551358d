"""Moving windows in Redis: rate limits that all processes share.

A moving window is exact; a fixed window lets nearly twice as many through around its edge. Keys
expire with their window. While Redis is down, queries return None at once, and callers count in
their own process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from limits.aio.storage import RedisClusterStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import RedisCluster

from paidup.runtime.redis_client import REDIS_ERRORS, RedisClient

log = structlog.get_logger(__name__)

REDIS_RETRY_S = 5.0
"""How long Redis is not queried after an error, since each attempt delays its caller by the timeout."""

T = TypeVar("T")
REDIS_PY = {"redis": RedisStorage.DEPENDENCIES["redis"]}


class SharedWindows:
    """The windows in `redis`, queried with a timeout of `timeout_s`."""

    def __init__(self, redis: RedisClient, timeout_s: float) -> None:
        self._limiter = MovingWindowRateLimiter(_storage_on(redis))
        self._timeout_s = timeout_s
        self.away_until = float("-inf")
        """Until when Redis counts as down (event loop time)."""

    async def query(self, call: Callable[[MovingWindowRateLimiter], Awaitable[T]]) -> T | None:
        """The result of `call`, or None while Redis is down."""
        loop = asyncio.get_running_loop()
        if loop.time() < self.away_until:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call(self._limiter)
        except REDIS_ERRORS as error:
            self.away_until = loop.time() + REDIS_RETRY_S
            log.warning("rate_limit_not_shared", error=str(error) or type(error).__name__)
            return None


def _storage_on(redis: RedisClient) -> Storage:
    if isinstance(redis, RedisCluster):
        return _ClusterStorage(redis)
    pool: Any = redis.connection_pool
    return _Storage("async+redis://", implementation="redispy", connection_pool=pool)


class _Storage(RedisStorage):
    """`limits` would import the clients that are not used, too."""

    DEPENDENCIES = REDIS_PY


class _ClusterStorage(RedisClusterStorage):
    """Uses an existing client; `limits` would open its own and never close it."""

    DEPENDENCIES = REDIS_PY

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis
        super().__init__("async+redis+cluster://unused:1", implementation="redispy")

    def configure_bridge(self) -> None:
        bridge: Any = self.bridge
        bridge.storage = self._redis
        bridge.connection_getter = lambda _: self._redis
