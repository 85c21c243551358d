"""A clock that tests move, for the deadlines of WebSocket sessions."""

from __future__ import annotations

import time

HEARTBEAT_S = 600.0
LIFETIME_S = 1_000_000.0
"""Both far longer than any test: deadlines only pass when the clock is moved."""


class SessionClock:
    """Replaces the module `time` where sessions read it; a test moves it forward."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.offset_s
