"""Limits requests to Stripe: so many a second for each endpoint, shared by all processes through Redis.

Stripe allows 25 requests a second for an endpoint, across all ids, and answers more with 429. A
request waits for a slot, with a deadline. Payments in progress come first: other customer requests
and background work have shares. A 429 pauses the endpoint.

For each endpoint and purpose, one task of a process at a time polls Redis; the rest wait locally. So
each process has the same chance of the next slot, however many tasks wait in it. A process that has taken
all slots of a second itself need not ask Redis until the first of them is free again. While Redis is down,
each process counts by itself, and uses its part of the limit.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import defaultdict, deque
from enum import StrEnum
from functools import partial

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from paidup.domain.backoff import refused_pause_s
from paidup.errors import StripeUnavailable
from paidup.rate_limits.shared_windows import SharedWindows
from paidup.runtime.metrics import Metrics
from paidup.runtime.redis_client import RedisClient

log = structlog.get_logger(__name__)

PRESENCE = "paidup:budget:processes"
COUNTED_EVERY_S = 10.0
PRESENT_S = 30.0
"""How long a process that makes no more requests is still counted."""
REDIS_TIMEOUT_S = 0.5
BACKGROUND_MAX_WAIT_S = 1.0
"""How long the reconciler waits for a slot: customers come first."""

BUSY_S = 1.0
"""How long after a full second each request pauses first, so that no process takes a whole second."""


SEVERAL_S = 0.2
"""Of the slots of so long, a process may take all at once, where it has use for them."""
TRIES_FOR_SEVERAL = 3
"""After so many, one slot will do: other processes want them, too."""


class Purpose(StrEnum):
    """What a request to Stripe is made for, the most urgent first."""

    CUSTOMER = "customer"
    """A payment in progress (a socket waits for it, or a webhook announced it), and everything not below."""
    REQUEST = "request"
    """A read for a customer's API call: an adopted invoice, or a checkout that is resumed."""
    BACKGROUND = "background"


class _Endpoint:
    """The locks that order requests, and how Stripe answered the last ones. Times are the loop's."""

    __slots__ = ("busy_until", "pause_s", "paused_until", "resume_at", "taken", "turns")

    def __init__(self, per_second: int) -> None:
        self.taken: deque[float] = deque(maxlen=per_second)
        """When this process took its last slots."""
        self.turns = {purpose: asyncio.Lock() for purpose in Purpose}  # fair: in order of arrival
        self.pause_s = 0.0
        self.busy_until = self.paused_until = self.resume_at = float("-inf")

    def free_at(self, slots: int) -> float:
        """Until then, so many slots cannot be free: this process alone has taken too many of a second."""
        full = len(self.taken) == self.taken.maxlen
        return self.taken[slots - 1] + 1.0 if full else float("-inf")


class RateLimiter:
    """`per_second` requests for each endpoint name, counted in `redis`."""

    def __init__(self, redis: RedisClient, per_second: int, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self._redis = redis
        self._limit = RateLimitItemPerSecond(per_second)
        self._windows = SharedWindows(redis, REDIS_TIMEOUT_S)
        self._own = MovingWindowRateLimiter(MemoryStorage())
        self._endpoints: dict[str, _Endpoint] = defaultdict(partial(_Endpoint, per_second))
        self._name = secrets.token_hex(8)
        self._processes = 1
        self._counted_at = float("-inf")

    async def take(
        self, endpoint: str, max_wait_s: float, purpose: Purpose = Purpose.CUSTOMER, at_most: int = 1
    ) -> int:
        """Wait for a slot, `max_wait_s` seconds at most. Raises StripeUnavailable after that.

        Returns how many were taken: one, or several where `at_most` allows it and they are free at once.
        `REQUEST` may use half of each second's slots. `BACKGROUND` may use half of them where the others
        leave so many, and otherwise a quarter.
        """
        state = self._endpoints[endpoint]
        pause_s = state.resume_at - _time()
        if pause_s > max_wait_s:
            self._metrics.stripe_budget_exhausted.labels(endpoint).inc()
            raise StripeUnavailable(f"{endpoint}: Stripe asked us to slow down", pause_s)
        try:
            async with asyncio.timeout(max_wait_s), state.turns[purpose]:
                await _resumed(state)
                if purpose is Purpose.CUSTOMER and _time() < state.busy_until:
                    await self._pause()  # give the other processes a chance of the next slot
                slots = await self._take_several(state, endpoint, purpose, at_most)
                if state.pause_s:
                    state.resume_at = _time() + state.pause_s  # one request tests whether the pause is over
                self._metrics.stripe_requests.labels(endpoint, purpose).inc(slots)
                return slots
        except TimeoutError:
            self._metrics.stripe_budget_exhausted.labels(endpoint).inc()
            raise StripeUnavailable(f"no slot for {endpoint} in time") from None

    async def _take_several(self, state: _Endpoint, endpoint: str, purpose: Purpose, at_most: int) -> int:
        several = min(at_most, int(self._limit.amount * SEVERAL_S))
        tries = 0
        while True:
            slots = several if several > 1 and tries < TRIES_FOR_SEVERAL and not state.pause_s else 1
            full_s = max(0.0, state.free_at(slots) - _time())
            if not full_s:
                if await self._hit(endpoint, purpose, slots):
                    state.taken.extend([_time()] * slots)
                    return slots
                tries += 1
            if purpose is Purpose.CUSTOMER:
                state.busy_until = _time() + full_s + BUSY_S
            await self._pause(full_s)

    async def refused(self, endpoint: str, requested_at: float, retry_after_s: float) -> None:
        """Stripe answered 429 to what was asked at `requested_at` (the loop's time): everybody pauses.

        This process until a request succeeds, with growing pauses; the others for a second.
        """
        state = self._endpoints[endpoint]
        self._metrics.stripe_rate_limited.labels(endpoint).inc()
        if requested_at < state.paused_until:
            return  # under way with one that was refused: only what is sent after the pause tests it
        state.pause_s = refused_pause_s(state.pause_s, retry_after_s, random.random())  # noqa: S311
        state.paused_until = state.resume_at = _time() + state.pause_s
        log.warning("stripe_refused_more", endpoint=endpoint, pause_s=round(state.pause_s, 1))
        for _ in range(self._limit.amount):
            if not await self._hit(endpoint):
                return

    def require_resumed(self, endpoint: str) -> None:
        """Raises StripeUnavailable while it pauses: a slot that was taken before is not used then."""
        state = self._endpoints[endpoint]
        if state.pause_s and (pause_s := state.paused_until - _time()) > 0:
            raise StripeUnavailable(f"{endpoint}: Stripe asked us to slow down", pause_s)

    def answered(self, endpoint: str) -> None:
        """Stripe accepted a request: a pause is over."""
        state = self._endpoints[endpoint]
        if state.pause_s:
            state.pause_s = 0.0
            state.resume_at = float("-inf")

    async def _pause(self, after_s: float = 0.0) -> None:
        await asyncio.sleep(after_s + (0.4 + 0.7 * random.random()) / self._limit.amount)  # noqa: S311

    async def _hit(self, endpoint: str, purpose: Purpose = Purpose.CUSTOMER, slots: int = 1) -> bool:
        async def shared(windows: MovingWindowRateLimiter) -> bool:
            await self._count_processes()
            return await admitted(windows, self._limit, endpoint, purpose, slots)

        free = await self._windows.query(shared)
        if free is None:  # Redis is down
            part = RateLimitItemPerSecond(max(1, self._limit.amount // self._processes))
            free = await admitted(self._own, part, endpoint, purpose, slots)
        return free

    async def _count_processes(self) -> None:
        """Count the processes that call Stripe: while Redis is down, they share the limit equally."""
        if _time() < self._counted_at + COUNTED_EVERY_S:
            return
        self._counted_at = _time()
        at = time.time()
        await self._redis.zadd(PRESENCE, {self._name: at})
        await self._redis.zremrangebyscore(PRESENCE, "-inf", at - PRESENT_S)
        self._processes = max(1, await self._redis.zcard(PRESENCE))


async def admitted(
    limiter: MovingWindowRateLimiter, limit: RateLimitItem, endpoint: str, purpose: Purpose, slots: int = 1
) -> bool:
    """Take so many slots if they are free, within the share of the purpose where it has one."""
    share = await _share(limiter, limit, endpoint, purpose)
    if share is not None:
        if not await limiter.test(limit, "stripe", endpoint, cost=slots):
            return False
        own = RateLimitItemPerSecond(max(1, share))
        if not await limiter.hit(own, f"stripe-{purpose}", endpoint, cost=slots):
            return False
    return await limiter.hit(limit, "stripe", endpoint, cost=slots)


async def _share(
    limiter: MovingWindowRateLimiter, limit: RateLimitItem, endpoint: str, purpose: Purpose
) -> int | None:
    """How many slots of a second the purpose may use; None where it may use any."""
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
