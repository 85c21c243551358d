"""Many browsers in one event loop, light enough for thousands of sockets.

A `Connection` is one socket. A `Waiter` is one browser: it comes back as `paidup.js` does, after
the pause that a close asked for or after its own, at whichever process a load balancer would choose.
It lacks the client's way out, the status by GET: what it hears, a socket has told it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import aiohttp

from paidup.domain.messages import SUBPROTOCOL
from tests.support.browser_tab import HANDSHAKE_S, STABLE_S, TERMINAL, backoff_s
from tests.support.contracts import Undocumented, check_frame
from tests.support.paidup import ORIGIN

LOOK_EVERY_S = 0.1
TEXT, CLOSE, PING = 1, 8, 9


def handshake(invoice: str, ticket: str) -> bytes:
    """What Chrome sends for `new WebSocket(url, ["paidup.v1", ticket])`."""
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    lines = [
        f"GET /ws/invoices/{invoice} HTTP/1.1",
        "Host: app.example.test",
        "Connection: Upgrade",
        "Pragma: no-cache",
        "Cache-Control: no-cache",
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/142.0.0.0 Safari/537.36",
        "Upgrade: websocket",
        f"Origin: {ORIGIN}",
        "Sec-WebSocket-Version: 13",
        "Accept-Encoding: gzip, deflate, br, zstd",
        "Accept-Language: en-GB,en;q=0.9,de;q=0.8,fr;q=0.7",
        f"Cookie: session={secrets.token_urlsafe(48)}; consent=1; theme=dark",
        "DNT: 1",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}, {ticket}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class Connection(asyncio.Protocol):
    """One socket, from the handshake to its end.

    `hear` is called with each text frame. One that is not `polite` never answers a ping or a close,
    as a peer that has vanished.
    """

    def __init__(self, request: bytes, hear: Callable[[bytes], None], polite: bool = True) -> None:
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[int] = loop.create_future()
        """The HTTP status that answers the handshake; 0 where the connection ends before."""
        self.ended: asyncio.Future[int] = loop.create_future()
        """The code of the server's close; 1006 where there was none. Or it raises Undocumented."""
        self._request = request
        self._address = request.split(b" ", 2)[1].decode()
        self._hear = hear
        self._polite = polite
        self._rest = b""
        self._code = 1006

    async def drop(self) -> None:
        """Cut the connection without a goodbye."""
        self._transport.abort()
        await self.ended

    def stall(self) -> None:
        """Read nothing any more."""
        self._transport.pause_reading()

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._rest += data
        if not self.answered.done():
            head, end, frames = self._rest.partition(b"\r\n\r\n")
            if not end:
                return
            self.answered.set_result(int(head[9:12]))
            self._rest = frames
        if self.answered.result() == 101:
            self._take()

    def connection_lost(self, exc: Exception | None) -> None:
        for future, result in ((self.answered, 0), (self.ended, self._code)):
            if not future.done():
                future.set_result(result)

    def _check(self, frame: bytes) -> None:
        try:
            check_frame(self._address, frame)
        except Undocumented as error:
            self.ended.set_exception(error)
            self._transport.abort()
            raise

    def say(self, opcode: int, payload: bytes) -> None:
        """One short frame; its mask is zero."""
        self._transport.write(bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload)

    def _take(self) -> None:
        """Take whole frames off. A server's frames are not masked, and ours are short and in one part."""
        data, at = self._rest, 0
        while len(data) - at >= 4 or (len(data) - at >= 2 and data[at + 1] < 126):
            opcode, size, begin = data[at] & 15, data[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if begin + size > len(data):
                break
            at = begin + size
            payload = data[begin:at]
            if opcode == TEXT:
                self._check(payload)
                self._hear(payload)
            elif opcode == CLOSE:
                self._code = int.from_bytes(payload[:2], "big")
                if self._polite:
                    self.say(CLOSE, payload)
            elif opcode == PING and self._polite:
                self.say(PING + 1, payload)
        self._rest = data[at:]


async def connect(
    port: int, request: bytes, hear: Callable[[bytes], None], polite: bool = True
) -> Connection:
    """A connection whose handshake was answered, with 101 or a refusal. Raises OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(HANDSHAKE_S):
        _, connection = await loop.create_connection(
            lambda: Connection(request, hear, polite), "127.0.0.1", port
        )
        try:
            await asyncio.shield(connection.answered)
        except asyncio.CancelledError:
            await connection.drop()
            raise
    return connection


class Balancer:
    """Stands before the processes: only those whose /readyz says 200 are sent anybody."""

    def __init__(self, ports: Sequence[int], http: aiohttp.ClientSession, chance: Random) -> None:
        self._ports = ports
        self._http = http
        self._chance = chance
        self._ready = list(ports)

    def choose(self) -> int:
        return self._chance.choice(self._ready or self._ports)

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Ask each for its readiness, again and again, for as long as the block."""
        task = asyncio.create_task(self._look_forever(), name="balancer")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _look_forever(self) -> None:
        while True:
            answers = await asyncio.gather(*map(self._is_ready, self._ports))
            self._ready = [port for port, ready in zip(self._ports, answers, strict=True) if ready]
            await asyncio.sleep(LOOK_EVERY_S)

    async def _is_ready(self, port: int) -> bool:
        try:
            async with self._http.get(f"http://127.0.0.1:{port}/readyz") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False


class Waiter:
    """One browser that waits for one invoice until it is told the end, however often it is sent away."""

    def __init__(self, invoice: str, ticket: str, choose: Callable[[], int], chance: Random) -> None:
        self.invoice = invoice
        self.heard = 0
        """Statuses, of all connections."""
        self.finals: list[Any] = []
        """Statuses that end the wait: one, if all is well."""
        self.codes: list[int] = []
        """How each connection that was opened ended."""
        self.due_back: list[float] = []
        """When each close asked it to reconnect (monotonic); a busy machine may be late."""
        self._request = handshake(invoice, ticket)
        self._choose = choose
        self._chance = chance
        self._after: float | None = None

    async def wait(self) -> None:
        attempt = 0
        while True:
            began = time.monotonic()
            await self._connect()
            if self.finals:
                return
            attempt = 0 if time.monotonic() - began >= STABLE_S else attempt
            if self._after is None:
                await asyncio.sleep(backoff_s(attempt, self._chance))
            else:
                await asyncio.sleep(self._after)
            attempt += 1

    async def _connect(self) -> None:
        self._after = None
        try:
            connection = await connect(self._choose(), self._request, self._hear)
            code = await connection.ended
        except (OSError, TimeoutError):
            return
        if connection.answered.result() == 101:
            self.codes.append(code)

    def _hear(self, frame: bytes) -> None:
        message = json.loads(frame)
        if message["type"] == "bye":
            self._after = message["reconnect_after_ms"] / 1000
            self.due_back.append(time.monotonic() + self._after)
        elif message["type"] == "status":
            self.heard += 1
            if message["status"] in TERMINAL:
                self.finals.append(message)
