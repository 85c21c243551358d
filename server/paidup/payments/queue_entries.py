"""The entries of the verification queue: an invoice that browsers wait for, and its state."""

from __future__ import annotations

import asyncio
from enum import IntEnum


class State(IntEnum):
    QUEUED = 0
    CHECKING = 1
    PAUSED = 2
    SETTLED = 3


class QueueEntry:
    """`due_at` is when its check is, or was, due; `since` when it was first watched (the loop's time).

    `awaits_payment`: at its last check Stripe showed no payment, not even one that failed, and a list of
    recent invoices will show it.
    """

    __slots__ = ("attempt", "awaits_payment", "due_at", "invoice", "since", "state", "watchers")

    def __init__(self, invoice: str, at: float) -> None:
        self.invoice = invoice
        self.watchers = 1
        self.attempt = 0
        self.awaits_payment = False
        self.state = State.PAUSED
        self.due_at = self.since = at

    def __lt__(self, other: QueueEntry) -> bool:
        return self.since < other.since


Retry = tuple[float, QueueEntry]
"""When a paused entry is checked again. It is valid while the entry is paused until that very time."""


def is_valid(retry: Retry) -> bool:
    due_at, entry = retry
    return entry.state is State.PAUSED and entry.due_at == due_at


def loop_time() -> float:
    return asyncio.get_running_loop().time()
