"""Proxies as companies, hotels and mobile networks have them: no WebSocket gets through, or not for long.

Each is one HTTP/1.1 proxy in this process, in front of one server. A connection carries one request, or one
WebSocket. `Seen` counts what passed, so that a test can tell how often a browser tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from paidup.runtime.tasks import cancel_tasks
from tests.support.tcp import serving_tcp

BLOCK = 4096
CAP_S = 20.0
CHECKS_PER_LIMIT = 20
HTML = b"<!doctype html><title>Hotel</title><h1>Welcome to our network</h1>"
Refusal = Literal["403", "426", "200", "reset"]


@dataclass
class Seen:
    """What a proxy was asked for, and how often it cut an idle connection."""

    upgrades: int = 0
    streams: int = 0
    requests: list[str] = field(default_factory=list)
    cut: int = 0

    @property
    def polls(self) -> int:
        return sum(1 for line in self.requests if line.startswith("GET /api/invoices/") and "wait=" in line)


class HostileProxy:
    """Passes everything. `url` is its address. Subclasses are hostile."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self.url = ""
        self.seen = Seen()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Self]:
        """The running proxy."""
        async with serving_tcp(self._carry) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield self

    # What subclasses change

    def refusal(self) -> Refusal | None:
        """How an upgrade is refused."""
        return None

    def request(self, lines: list[bytes]) -> list[bytes]:
        """The headers that the server gets."""
        return lines

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what the server sends."""
        await _pump(reader, writer)

    async def up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what the browser sends after its request."""
        await _pump(reader, writer)

    # One connection

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await self._head(reader, writer)
                if head is None:
                    return
                far_reader, far = await asyncio.open_connection(*self._upstream)
                far.write(head)
                await _first_of(self.up(reader, far), self.down(far_reader, writer))  # either end has closed
        finally:
            if far is not None:
                far.close()

    async def _head(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """The request's head for the server; None if it has been answered here."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        upgrade = any(line.lower().startswith(b"upgrade: websocket") for line in lines)
        text = first.decode()
        self.seen.upgrades += upgrade
        self.seen.streams += "/events?" in text
        self.seen.requests.append(text)
        if upgrade and (how := self.refusal()):
            if how == "reset":
                writer.transport.abort()
            else:
                reason = {"403": b"403 Forbidden", "426": b"426 Upgrade Required", "200": b"200 OK"}[how]
                fields = b"Content-Type: text/html\r\nContent-Length: %d\r\nConnection: close" % len(HTML)
                writer.write(b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (reason, fields, HTML))
                await writer.drain()
            return None
        lines = self.request(lines)
        if not any(line.lower().startswith(b"upgrade:") for line in lines):  # one request for each connection
            lines = [*(line for line in lines if not line.lower().startswith(b"connection:"))]
            lines.append(b"Connection: close")
        return b"\r\n".join([first, *lines, b"", b""])


class NoUpgrades(HostileProxy):
    """Answers each WebSocket itself: with a status, a page, or a reset."""

    def __init__(self, host: str, port: int, how: Refusal) -> None:
        super().__init__(host, port)
        self._how = how

    def refusal(self) -> Refusal | None:
        return self._how


class StripsSubprotocol(HostileProxy):
    """Drops a header that it does not know."""

    def request(self, lines: list[bytes]) -> list[bytes]:
        return [line for line in lines if not line.lower().startswith(b"sec-websocket-protocol:")]


class Buffers(HostileProxy):
    """Knows no upgrade, and holds a response back until it ends, fills a block, or CAP_S have passed.

    As nginx does without X-Accel-Buffering: only whole blocks go on. Without `blocks`, it waits for the end.
    """

    def __init__(self, host: str, port: int, blocks: bool = True) -> None:
        super().__init__(host, port)
        self._blocks = blocks
        self.held = 0

    def request(self, lines: list[bytes]) -> list[bytes]:
        return [line for line in lines if not line.lower().startswith((b"upgrade:", b"connection:"))]

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        while True:
            try:
                async with asyncio.timeout(CAP_S if held and self._blocks else None):
                    data = await reader.read(65_536)
            except TimeoutError:
                writer.write(held)
                held = b""
                continue
            held += data
            self.held = len(held)
            whole = len(held) if not data else len(held) // BLOCK * BLOCK if self._blocks else 0
            writer.write(held[:whole])
            held = held[whole:]
            if not data:
                return await writer.drain()


class CutsIdle(HostileProxy):
    """Aborts a connection on which nothing has passed for `limit_s`.

    It counts checks and not seconds: while this process is held up, neither it nor the server does anything,
    and that is one check. `checks` are those of the connection that has been open for the longest.
    """

    def __init__(self, host: str, port: int, limit_s: float) -> None:
        super().__init__(host, port)
        self._limit_s = limit_s
        self.checks = 0

    async def down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        idle = own = 0
        reading = asyncio.create_task(reader.read(65_536))
        try:
            while idle < CHECKS_PER_LIMIT:
                await asyncio.wait({reading}, timeout=self._limit_s / CHECKS_PER_LIMIT)
                if not reading.done():
                    idle, own = idle + 1, own + 1
                    self.checks = max(self.checks, own)
                    continue
                if not (data := reading.result()):
                    return
                writer.write(data)
                idle, reading = 0, asyncio.create_task(reader.read(65_536))
            self.seen.cut += 1
            writer.transport.abort()
        finally:
            await cancel_tasks(reading)


async def _first_of(*ways: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_tasks(*tasks)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
