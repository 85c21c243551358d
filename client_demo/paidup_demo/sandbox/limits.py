"""Stripe's limits: requests a second for an endpoint and in all, and reads for each transaction.

https://docs.stripe.com/rate-limits: 25 a second for an endpoint; 25 in all with test keys; and in 30 days on
average at most 500 reads for each transaction, but at least 10,000. The conditions switch them on.
"""

from __future__ import annotations

import time
from collections import Counter, deque

from paidup_demo.sandbox.clock import DAY_S
from paidup_demo.sandbox.errors import Json, RateLimitError
from paidup_demo.sandbox.world import World

READS_FOR_EACH_TRANSACTION = 500
LEAST_READS = 10_000
WINDOW_DAYS = 30


class Limits:
    """Counts the calls with secret keys; refuses those beyond a limit that the conditions set."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._recent: dict[str, deque[float]] = {}

    def refuse_if_beyond(self, method: str, name: str) -> None:
        """Raises Stripe's 429, which names the limit in its header."""
        conditions = self._world.conditions
        if conditions.rate_limited or self._too_fast("", conditions.rate_limit_in_all):
            raise RateLimitError("global-rate")
        if self._too_fast(name, conditions.rate_limit_per_second):
            raise RateLimitError("endpoint-rate")
        if method == "GET" and conditions.read_allocation:
            reads = reads_in_window(self._world)
            if reads["made"] > reads["allowed"]:
                raise RateLimitError("global-rate")

    def _too_fast(self, name: str, limit: int | None) -> bool:
        """A sliding window of one second for each name, all ids together."""
        if limit is None:
            return False
        recent, now = self._recent.setdefault(name, deque(maxlen=10_000)), time.monotonic()
        while recent and recent[0] <= now - 1:
            recent.popleft()
        if len(recent) >= limit:
            return True
        recent.append(now)
        return False


def count_read(reads: Counter[int], moment: int) -> None:
    """Counts one read on its day; forgets those before the window."""
    today = moment // DAY_S
    reads[today] += 1
    for day in [day for day in reads if day <= today - WINDOW_DAYS]:
        del reads[day]


def reads_in_window(world: World) -> Json:
    """The reads of the last 30 days, the transactions, and how many reads these allow."""
    begin = world.real_now() - WINDOW_DAYS * DAY_S
    charges = world.store.table("charge").values()
    transactions = sum(1 for charge in charges if charge["paid"] and charge["created"] > begin)
    allowed = max(LEAST_READS, READS_FOR_EACH_TRANSACTION * transactions)
    return {"made": world.reads.total(), "transactions": transactions, "allowed": allowed}
