"""The wall clock, in one module so that tests can replace it.

Expiries, installments and renewals take their time from a `Clock` that is passed in: the demo's follows the
sandbox's clock, which can be advanced. Leases, retries and backoffs always use the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Returns the current time, UTC."""


def now() -> datetime:
    return datetime.now(UTC)


def at_unix(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
