"""One browser tab of one customer, before several servers of which any may be gone at any moment.

It behaves as the browser client (`paidup.js`) does: a fresh ticket for each connection but the first, the
socket at whichever server a load balancer would choose, full jitter between connections, and the
status by GET where the socket cannot be had.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from random import Random
from typing import Any

import aiohttp
import jwt

from tests.support.paidup import JWT_SECRET, ORIGIN, scope_of

REQUEST_S = 10.0
HANDSHAKE_S = 8.0
SILENCE_S = 35.0
STABLE_S = 5.0
TERMINAL = ("active", "void", "reversed")
UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)

Hear = Callable[[Any], None]


class Unanswered(Exception):
    """No server gave an acceptable response in time; `last` is the last one."""

    def __init__(self, path: str, last: str) -> None:
        super().__init__(f"{path} was not answered in time; at last: {last}")


def backoff_s(attempt: int, chance: Random) -> float:
    """paidup.js's: full jitter under a ceiling of 0.5 s that doubles to 20 s."""
    return chance.random() * float(min(20.0, 0.5 * 2**attempt))


class Tab:
    def __init__(
        self, servers: Sequence[str], http: aiohttp.ClientSession, name: str, chance: Random
    ) -> None:
        self.name = name
        self.reconnects = 0
        self._servers = servers
        self._http = http
        self._chance = chance
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    # Requests

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One attempt at one server. Raises one of UNREACHABLE."""
        claims = {"sub": self.name, "exp": int(time.time()) + 600, **scope_of(path)}
        headers = {"Authorization": f"Bearer {jwt.encode(claims, JWT_SECRET, 'HS256')}"}
        url = self._chance.choice(self._servers) + path
        timeout = aiohttp.ClientTimeout(total=REQUEST_S)
        async with self._http.request(method, url, json=body, headers=headers, timeout=timeout) as response:
            return response.status, await response.json(content_type=None)

    async def insist(
        self, method: str, path: str, body: Any, accept: Collection[int], within: float
    ) -> tuple[int, Any]:
        """Repeat a request until its status is one of `accept`. Raises Unanswered."""
        last = "nothing"
        deadline = time.monotonic() + within
        attempt = 0
        while time.monotonic() < deadline:
            try:
                status, answer = await self.call(method, path, body)
            except UNREACHABLE as error:
                last = f"{type(error).__name__}: {error}"
            else:
                if status in accept:
                    return status, answer
                last = f"{status} {answer}"
            await asyncio.sleep(min(2.0, 0.05 + backoff_s(attempt, self._chance)))
            attempt += 1
        raise Unanswered(path, last)

    # Watching

    async def watch(self, invoice: str, ticket: str | None, hear: Hear = lambda _: None) -> Any:
        """The terminal status of `invoice`, across lost connections. `hear` is called with each status."""
        attempt = 0
        while True:
            began = time.monotonic()
            final, opened, after = await self._connection(invoice, ticket, hear)
            if final is not None:
                return final
            ticket = None
            self.reconnects += 1
            if time.monotonic() - began >= STABLE_S:
                attempt = 0
            if not opened and after is None:
                final = await self._poll(invoice, hear)
                if final is not None:
                    return final
            await asyncio.sleep(backoff_s(attempt, self._chance) if after is None else after)
            attempt += 1

    async def confirmed(self) -> None:
        """Send `verify`, as the page does once `confirmCardPayment` has resolved."""
        if self._socket is not None and not self._socket.closed:
            with suppress(*UNREACHABLE):  # a new connection causes a verification itself
                await self._socket.send_str('{"type":"verify"}')

    async def _connection(
        self, invoice: str, ticket: str | None, hear: Hear
    ) -> tuple[Any, bool, float | None]:
        """One connection: the final status or None, whether it was opened, and the reconnect delay."""
        opened, after = False, None
        try:
            if ticket is None:
                status, answer = await self.call("POST", f"/api/invoices/{invoice}/ticket")
                if status != 200:
                    return None, False, None
                ticket = answer["ticket"]
            async with asyncio.timeout(HANDSHAKE_S):
                socket = await self._http.ws_connect(
                    f"{self._chance.choice(self._servers)}/ws/invoices/{invoice}",
                    protocols=("paidup.v1", ticket),
                    headers={"Origin": ORIGIN},
                )
            opened, self._socket = True, socket
            async with socket:
                while (message := await socket.receive(SILENCE_S)).type is aiohttp.WSMsgType.TEXT:
                    frame = message.json()
                    if frame["type"] == "bye":
                        after = frame["reconnect_after_ms"] / 1000
                    elif frame["type"] == "status":
                        hear(frame)
                        if frame["status"] in TERMINAL:
                            return frame, True, None
        except UNREACHABLE:
            pass
        finally:
            self._socket = None
        return None, opened, after

    async def _poll(self, invoice: str, hear: Hear) -> Any:
        try:
            status, answer = await self.call("GET", f"/api/invoices/{invoice}")
        except UNREACHABLE:
            return None
        if status != 200:
            return None
        hear(answer)
        return answer if answer["status"] in TERMINAL else None
