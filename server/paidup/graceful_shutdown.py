"""What is done before SIGTERM reaches the server under us: the sockets are sent away first.

uvicorn has no hook for it: it cuts every connection first and tells the application afterwards.
So its handler of the signal is called only once the sockets are gone. A second SIGTERM goes
straight to it. Owns the signal for as long as the block; refuses to know what is drained.
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
    """Run `prepare` at SIGTERM, then the handler that was there. For the loop that runs now.

    Changes nothing where there is no handler in Python to come before (a test client, or a
    server that takes its signals another way), or where this is not the main thread.
    """
    loop = asyncio.get_running_loop()
    own: Any = signal.getsignal(signal.SIGTERM)
    if not callable(own) or threading.current_thread() is not threading.main_thread():
        yield
        return
    under_way: list[asyncio.Task[None]] = []

    def stop(_: object = None) -> None:
        own(signal.SIGTERM, None)

    def begin() -> None:
        if under_way:
            stop()
            return
        under_way.append(asyncio.create_task(prepare(), name="drain"))
        under_way[0].add_done_callback(stop)

    def on_sigterm(_: int, __: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, own)
