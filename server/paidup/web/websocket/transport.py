"""The wires: how the frames of one open socket get out, and what comes in.

Owns the two ways to write: through ASGI, with a task for each send that has to wait, under any
server; and (`slim.py`) straight to the connection, under ours. Refuses to know what a frame
says. Nothing here blocks its caller: a frame that cannot go out at once is not taken.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Protocol

from starlette.types import Receive, Send
from websockets.exceptions import WebSocketException


class TransportHandler(Protocol):
    """Who writes to a wire, and is told what happens on it. None of these may raise or wait."""

    def hear(self, text: str, /) -> None:
        """A text frame came."""

    def clear(self) -> None:
        """What was blocked can go on."""

    def lost(self) -> None:
        """The connection is over. Said once."""


class Transport(Protocol):
    """One open socket."""

    blocked_at: float | None
    """Since when the other side does not take what was sent (monotonic); None while a frame may be sent."""

    @property
    def last_received_at(self) -> float:
        """When the other side last gave a sign of life (monotonic)."""

    def send(self, frame: bytes) -> None:
        """Send one text frame. Only while nothing is blocked."""

    def beat(self, frame: bytes) -> None:
        """Send a heartbeat, and see to it that the other side gives a sign of life."""

    def close(self, code: int) -> None:
        """Begin the closing handshake, after all that was sent."""

    def abort(self) -> None:
        """Cut the connection now."""


class _Unopened:
    """Stands in until the handshake is accepted: everything waits."""

    blocked_at: float | None = math.inf
    last_received_at = math.inf

    def send(self, frame: bytes) -> None: ...
    def beat(self, frame: bytes) -> None: ...
    def close(self, code: int) -> None: ...
    def abort(self) -> None: ...


UNOPENED: Transport = _Unopened()


class AsgiTransport:
    """A wire under any ASGI server: it keeps what is under way, and one task while there is any."""

    def __init__(self, receive: Receive, send: Send, owner: TransportHandler) -> None:
        self._receive = receive
        self._send = send
        self._owner = owner
        self._waiting: list[dict[str, Any]] = []
        self._sender: asyncio.Task[None] | None = None
        self._reader = asyncio.current_task()
        self._over = False
        self.blocked_at: float | None = None

    @property
    def last_received_at(self) -> float:
        return time.monotonic()  # the server's own pings see to it

    def send(self, frame: bytes) -> None:
        self._put({"type": "websocket.send", "text": frame.decode()})

    def beat(self, frame: bytes) -> None:
        self.send(frame)

    def close(self, code: int) -> None:
        self._put({"type": "websocket.close", "code": code})

    def abort(self) -> None:
        if self._reader is not None and not self._over:
            self._over = True
            self._reader.cancel()

    async def read(self) -> None:
        """Hand over what comes, until the connection is over. For the task that serves the socket."""
        try:
            while True:
                message = await self._receive()
                if message["type"] == "websocket.disconnect":
                    return
                if text := message.get("text"):
                    self._owner.hear(text)
        except asyncio.CancelledError:
            if not self._over:
                raise
        finally:
            self._over = True
            if self._sender is not None:
                self._sender.cancel()
            self._owner.lost()

    def _put(self, message: dict[str, Any]) -> None:
        if self._over:
            return
        self._waiting.append(message)
        if self._sender is None:
            self.blocked_at = time.monotonic()
            self._sender = asyncio.create_task(self._send_all(), name="asgi-wire")

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                await self._send(self._waiting.pop(0))
        except (OSError, RuntimeError, WebSocketException):
            self.abort()
        finally:
            self._sender = self.blocked_at = None
        if not self._over:
            self._owner.clear()
