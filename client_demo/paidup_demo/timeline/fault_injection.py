"""Injects faults into the running demo: restarts its server, or freezes its Redis, while a customer pays.

`FaultInjector` runs in the supervisor and listens on a Unix socket, which the server's process calls with
`request_fault`. Faults never overlap, and each one ends. The supervisor provides the actions.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from paidup.runtime.clock import now
from paidup.runtime.embedded_valkey import socket_path

log = structlog.get_logger(__name__)

MAX_REMEMBERED = 50
ANSWER_WITHIN_S = 2.0
LIST_ONLY = "list"

FaultAction = Callable[[], Awaitable[None]]


class Fault(msgspec.Struct):
    """A fault that was injected. `ended` is None while it lasts. Times are UTC."""

    type: str
    started: datetime
    ended: datetime | None = None


class FaultReport(msgspec.Struct, frozen=True):
    """The faults that can be injected, and those injected so far, oldest first."""

    available: list[str] = []
    faults: list[Fault] = []


def control_socket(data_dir: Path) -> Path:
    """The Unix socket's path: next to the embedded Valkey's, because that one is known to be short enough."""
    return socket_path(data_dir).with_suffix(".demo")


class FaultInjector:
    """Runs the supervisor's fault actions, one at a time."""

    def __init__(self, actions: Mapping[str, FaultAction]) -> None:
        self._actions = actions
        self._faults: deque[Fault] = deque(maxlen=MAX_REMEMBERED)
        self._running: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def served(self, path: Path) -> AsyncIterator[None]:
        """Answer requests at `path`, one line each, within the block. A running fault is ended on exit."""
        server = await asyncio.start_unix_server(self._answer, path)
        os.chmod(path, 0o600)  # its directory is private already
        try:
            yield
        finally:
            server.close()
            with suppress(FileNotFoundError):
                os.unlink(path)
            if self._running is not None:
                self._running.cancel()
                await asyncio.gather(self._running, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(ANSWER_WITHIN_S):
                self._start((await reader.readline()).decode().strip())
                report = FaultReport(sorted(self._actions), list(self._faults))
                writer.write(msgspec.json.encode(report) + b"\n")
                await writer.drain()
        writer.close()

    def _start(self, type_: str) -> None:
        if type_ in self._actions and (self._running is None or self._running.done()):
            fault = Fault(type_, now())
            self._faults.append(fault)
            self._running = asyncio.create_task(self._run(fault), name=type_)

    async def _run(self, fault: Fault) -> None:
        try:
            await self._actions[fault.type]()
        except Exception:
            log.exception("fault_injection_failed", fault=fault.type)
        finally:
            fault.ended = now()


async def request_fault(path: Path, type_: str = LIST_ONLY) -> FaultReport:
    """Request a fault, or only the list. The report is empty if no supervisor is running."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"{type_}\n".encode())
                return msgspec.json.decode(await reader.readline(), type=FaultReport)
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return FaultReport()
