"""The budget of requests to Stripe: so many a second for each endpoint, shared by all processes.

Stripe allows 25 requests a second for any single endpoint, in one bucket across all ids, and
answers more with 429. Owns the waiting for a free place, with a deadline; the shares of what
customers ask for and of the background, so that payments on their way come first; and the pause
that follows a 429. Refuses to know what is asked.

For each endpoint and purpose one task of a process at a time tries for a place; the others wait
for it and cost Redis nothing. So each process has the same chance of the next place, however many
wait in it. With Redis away each process counts by
itself, its part of the whole, rather than not at all.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import defaultdict
from enum import StrEnum

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from paidup.domain.backoff import refused_pause_s
from paidup.errors import StripeUnavailable
from paidup.metrics import Metrics
from paidup.rate_limits.shared_windows import SharedWindows
from paidup.redis_client import RedisClient

log = structlog.get_logger(__name__)

PRESENCE = "paidup:budget:processes"
COUNTED_EVERY_S = 10.0
PRESENT_S = 30.0
"""How long a process that asks nothing more is still counted."""
REDIS_TIMEOUT_S = 0.5
BACKGROUND_MAX_WAIT_S = 1.0
"""How long the reconciler waits for a slot: customers come first."""

CROWDED_S = 1.0
"""How long after a second that was full each place is waited for, so that no process takes a whole one."""


class Purpose(StrEnum):
    """What a request to Stripe is made for, the most urgent first."""

    CUSTOMER = "customer"
    """A payment on its way (a socket waits for it, a webhook told of it), and all that is not below."""
    REQUEST = "request"
    """A read that a customer's call asks for: an adoption, a purchase that is looked at again."""
    BACKGROUND = "background"


class _Endpoint:
    """Who is in turn, and how Stripe took the last requests. Times are the loop's."""

    __slots__ = ("crowded_until", "pause_s", "paused_at", "resume_at", "turns")

    def __init__(self) -> None:
        self.turns = {purpose: asyncio.Lock() for purpose in Purpose}  # fair: first come, first served
        self.pause_s = 0.0
        self.crowded_until = self.paused_at = self.resume_at = float("-inf")


class RateLimiter:
    """`per_second` requests for each endpoint name, counted in `redis`."""

    def __init__(self, redis: RedisClient, per_second: int, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._redis = redis
        self._limit = RateLimitItemPerSecond(per_second)
        self._windows = SharedWindows(redis, REDIS_TIMEOUT_S)
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._endpoints: dict[str, _Endpoint] = defaultdict(_Endpoint)
        self._name = secrets.token_hex(8)
        self._processes = 1
        self._counted_at = float("-inf")

    async def take(self, endpoint: str, max_wait_s: float, purpose: Purpose = Purpose.CUSTOMER) -> None:
        """Wait for a place, `max_wait_s` seconds at most. Raises StripeUnavailable after that.

        A `REQUEST` may use half of a second. The `BACKGROUND` may use half of a second that the
        others leave, and has its chance of a quarter in any: the rest is for those who wait.
        """
        state = self._endpoints[endpoint]
        pause_s = state.resume_at - _time()
        if pause_s > max_wait_s:
            self._metrics.stripe_budget_exhausted.labels(endpoint).inc()
            raise StripeUnavailable(f"{endpoint}: Stripe asked us to slow down", pause_s)
        try:
            async with asyncio.timeout(max_wait_s), state.turns[purpose]:
                await _resumed(state)
                if purpose is Purpose.CUSTOMER and _time() < state.crowded_until:
                    await self._pause()  # the other processes are to have their chance of the next place
                while not await self._hit(endpoint, purpose):
                    if purpose is Purpose.CUSTOMER:
                        state.crowded_until = _time() + CROWDED_S
                    await self._pause()
                if state.pause_s:
                    state.resume_at = _time() + state.pause_s  # one to see whether it is over, not all
                self._metrics.stripe_requests.labels(endpoint, purpose).inc()
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
            if not await self._hit(endpoint):
                return

    def answered(self, endpoint: str) -> None:
        """Stripe took a request: a pause is over."""
        state = self._endpoints[endpoint]
        if state.pause_s:
            state.pause_s = 0.0
            state.resume_at = float("-inf")

    async def _pause(self) -> None:
        await asyncio.sleep((0.4 + 0.7 * random.random()) / self._limit.amount)  # noqa: S311

    async def _hit(self, endpoint: str, purpose: Purpose = Purpose.CUSTOMER) -> bool:
        async def shared(windows: MovingWindowRateLimiter) -> bool:
            await self._count_processes()
            return await admitted(windows, self._limit, endpoint, purpose)

        free = await self._windows.query(shared)
        if free is None:  # Redis is away
            part = RateLimitItemPerSecond(max(1, self._limit.amount // self._processes))
            free = await admitted(self._own, part, endpoint, purpose)
        return free

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
    limiter: MovingWindowRateLimiter, limit: RateLimitItem, endpoint: str, purpose: Purpose
) -> bool:
    """Take a place if there is one, and one of the share that the purpose has, where it has one."""
    share = await _share(limiter, limit, endpoint, purpose)
    if share is not None:
        if not await limiter.test(limit, "stripe", endpoint):
            return False
        if not await limiter.hit(RateLimitItemPerSecond(max(1, share)), f"stripe-{purpose}", endpoint):
            return False
    return await limiter.hit(limit, "stripe", endpoint)


async def _share(
    limiter: MovingWindowRateLimiter, limit: RateLimitItem, endpoint: str, purpose: Purpose
) -> int | None:
    """How many places of a second the purpose may have; None where it may have any that is free."""
    if purpose is Purpose.REQUEST:
        return limit.amount // 2
    most = limit.amount - limit.amount // 2
    if purpose is Purpose.BACKGROUND and not await limiter.test(limit, "stripe", endpoint, cost=most + 1):
        return limit.amount // 4
    return None


async def _resumed(state: _Endpoint) -> None:
    """Wait until the pause is over: its end moves while it lasts."""
    while (pause_s := state.resume_at - _time()) > 0:
        await asyncio.sleep(min(pause_s, 0.1))


def _time() -> float:
    return asyncio.get_running_loop().time()
