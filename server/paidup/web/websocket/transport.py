"""Transports: send and receive the frames of one open session.

`WebSocketTransport` works under any ASGI server. `LightweightTransport` (`lightweight_protocol.py`)
writes to the connection itself, under `paidup serve`. `EventStreamTransport` (`event_streams.py`) sends
server-sent events. Transports never block the caller: while `blocked_at` is set, nothing may be sent.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Protocol

from starlette.types import Receive, Send
from websockets.exceptions import WebSocketException


class TransportHandler(Protocol):
    """Handles the events of a transport. No method may raise or block."""

    def on_text(self, text: str, /) -> None:
        """A text frame was received."""

    def flush(self) -> None:
        """The transport can send again."""

    def on_disconnect(self) -> None:
        """The connection has ended. Called once."""


class Transport(Protocol):
    """One open socket."""

    blocked_at: float | None
    """Since when the client has not read what was sent (monotonic); None while a frame may be sent."""

    @property
    def last_received_at(self) -> float:
        """When the client last sent anything (monotonic)."""

    def send(self, frame: bytes) -> None:
        """Send one text frame. Only while `blocked_at` is None."""

    def send_heartbeat(self, frame: bytes) -> None:
        """Send a heartbeat and, unless the server does it already, a ping."""

    def close(self, code: int) -> None:
        """Start the closing handshake, after everything sent before."""

    def abort(self) -> None:
        """Close the connection immediately."""


class _Unopened:
    """Used before the handshake is accepted and after the connection has ended: always blocked."""

    blocked_at: float | None = math.inf
    last_received_at = math.inf

    def send(self, frame: bytes) -> None: ...
    def send_heartbeat(self, frame: bytes) -> None: ...
    def close(self, code: int) -> None: ...
    def abort(self) -> None: ...


UNOPENED: Transport = _Unopened()


class AsgiTransport:
    """Sends through ASGI, under any server. One task sends while there are unsent messages.

    A subclass knows what the messages look like.
    """

    def __init__(self, receive: Receive, send: Send, handler: TransportHandler) -> None:
        self._receive = receive
        self._send = send
        self._handler = handler
        self._pending: list[dict[str, Any]] = []
        self._sender: asyncio.Task[None] | None = None
        self._reader = asyncio.current_task()
        self._closed = False
        self.blocked_at: float | None = None

    def send(self, frame: bytes) -> None:
        """Enqueue the message that carries one frame."""
        raise NotImplementedError

    def send_heartbeat(self, frame: bytes) -> None:
        """Enqueue the message that carries a heartbeat."""
        raise NotImplementedError

    def close(self, code: int) -> None:
        """Enqueue the message that ends the connection."""
        raise NotImplementedError

    @property
    def last_received_at(self) -> float:
        return time.monotonic()  # the server's own pings detect a dead client

    def abort(self) -> None:
        if self._reader is not None and not self._closed:
            self._closed = True
            self._reader.cancel()

    async def read(self) -> None:
        """Pass text frames to the handler until the connection ends. Run by the ASGI application's task."""
        try:
            while True:
                message = await self._receive()
                if message["type"].endswith(".disconnect"):
                    return
                if text := message.get("text"):
                    self._handler.on_text(text)
        except asyncio.CancelledError:
            if not self._closed:
                raise
        finally:
            self._closed = True
            if self._sender is not None:
                self._sender.cancel()
            self._handler.on_disconnect()

    def _enqueue(self, message: dict[str, Any]) -> None:
        if self._closed:
            return
        self._pending.append(message)
        if self._sender is None:
            self.blocked_at = time.monotonic()
            self._sender = asyncio.create_task(self._send_all(), name="asgi-transport")

    async def _send_all(self) -> None:
        try:
            while self._pending:
                await self._send(self._pending.pop(0))
        except (OSError, RuntimeError, WebSocketException):
            self.abort()
        finally:
            self._sender = self.blocked_at = None
        if not self._closed:
            self._handler.flush()


class WebSocketTransport(AsgiTransport):
    """A WebSocket."""

    def send(self, frame: bytes) -> None:
        self._enqueue({"type": "websocket.send", "text": frame.decode()})

    def send_heartbeat(self, frame: bytes) -> None:
        self.send(frame)

    def close(self, code: int) -> None:
        self._enqueue({"type": "websocket.close", "code": code})
