"""Measures how late the event loop runs what is due: whatever blocks it delays every request and message."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

EVERY_S = 0.1
"""A timer costs some 30 µs."""


async def measure_delays(observe: Callable[[float], None]) -> None:
    """Observe the delay of a timer in seconds, ten times a second, until cancelled."""
    while True:
        began = time.monotonic()
        await asyncio.sleep(EVERY_S)
        observe(max(0.0, time.monotonic() - began - EVERY_S))
