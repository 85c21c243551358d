"""The wall clock, in one place, so that tests can replace it.

What is due by Stripe's calendar (an expiry, an installment, a renewal) is asked of a `Clock`
that is handed in: the demo's follows the sandbox, whose time can be moved. Leases, retries and
backoffs are by the wall clock always.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Says what time it is, UTC."""


def now() -> datetime:
    return datetime.now(UTC)


def at_unix(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
