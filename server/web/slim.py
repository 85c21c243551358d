"""The slim wire: what is kept of a socket that only waits.

uvicorn's own protocol class does the handshake. Once the application has accepted, it may ask
for the connection (`take_over`, an extension of the ASGI scope): then headers, scope, parsers,
queue, timers and task are let go, and this wire writes to the transport itself. A waiting
socket so costs a fifth of the memory, and a status one system call. Frames that come in are
parsed by the websockets library, of which a silent socket keeps nothing.

Owns the bytes on the connection. Refuses to decide what is sent, and when a socket has to
close: that is `lines.py`'s and `sockets.py`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN, SERVER, Protocol

from server.web.wires import Owner

TAKE_OVER = "paidup.take_over"
"""The extension's name. Its value is called with the owner, right after the handshake was accepted."""
TakeOver = Callable[[Owner], "SlimWire"]
MAX_FRAME = 4096
"""Bytes: a browser has nothing longer to say than {"type":"verify"}."""
PING = Frame(Opcode.PING, b"").serialize(mask=False)


class SlimProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, whose connection can be taken over once the socket is accepted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._http: Any = transport.get_protocol()
        super().connection_made(transport)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if hasattr(self, "scope"):  # else the handshake was refused
            extensions: dict[str, Any] = cast(Any, self.scope["extensions"])
            extensions[TAKE_OVER] = self.take_over

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True  # answered: else uvicorn logs an error for each that is refused

    def take_over(self, owner: Owner) -> SlimWire:
        """Let go of everything but the connection. Nothing may be sent or received by ASGI afterwards."""
        transport = self.transport
        connections: set[Any] = self.connections
        self.stop_keepalive()
        connections.discard(self)
        wire = SlimWire(transport, connections, owner)
        connections.add(wire)
        transport.set_protocol(wire)
        # The HTTP protocol and its parser refer to each other: nobody would free them before a collection.
        self._http.parser = None
        self.transport = _GONE  # run_asgi() closes it when the application returns
        if self.disconnected:
            wire.connection_lost(None)
        return wire


class _Gone:
    def close(self) -> None:
        """Nothing to close any more."""


_GONE: Any = _Gone()


class SlimWire(asyncio.Protocol):
    """A wire that is the connection's protocol itself."""

    __slots__ = (
        *("_closing", "_connections", "_inbound", "_owner", "_text", "_transport"),
        *("blocked_at", "heard_at"),
    )

    def __init__(self, transport: asyncio.Transport, connections: set[Any], owner: Owner) -> None:
        self._transport = transport
        self._connections = connections
        self._owner = owner
        self._inbound: Protocol | None = None
        self._text: bytearray | None = None
        self._closing = False
        self.blocked_at: float | None = None
        self.heard_at = time.monotonic()
        transport.set_write_buffer_limits(high=0)  # blocked as soon as the kernel takes no more

    # What the owner calls

    def send(self, frame: bytes) -> None:
        if not self._closing:
            self._transport.write(_text_frame(frame))

    def beat(self, frame: bytes) -> None:
        if not self._closing:
            self._transport.write(_text_frame(frame) + PING)

    def close(self, code: int) -> None:
        if not self._closing:
            self._closing = True
            self._inbound = self._inbound or _parser()
            self._inbound.send_close(code)
            self._transport.write(b"".join(self._inbound.data_to_send()))

    def abort(self) -> None:
        self._transport.abort()

    # What the event loop calls

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        if self._inbound is None and _whole_pongs(data):
            return
        inbound = self._inbound or _parser()
        inbound.receive_data(data)
        try:
            for frame in inbound.events_received():
                self._take(cast(Frame, frame))
        except UnicodeDecodeError:
            inbound.fail(1007)
        if output := b"".join(inbound.data_to_send()):
            self._transport.write(output)
        if inbound.eof_sent:  # both sides have said goodbye, or what came was no WebSocket
            self._closing = True
            self._transport.close()
        elif self._closing or inbound.current_size is not None or not _whole_frames(data):
            self._inbound = inbound

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            self._text = bytearray(frame.data)
        elif frame.opcode is Opcode.CONT and self._text is not None:
            self._text += frame.data
        elif frame.opcode is Opcode.BINARY:
            self._text = None
        if frame.fin and frame.opcode in _DATA and self._text is not None:
            text, self._text = self._text.decode(), None
            if not self._closing:
                self._owner.hear(text)

    def pause_writing(self) -> None:
        self.blocked_at = time.monotonic()

    def resume_writing(self) -> None:
        self.blocked_at = None
        self._owner.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        self._owner.lost()

    def shutdown(self) -> None:
        """uvicorn is stopping, and whoever drains has not closed this one in time."""
        self.close(1012)
        self._transport.close()


_DATA = (Opcode.TEXT, Opcode.CONT)


def _parser() -> Protocol:
    return Protocol(SERVER, state=OPEN, max_size=MAX_FRAME)


def _text_frame(payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return b"\x81" + bytes((size,)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def _whole_pongs(data: bytes) -> bool:
    """Whether this is one empty, masked pong: what a browser answers to each heartbeat."""
    return len(data) == 6 and data[0] == 0x8A and data[1] == 0x80


def _whole_frames(data: bytes) -> bool:
    """Whether `data`, which begins with a frame, ends with one: then a parser has nothing to remember."""
    at, size = 0, len(data)
    while at + 2 <= size:
        length = data[at + 1] & 0x7F
        extended = {126: 2, 127: 8}.get(length, 0)
        if extended:
            length = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
        at += 2 + extended + 4 + length
    return at == size
