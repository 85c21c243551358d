"""The sandbox's time: the real time plus an offset that only moves forward, as a test clock of Stripe's.

Customers and the objects of billing have this time. Payments (intents, charges, refunds, disputes) and events
have the real time, and so do signatures. https://docs.stripe.com/billing/testing/test-clocks, and
https://github.com/stripe/stripe-python/issues/1183 for the payments.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

HOUR_S = 3600
DAY_S = 24 * HOUR_S


class Clock:
    """Whole seconds since 1970, as Stripe counts."""

    def __init__(self) -> None:
        self.offset_s = 0
        self._moment: int | None = None

    def real(self) -> int:
        """The real time: what payments and events show, wherever the clock is."""
        return int(time.time())

    def now(self) -> int:
        """Seconds, as `created` shows them."""
        return int(time.time()) + self.offset_s if self._moment is None else self._moment

    @contextmanager
    def at(self, moment: int) -> Iterator[None]:
        """Fix the time within the block, so that what was due then gets that date."""
        former, self._moment = self._moment, moment
        try:
            yield
        finally:
            self._moment = former

    def advance(self, seconds: int) -> None:
        """Move the clock ahead by this many seconds."""
        self.offset_s += seconds


def add_interval(start: int, interval: str, count: int, anchor_day: int) -> int:
    """The end of a period. Months keep the anchor's day: 31 January, 28 February, 31 March."""
    if interval in ("day", "week"):
        return start + count * DAY_S * (7 if interval == "week" else 1)
    begin = datetime.fromtimestamp(start, UTC)
    months = begin.month - 1 + count * (12 if interval == "year" else 1)
    year, month = begin.year + months // 12, months % 12 + 1
    day = min(anchor_day, calendar.monthrange(year, month)[1])
    return int(begin.replace(year=year, month=month, day=day).timestamp())


def day_of_month(moment: int) -> int:
    """The day of the month of a billing anchor, in UTC."""
    return datetime.fromtimestamp(moment, UTC).day
