"""Retries that are due, of invoices that bulk verification covers: they are made at a slow pace.

A pass of bulk verification that read all of Stripe's list of paid invoices, and found none that waits,
covers those that it looked for. The next pass finds their payment sooner than retries could, which are
due for hundreds. What retries alone find of them, as an invoice that is void, is looked for all the same,
a few times a second. Where passes end or fail, the retries are due at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from paidup.payments.queue_entries import QueueEntry, Retry, is_valid

COVERED_S = 15.0
"""How long after a pass. Passes are five to seven seconds apart."""
CHECK_EVERY_S = 0.25
"""One retry of a covered invoice in so many seconds, of this process."""


class CoveredRetries:
    """Times are the loop's."""

    def __init__(self) -> None:
        self._covered: set[str] = set()
        self._until = float("-inf")
        self._asked: set[str] | None = None
        """What customers have asked for while a pass is under way, which it may not have seen."""
        self._retries: deque[Retry] = deque()
        self._next_at = float("-inf")

    def begin_pass(self) -> None:
        self._asked = set()

    def end_pass(self, invoices: Collection[str], at: float) -> list[Retry]:
        """A pass has covered these; where none, it changes nothing. Returns what is covered no more."""
        asked, self._asked = self._asked or set(), None
        if not invoices:
            return []
        self._covered = set(invoices) - asked
        self._until = at + COVERED_S
        valid = [retry for retry in self._retries if is_valid(retry)]
        self._retries = deque(retry for retry in valid if retry[1].invoice in self._covered)
        return [retry for retry in valid if retry[1].invoice not in self._covered]

    def expired(self, at: float) -> list[Retry]:
        """The retries that are covered no more, since no pass has covered them for a while."""
        if not self._retries or at < self._until:
            return []
        found = list(self._retries)
        self._retries.clear()
        return found

    def uncover(self, invoice: str) -> None:
        """A customer says that something may have happened: until the next pass, its retries are not slow."""
        self._covered.discard(invoice)
        if self._asked is not None:
            self._asked.add(invoice)

    def covers(self, entry: QueueEntry, at: float) -> bool:
        return entry.awaits_payment and at < self._until and entry.invoice in self._covered

    def add(self, retry: Retry) -> None:
        self._retries.append(retry)

    def due(self) -> list[Retry]:
        """All of them."""
        return [retry for retry in self._retries if is_valid(retry)]

    def next_at(self) -> float | None:
        """When the next retry may be made, or is covered no more. None where there is none."""
        return None if self._first() is None else min(self._next_at, self._until)

    def take(self, at: float) -> QueueEntry | None:
        """The entry whose retry may be made now, if any."""
        if self._first() is None or at < self._next_at:
            return None
        self._next_at = at + CHECK_EVERY_S
        return self._retries.popleft()[1]

    def _first(self) -> Retry | None:
        while self._retries and not is_valid(self._retries[0]):
            self._retries.popleft()
        return self._retries[0] if self._retries else None
