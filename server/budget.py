"""The budget of requests to Stripe: so many a second for each endpoint, shared by all processes.

Stripe allows 25 requests a second for any single endpoint, in one bucket across all ids, and
answers more with 429. Owns the waiting for a free place, with a deadline; the part that is
kept from the background; and the pause that follows a 429. Refuses to know what is asked.

A process has one who tries for a place of an endpoint at a time, and one more for the background;
the others stand in a queue behind him and cost Redis nothing. So each process has the same
chance of the next place, however many wait in it. With Redis away each process counts by
itself, its part of the whole, rather than not at all.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import defaultdict
from typing import Any

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage, RedisClusterStorage, RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import RedisCluster

from server.core.pace import refused_pause_s
from server.errors import StripeUnavailable
from server.listeners import REDIS_ERRORS, RedisClient
from server.metrics import Metrics

log = structlog.get_logger(__name__)

PRESENCE = "paidup:budget:processes"
COUNTED_EVERY_S = 10.0
PRESENT_S = 30.0
"""How long a process that asks nothing more is still counted."""
REDIS_TIMEOUT_S = 0.5
REDIS_RETRY_S = 5.0
"""How long Redis is left alone after an error: a frozen one costs somebody half a second each time."""

CROWDED_S = 1.0
"""How long after a second that was full each place is waited for, so that no process takes a whole one."""


class _Endpoint:
    """Who is in turn, and how Stripe took the last requests. Times are the loop's."""

    __slots__ = ("background", "crowded_until", "customers", "pause_s", "paused_at", "resume_at")

    def __init__(self) -> None:
        self.customers = asyncio.Lock()  # fair: first come, first served
        self.background = asyncio.Lock()
        self.pause_s = 0.0
        self.crowded_until = self.paused_at = self.resume_at = float("-inf")


class Budget:
    """`per_second` requests for each endpoint name, counted in `redis`."""

    def __init__(self, redis: RedisClient, per_second: int, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._redis = redis
        self._limit = RateLimitItemPerSecond(per_second)
        # Exact: a window that is only counted by halves lets nearly twice as many through in one second.
        self._shared = MovingWindowRateLimiter(_storage_on(redis))
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._endpoints: dict[str, _Endpoint] = defaultdict(_Endpoint)
        self._name = secrets.token_hex(8)
        self._processes = 1
        self._counted_at = self._away_until = float("-inf")

    async def take(self, endpoint: str, patience_s: float, background: bool = False) -> None:
        """Wait for a place, `patience_s` seconds at most. Raises StripeUnavailable after that.

        Work in the `background` may use half of a second that customers leave, and has its
        chance of a quarter in any: the rest is for those who wait.
        """
        state = self._endpoints[endpoint]
        pause_s = state.resume_at - _time()
        if pause_s > patience_s:
            self._metrics.stripe_budget_exhausted.labels(endpoint).inc()
            raise StripeUnavailable(f"{endpoint}: Stripe asked us to slow down", pause_s)
        try:
            async with asyncio.timeout(patience_s), state.background if background else state.customers:
                await _resumed(state)
                if not background and _time() < state.crowded_until:
                    await self._pause()  # the other processes are to have their chance of the next place
                while not await self._hit(endpoint, background):
                    if not background:
                        state.crowded_until = _time() + CROWDED_S
                    await self._pause()
                if state.pause_s:
                    state.resume_at = _time() + state.pause_s  # one to see whether it is over, not all
                self._metrics.stripe_requests.labels(
                    endpoint, "background" if background else "customer"
                ).inc()
        except TimeoutError:
            self._metrics.stripe_budget_exhausted.labels(endpoint).inc()
            raise StripeUnavailable(f"the budget for {endpoint} is used up") from None

    async def refused(self, endpoint: str, asked_at: float, retry_after_s: float) -> None:
        """Stripe answered 429 to what was asked at `asked_at` (the loop's time): everybody pauses.

        This process until a request succeeds, with growing pauses; the others for a second.
        """
        state = self._endpoints[endpoint]
        self._metrics.stripe_rate_limited.labels(endpoint).inc()
        if asked_at < state.paused_at:
            return  # sent before the pause began: the same refusal, told again
        state.pause_s = refused_pause_s(state.pause_s, retry_after_s, random.random())  # noqa: S311
        state.paused_at = _time()
        state.resume_at = state.paused_at + state.pause_s
        log.warning("stripe_refused_more", endpoint=endpoint, pause_s=round(state.pause_s, 1))
        for _ in range(self._limit.amount):
            if not await self._hit(endpoint, background=False):
                return

    def answered(self, endpoint: str) -> None:
        """Stripe took a request: a pause is over."""
        state = self._endpoints[endpoint]
        if state.pause_s:
            state.pause_s = 0.0
            state.resume_at = float("-inf")

    async def _pause(self) -> None:
        await asyncio.sleep((0.4 + 0.7 * random.random()) / self._limit.amount)  # noqa: S311

    async def _hit(self, endpoint: str, background: bool) -> bool:
        if _time() >= self._away_until:
            try:
                async with asyncio.timeout(REDIS_TIMEOUT_S):
                    await self._count_processes()
                    return await admitted(self._shared, self._limit, endpoint, background)
            except REDIS_ERRORS as error:
                self._away_until = _time() + REDIS_RETRY_S
                log.warning("budget_not_shared", error=str(error), processes=self._processes)
        part = RateLimitItemPerSecond(max(1, self._limit.amount // self._processes))
        return await admitted(self._own, part, endpoint, background)

    async def _count_processes(self) -> None:
        """How many processes ask Stripe: among so many the budget is divided while Redis is away."""
        if _time() < self._counted_at + COUNTED_EVERY_S:
            return
        self._counted_at = _time()
        at = time.time()
        await self._redis.zadd(PRESENCE, {self._name: at})
        await self._redis.zremrangebyscore(PRESENCE, "-inf", at - PRESENT_S)
        self._processes = max(1, await self._redis.zcard(PRESENCE))


async def admitted(
    limiter: MovingWindowRateLimiter, limit: RateLimitItem, endpoint: str, background: bool
) -> bool:
    """Take a place if there is one, for the background if it may."""
    most = limit.amount - limit.amount // 2
    if background and not await limiter.test(limit, "stripe", endpoint, cost=most + 1):
        reserved = RateLimitItemPerSecond(max(1, limit.amount // 4))
        if not await limiter.test(limit, "stripe", endpoint):
            return False
        if not await limiter.hit(reserved, "stripe-background", endpoint):
            return False
    return await limiter.hit(limit, "stripe", endpoint)


async def _resumed(state: _Endpoint) -> None:
    """Wait until the pause is over: its end moves while it lasts."""
    while (pause_s := state.resume_at - _time()) > 0:
        await asyncio.sleep(min(pause_s, 0.1))


def _time() -> float:
    return asyncio.get_running_loop().time()


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
