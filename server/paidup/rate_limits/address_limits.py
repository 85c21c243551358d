"""Rate limits per address, for what needs no login: the status of Checkout Sessions, operators' sign-ins.

Reads are counted in each process and, through Redis, across all of them; while Redis is down, in each
process only. An id that is not known here costs a read at Stripe: those have smaller bounds, of each
address and of all together, so that invented ids use up neither Stripe's rate nor the month's reads.
Memory is bounded as for accounts.
"""

from __future__ import annotations

from functools import partial

from limits import RateLimitItem, RateLimitItemPerMinute

from paidup.errors import TooManyRequests
from paidup.rate_limits.account_limits import REDIS_TIMEOUT_S, Buckets, hit
from paidup.rate_limits.shared_windows import SharedWindows
from paidup.runtime.metrics import Metrics
from paidup.runtime.redis_client import RedisClient
from paidup.settings import Settings

READS = "checkout_reads"
SIGN_INS = "operator_sign_ins"
SIGN_INS_PER_MINUTE = 10
"""Of one address, whether they succeed or not."""
UNKNOWN_READS = "unknown_checkouts"
UNKNOWN_READS_OF_ALL = "unknown_checkouts_of_all"
UNKNOWN_OF_ONE = 12
"""One in so many of an address's reads may be of an id that only Stripe can tell."""
UNKNOWN_OF_ALL = 2
"""All addresses together: half of what one may read."""


class AddressLimits:
    def __init__(self, redis: RedisClient, settings: Settings, metrics: Metrics) -> None:
        per_minute = settings.checkout_reads_per_minute
        self._reads = _Window(READS, per_minute)
        self._unknown = _Window(UNKNOWN_READS, max(1, per_minute // UNKNOWN_OF_ONE))
        self._unknown_in_all = _Window(UNKNOWN_READS_OF_ALL, max(1, per_minute // UNKNOWN_OF_ALL))
        self._verifications = Buckets(per_minute)
        self._windows = SharedWindows(redis, REDIS_TIMEOUT_S)
        self._refused = metrics.limited.labels(READS)
        self._sign_ins = _Window(SIGN_INS, SIGN_INS_PER_MINUTE)
        self._refused_sign_ins = metrics.limited.labels(SIGN_INS)

    async def count_read(self, address: str) -> None:
        """Count one read of a Checkout Session. Raises TooManyRequests."""
        if wait_s := await self._reads.take(address, self._windows):
            self._refused.inc()
            raise TooManyRequests(READS.replace("_", " "), wait_s, "this address")

    async def count_unknown(self, address: str) -> None:
        """Count one read at Stripe of an id that is not known here. Raises TooManyRequests."""
        for window, key, whose in (
            (self._unknown, address, "this address"),
            (self._unknown_in_all, "", "all addresses together"),
        ):
            if wait_s := await window.take(key, self._windows):
                self._refused.inc()
                raise TooManyRequests("unknown Checkout Sessions", wait_s, whose)

    async def count_sign_in(self, address: str) -> None:
        """Count one try to sign in as an operator. Raises TooManyRequests."""
        if wait_s := await self._sign_ins.take(address, self._windows):
            self._refused_sign_ins.inc()
            raise TooManyRequests("sign-ins", wait_s, "this address")

    def may_verify(self, address: str) -> bool:
        """Count a verification that this address requests. Returns whether it is within the limit."""
        return not self._verifications.take(address)


class _Window:
    """One limit: in this process, then in the window that all share."""

    def __init__(self, what: str, per_minute: int) -> None:
        self._what = what
        self._limit: RateLimitItem = RateLimitItemPerMinute(per_minute)
        self._buckets = Buckets(per_minute)

    async def take(self, key: str, windows: SharedWindows) -> float:
        """Count one. Returns 0 if within the limit, else the seconds to wait."""
        wait_s = self._buckets.take(key)
        if wait_s:  # what this process refuses is not sent to Redis
            return wait_s
        names = ("paidup-address", self._what, key)
        return await windows.query(partial(hit, self._limit, names)) or 0.0
