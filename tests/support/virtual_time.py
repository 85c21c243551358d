"""An event loop whose time is virtual: where it would wait for a timer, time is moved on instead."""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Coroutine
from typing import Any


class _Skipping(selectors.DefaultSelector):
    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("nothing will ever happen: the simulation is stuck")
        if timeout > 0:
            # One step further: rounded down, a timer would be due before its time, for ever.
            self.passed = math.nextafter(self.passed + timeout, math.inf)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """For what waits for timers alone: time does not stand still for a socket or a thread."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.passed


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, in virtual time that begins at 0."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)
