"""Rate limits per account: how often, and how many at a time, one customer causes calls to Stripe.

Purchases and adoptions are counted in each process and, through Redis, across all processes; while
Redis is down, in each process only. Verifications are counted per process only, since an invoice's
lease already coalesces them across processes. Reads and spending are not limited here.

Memory is bounded: one number for each account that was active within the last minute, and one
semaphore for each that is being served.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from enum import StrEnum
from functools import partial
from weakref import WeakValueDictionary

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.strategies import MovingWindowRateLimiter

from paidup.errors import TooManyRequests
from paidup.rate_limits.shared_windows import SharedWindows
from paidup.runtime.metrics import Metrics
from paidup.runtime.redis_client import RedisClient
from paidup.settings import Settings

MINUTE_S = 60.0
REDIS_TIMEOUT_S = 0.25
"""About as long as one call to Stripe. A frozen Redis delays a few requests by it every REDIS_RETRY_S."""
AT_ONCE = 4
"""Concurrent requests of one account that call Stripe, per process. Further ones wait."""
TURN_TIMEOUT_S = 10.0
STATUS_READS_PER_MINUTE = 12
"""Reads of a status that may ask Stripe first: of a page that polls each second, one in five."""
ACCOUNTS = 100_000
"""Accounts counted in memory. Beyond that, the least recently active one is evicted."""


class Limited(StrEnum):
    PURCHASES = "purchases"
    """Subscribe, change and its preview, cancel, resume and top-up."""
    ADOPTIONS = "adoptions"
    VERIFICATIONS = "verifications"
    SOCKETS = "sockets"


class AccountLimits:
    def __init__(self, redis: RedisClient, settings: Settings, metrics: Metrics) -> None:
        per_minute = {
            Limited.PURCHASES: settings.purchases_per_minute,
            Limited.ADOPTIONS: settings.adoptions_per_minute,
            Limited.VERIFICATIONS: settings.verifications_per_minute,
        }
        self._limits = {what: RateLimitItemPerMinute(most) for what, most in per_minute.items()}
        self._buckets = {what: Buckets(most) for what, most in per_minute.items()}
        self._status_reads = Buckets(STATUS_READS_PER_MINUTE)
        self._windows = SharedWindows(redis, REDIS_TIMEOUT_S)
        self._turns: WeakValueDictionary[int, asyncio.Semaphore] = WeakValueDictionary()
        self._refusals = {what: metrics.limited.labels(what) for what in Limited}

    @asynccontextmanager
    async def turn(self, account_id: int, what: Limited) -> AsyncIterator[None]:
        """Count one request and wait for one of the account's slots. Raises TooManyRequests."""
        await self._count(account_id, what)
        turns = self._turns.setdefault(account_id, asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S):
                await turns.acquire()
        except TimeoutError:
            raise self.refusal(what, 1.0) from None
        try:
            yield
        finally:
            turns.release()

    def may_verify(self, account_id: int) -> bool:
        """Count a verification that the account requests. Returns whether it is within the limit."""
        if not self._buckets[Limited.VERIFICATIONS].take(account_id):
            return True
        self._refusals[Limited.VERIFICATIONS].inc()
        return False

    def may_read_status(self, account_id: int) -> bool:
        """Count a read of a status from Stripe. Beyond the limit, the row is what is known."""
        return not self._status_reads.take(account_id)

    def refusal(self, what: Limited, retry_after_s: float) -> TooManyRequests:
        """Count a refusal and return its error."""
        self.count_refusal(what)
        return TooManyRequests(what, retry_after_s)

    def count_refusal(self, what: Limited) -> None:
        self._refusals[what].inc()

    async def _count(self, account_id: int, what: Limited) -> None:
        wait_s: float | None = self._buckets[what].take(account_id)
        if not wait_s:  # a request that this process refuses is not sent to Redis
            names = ("paidup-account", what, str(account_id))
            wait_s = await self._windows.query(partial(hit, self._limits[what], names))
        if wait_s:
            raise self.refusal(what, wait_s)


async def hit(limit: RateLimitItem, names: tuple[str, ...], limiter: MovingWindowRateLimiter) -> float:
    """Count one in the shared window. Returns 0 if within the limit, else the seconds to wait."""
    if await limiter.hit(limit, *names):
        return 0.0
    stats = await limiter.get_window_stats(limit, *names)
    return max(1.0, stats.reset_time - time.time())


class Buckets:
    """A token bucket for each account or address: `per_minute` at once, refilled within a minute."""

    def __init__(self, per_minute: int, accounts: int = ACCOUNTS) -> None:
        self._token_s = MINUTE_S / per_minute
        self._accounts = accounts
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()
        """When each bucket is full again and can be dropped. Ordered by last use."""

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: Hashable) -> float:
        """Take a token. Returns 0 if there was one, else the seconds until there is."""
        at = time.monotonic()
        self._forget(at)
        full_at = max(self._full_at.get(key, at), at) + self._token_s
        wait_s = full_at - at - MINUTE_S
        if wait_s > 1e-6:  # rounding: many tokens do not add up to exactly a minute
            return wait_s
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        return 0.0

    def _forget(self, at: float) -> None:
        while self._full_at:
            key, full_at = next(iter(self._full_at.items()))
            if full_at > at and len(self._full_at) < self._accounts:
                return
            del self._full_at[key]
