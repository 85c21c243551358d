"""Graceful shutdown: run a coroutine at SIGTERM before the server's own handler.

uvicorn has no hook for this: it closes every connection first and notifies the application
afterwards. Here its signal handler is called once the coroutine (the drain) is done. A second
SIGTERM is passed on at once.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def before_sigterm(prepare: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run `prepare` at SIGTERM on the running event loop, then the previous signal handler.

    Does nothing if there is no Python signal handler (a test client, a server that handles signals
    another way), or outside the main thread.
    """
    loop = asyncio.get_running_loop()
    previous: Any = signal.getsignal(signal.SIGTERM)
    if not callable(previous) or threading.current_thread() is not threading.main_thread():
        yield
        return
    tasks: list[asyncio.Task[None]] = []

    def stop(_: object = None) -> None:
        previous(signal.SIGTERM, None)

    def begin() -> None:
        if tasks:
            stop()
            return
        tasks.append(asyncio.create_task(prepare(), name="drain"))
        tasks[0].add_done_callback(stop)

    def on_sigterm(_: int, __: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
