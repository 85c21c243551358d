"""Graceful shutdown: run a coroutine at SIGTERM or SIGINT before the server's own handler.

uvicorn has no hook for this: it closes every connection first and notifies the application
afterwards. Here its signal handler is called once the coroutine (the drain) is done. The same signal
again is passed on at once.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any


@contextmanager
def before_stopping(prepare: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run `prepare` at SIGTERM or SIGINT on the running event loop, then the previous signal handler.

    Does nothing if there is no Python signal handler for SIGTERM (a test client, a server that handles
    signals another way), or outside the main thread.
    """
    handlers = _handlers()
    if not handlers:
        yield
        return
    stop = _Stop(prepare, handlers)
    loop = asyncio.get_running_loop()

    def on_signal(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop.on_signal, number)

    for number in handlers:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _handlers() -> dict[int, Any]:
    """The server's handlers, by signal. That of Python for Ctrl-C is none of a server's."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if not callable(found[signal.SIGTERM]):
        return {}
    if not callable(found[signal.SIGINT]) or found[signal.SIGINT] is signal.default_int_handler:
        del found[signal.SIGINT]
    return found


class _Stop:
    """What has been asked for, and whether the server knows."""

    def __init__(self, prepare: Callable[[], Coroutine[Any, Any, None]], handlers: dict[int, Any]) -> None:
        self._prepare = prepare
        self._handlers = handlers
        self._received: set[int] = set()
        self._draining: asyncio.Task[None] | None = None
        self._passed_on = False

    def on_signal(self, number: int) -> None:
        # Ctrl-C reaches a worker as SIGINT, and as the SIGTERM of its parent, which got it as well: the
        # second of the two does not mean that somebody has lost patience.
        again = number in self._received
        self._received.add(number)
        if self._draining is None:
            self._draining = asyncio.create_task(self._prepare(), name="drain")
            self._draining.add_done_callback(partial(self._on_drained, number))
        elif again or self._passed_on:
            self._pass_on(number)

    def _on_drained(self, number: int, _: asyncio.Task[None]) -> None:
        if not self._passed_on:
            self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        self._passed_on = True
        self._handlers[number](number, None)
