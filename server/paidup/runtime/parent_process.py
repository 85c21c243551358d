"""Tells a worker process that the process which started it has ended, even if that was killed."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watched(on_end: Callable[[], None]) -> Iterator[None]:
    """Call `on_end` once, on this event loop, when the parent has ended. A process without one has none.

    Only a parent that started this process by `multiprocessing` counts, as uvicorn's does with `--workers`.
    """
    parent, loop = multiprocessing.parent_process(), asyncio.get_running_loop()
    if parent is None:
        yield
        return

    def ended() -> None:
        loop.remove_reader(parent.sentinel)
        on_end()

    loop.add_reader(parent.sentinel, ended)
    try:
        yield
    finally:
        loop.remove_reader(parent.sentinel)
