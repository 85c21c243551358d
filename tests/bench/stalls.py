"""What keeps an event loop from what is due: the callbacks that take long, and what they were doing.

`STALLS=FOLDER python -m tests.bench.sockets --only latency` keeps `FOLDER/serve-PORT.txt` of each `paidup
serve` that a benchmark starts, and `python -m tests.bench.stalls FILE MODULE [ARGUMENT ...]` runs any module
so. The server then runs on asyncio's own loop, whose callbacks can be timed one by one; uvloop's cannot. What
counts is the CPU time of a callback, not the time that other processes take from it.
"""

from __future__ import annotations

import asyncio
import gc
import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from paidup import uvicorn_server

LONG_S = 0.0005
SAMPLED_EVERY_S = 0.0003
SHOWN = 30
STACK = 6
"""Functions of a stack that are shown, the innermost first."""


@dataclass
class Stalls:
    """The long callbacks of one kind."""

    taken_s: list[float] = field(default_factory=list)
    stacks: Counter[str] = field(default_factory=Counter)


class Recorder:
    def __init__(self) -> None:
        self.callbacks = 0
        self.found: dict[str, Stalls] = {}
        self._began_s = 0.0
        self._collected_s = 0.0
        self._sampled: list[str] = []

    def run(self, handle: asyncio.Handle, run: Any) -> None:
        """Run one callback of the loop, and time it."""
        self.callbacks += 1
        self._sampled.clear()
        self._began_s = began = time.thread_time()
        run(handle)
        self._began_s, taken = 0.0, time.thread_time() - began
        if taken >= LONG_S:
            stalls = self.found.setdefault(_name_of(handle), Stalls())
            stalls.taken_s.append(taken)
            stalls.stacks.update(self._sampled)

    def sample(self, _number: int, frame: FrameType | None) -> None:
        if self._began_s:
            self._sampled.append(_stack(frame))

    def collect(self, phase: str, details: dict[str, int]) -> None:
        """Called before and after each garbage collection."""
        if phase == "start":
            self._collected_s = time.thread_time()
        elif (taken := time.thread_time() - self._collected_s) >= LONG_S:
            kind = f"(of these, garbage collection {details['generation']})"
            self.found.setdefault(kind, Stalls()).taken_s.append(taken)

    def report(self) -> str:
        lines = [f"{self.callbacks:,} callbacks; of at least {LONG_S * 1000:g} ms of CPU time:"]
        ordered = sorted(self.found.items(), key=lambda item: -sum(item[1].taken_s))
        for name, stalls in ordered[:SHOWN]:
            taken = sorted(stalls.taken_s)
            middle, longest = taken[len(taken) // 2] * 1000, taken[-1] * 1000
            lines.append(f"{len(taken):6,} x {middle:5.2f} ms (longest {longest:.2f})  {name}")
            samples = sum(stalls.stacks.values())
            lines += [
                f"{'':8}{count / samples:4.0%} {stack}" for stack, count in stalls.stacks.most_common(6)
            ]
        return "\n".join([*lines, ""])


def _name_of(handle: Any) -> str:
    callback = handle._callback
    task = getattr(callback, "__self__", None)
    if isinstance(task, asyncio.Task):
        return f"task {task.get_name()}: {getattr(task.get_coro(), '__qualname__', '?')}"
    return str(getattr(callback, "__qualname__", callback))


def _stack(frame: FrameType | None) -> str:
    names: list[str] = []
    while frame is not None and len(names) < STACK:
        module = str(frame.f_globals.get("__name__", "?"))
        names.append(f"{module.rpartition('.')[2]}.{frame.f_code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names)


@contextmanager
def recorded(report: Path) -> Iterator[None]:
    """Write `report` of the loops that run within the block. In the main thread only."""
    recorder, run = Recorder(), asyncio.Handle._run
    setattr(asyncio.Handle, "_run", lambda handle: recorder.run(handle, run))  # noqa: B010
    gc.callbacks.append(recorder.collect)
    before = signal.signal(signal.SIGALRM, recorder.sample)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.setitimer(signal.ITIMER_REAL, SAMPLED_EVERY_S, SAMPLED_EVERY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.callbacks.remove(recorder.collect)
        setattr(asyncio.Handle, "_run", run)  # noqa: B010
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(recorder.report())


if __name__ == "__main__":
    file, module = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [module, *sys.argv[3:]]
    uvicorn_server.UVICORN["loop"] = "asyncio"
    with recorded(file):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
