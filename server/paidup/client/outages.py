"""What a client may do while Paidup does not answer: refuse, or allow spends and send them later. No I/O.

A deferred spend keeps its key, so that it is charged once, whether or not an earlier try arrived.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from paidup.client.errors import APIStatusError
from paidup.client.responses import SpendResult

log = logging.getLogger("paidup.client")


class DeferredSpend(msgspec.Struct, frozen=True):
    """A spend that was allowed during an outage and is not charged yet."""

    customer: str
    credits: int
    key: str
    reason: str | None = None
    unit: str | None = None


def log_refused(spend: DeferredSpend, error: APIStatusError) -> None:
    """Log a deferred spend that was refused when it was sent: the work is done, and nobody paid for it."""
    log.warning("deferred spend refused: %s: %s", spend, error)


class AllowDuringOutage(msgspec.Struct, frozen=True):
    """Allow spends while Paidup does not answer, and charge them later under the same keys.

    They are kept in this process, and lost with it. At most `max_spends` are kept at a time, with at most
    `credits_per_customer` for each customer and unit, or what was known of that balance if it is less. An
    outage that lasts longer than `for_s` seconds refuses like any other client. Paidup is tried again every
    `probe_every_s` seconds. `on_refused` gets a spend that is refused when it is charged.
    """

    max_spends: int = 1000
    credits_per_customer: int = 100
    for_s: float = 900.0
    probe_every_s: float = 5.0
    on_refused: Callable[[DeferredSpend, APIStatusError], None] = log_refused


class Outage:
    """The outage that a client sees, if there is one, and the spends that it allowed. Thread-safe."""

    def __init__(self, policy: AllowDuringOutage, clock: Callable[[], float] = time.monotonic) -> None:
        self.policy = policy
        self._clock = clock
        self._lock = threading.Lock()
        self._began: float | None = None
        self._next_probe = 0.0
        self._waiting: dict[tuple[str, str], DeferredSpend] = {}

    @property
    def waiting(self) -> list[DeferredSpend]:
        """The spends that are not charged yet, oldest first."""
        with self._lock:
            return list(self._waiting.values())

    @property
    def tolerable(self) -> bool:
        """Whether there is an outage that has not lasted too long."""
        with self._lock:
            return self._is_tolerable()

    def skips(self) -> bool:
        """Whether a call is not even tried, since Paidup did not answer a moment ago."""
        with self._lock:
            at = self._clock()
            if not self._is_tolerable() or at >= self._next_probe:
                self._next_probe = at + self.policy.probe_every_s
                return False
            return True

    def failed(self) -> None:
        """Paidup did not answer."""
        with self._lock:
            self._began = self._clock() if self._began is None else self._began
            self._next_probe = self._clock() + self.policy.probe_every_s

    def answered(self) -> None:
        """Paidup answered, if only with a refusal."""
        with self._lock:
            self._began = None

    def defer(self, spend: DeferredSpend, available: int | None) -> SpendResult | None:
        """Allow a spend and keep it; None where it is beyond the policy. `available`: as last known."""
        with self._lock:
            place = (spend.customer, spend.key)
            kept = self._waiting.get(place)
            owed = sum(
                each.credits
                for each in self._waiting.values()
                if (each.customer, each.unit) == (spend.customer, spend.unit)
            )
            left = (available or 0) - owed
            if kept is not None:
                same = (kept.credits, kept.unit) == (spend.credits, spend.unit)
                return SpendResult(left, kept.credits, kept.key, True, kept.unit) if same else None
            most = self.policy.credits_per_customer
            most = most if available is None else min(most, available)
            full = len(self._waiting) >= self.policy.max_spends
            if not self._is_tolerable() or full or owed + spend.credits > most:
                return None
            self._waiting[place] = spend
            return SpendResult(left - spend.credits, spend.credits, spend.key, True, spend.unit)

    def charged(self, customer: str, key: str) -> None:
        """It was charged, or refused for good: forget it."""
        with self._lock:
            self._waiting.pop((customer, key), None)

    def _is_tolerable(self) -> bool:
        return self._began is not None and self._clock() - self._began <= self.policy.for_s
