"""What is done at a signal, before the server's own handler is called."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from paidup.graceful_shutdown import before_stopping
from tests.support.waiting import wait_until


class Server:
    """A server that has handlers of its own, as uvicorn has, and drains until it is let."""

    def __init__(self) -> None:
        self.stopped: list[int] = []
        self.drains = 0
        self.drained = asyncio.Event()

    def handle(self, number: int, _: FrameType | None) -> None:
        self.stopped.append(number)

    async def drain(self) -> None:
        self.drains += 1
        await self.drained.wait()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, made.handle) for number in numbers}
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_both_signals_drain_once_and_are_then_passed_on(server: Server) -> None:
    """At Ctrl-C, a worker gets SIGINT from the terminal and SIGTERM from its parent."""
    with before_stopping(server.drain):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        await wait_until(lambda: server.drains)
        assert server.stopped == []
        server.drained.set()
        await wait_until(lambda: server.stopped)
        assert (server.drains, server.stopped) == (1, [signal.SIGINT])
        signal.raise_signal(signal.SIGTERM)
        await wait_until(lambda: server.stopped == [signal.SIGINT, signal.SIGTERM])
    assert signal.getsignal(signal.SIGINT) == server.handle


async def test_the_same_signal_again_is_passed_on_at_once_and_only_once(server: Server) -> None:
    """uvicorn takes a SIGINT that it has seen for an order to drop everything."""
    with before_stopping(server.drain):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        await wait_until(lambda: server.stopped)
        server.drained.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert server.stopped == [signal.SIGINT]


async def test_pythons_own_handler_of_ctrl_c_stays(server: Server) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with before_stopping(server.drain):
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) != server.handle
