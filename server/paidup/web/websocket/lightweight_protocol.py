"""The slim wire: what is kept of a socket that only waits.

Under uvicorn's own protocol class a waiting socket holds its headers, the scope, two parsers, a
queue, timers and a task. Here the handshake of one of our addresses is answered at once from
what httptools has parsed already, the application takes the connection over, and everything
else is let go: a fifth of the memory, a third of the work of connecting, and one system call for
a status. Frames that come in are parsed by the websockets library, of which a silent socket keeps
nothing, within the limits of `frame_limits.py`. Whatever is out of the ordinary (another address, a
query, a header twice, a version other than 13) is left to uvicorn's class, which answers it as the
library does.

Owns the bytes on the connection. Refuses to decide what is sent, and when a socket has to
close: that is `lines.py`'s and `sockets.py`'s.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Callable, MutableMapping
from http import HTTPStatus
from typing import Any, cast

import structlog
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER
from websockets.utils import accept_key

from paidup.domain.messages import MAX_FRAME
from paidup.web.websocket.frame_limits import BURST_S, FRAME_S, READ_S, FrameLimit, LimitedWebSocketProtocol
from paidup.web.websocket.transport import TransportHandler

log = structlog.get_logger(__name__)

RAW_TRANSPORT_EXTENSION = "paidup.take_over"
"""An extension of the ASGI scope: called with the owner, right after the handshake was accepted."""
TakeOverTransport = Callable[[TransportHandler], "LightweightTransport"]
OURS = re.compile(rb"/ws/(?:account|invoices/[-_.0-9a-zA-Z]+)")
"""Addresses whose application takes over, or refuses. Nothing else is sent or received by ASGI there.
Where Paidup is mounted under a prefix, its sockets are left to uvicorn's class, as the host's own are."""
PING = Frame(Opcode.PING, b"").serialize(mask=False)


class LightweightProtocol(asyncio.Protocol):
    """A connection that asks to become a WebSocket: uvicorn makes one once httptools has read its request."""

    __slots__ = (
        *("_app_state", "_config", "_connections", "_http", "_server_state", "_transport"),
        *("_answered", "_key", "_left", "_refusal", "_taken"),
    )

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._connections: set[Any] = server_state.connections
        self._key = ""
        self._refusal: tuple[int, Headers] = (500, [])
        self._answered = self._taken = False
        self._left: LimitedWebSocketProtocol | None = None
        """uvicorn's own protocol, where the handshake was left to it."""

    # What uvicorn and the event loop call

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._http: Any = transport.get_protocol()

    def data_received(self, data: bytes) -> None:
        if self._key:
            self._transport.close()  # the handshake is not answered yet: there is nothing to say
        elif self._left is not None:
            self._left.data_received(data)
        elif key := _key_of(self._http):
            self._key = key
            self._connections.add(self)
            task = asyncio.create_task(self._run(), name="handshake")
            self._server_state.tasks.add(task)
            task.add_done_callback(self._server_state.tasks.discard)
        else:
            self._left = LimitedWebSocketProtocol(self._config, self._server_state, self._app_state)
            self._left.connection_made(self._transport)
            self._left.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._left is not None:
            self._left.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._left is not None:
            self._left.pause_writing()

    def resume_writing(self) -> None:
        if self._left is not None:
            self._left.resume_writing()

    def shutdown(self) -> None:
        self._transport.close()

    # The application's side of an ordinary handshake

    async def _run(self) -> None:
        app: Any = self._config.loaded_app
        try:
            await app(self._scope(), self._receive, self._send)
        except ClientDisconnected:
            pass
        except Exception:
            log.exception("handshake_failed")
        if not self._taken:
            if not self._answered:
                self._refuse(500, [(b"content-length", b"0")], b"")
            self._transport.close()

    def _scope(self) -> dict[str, Any]:
        http: dict[str, Any] = self._http.scope
        path = self._config.root_path + self._http.url.decode("ascii")
        offered = dict(http["headers"]).get(b"sec-websocket-protocol", b"").decode("latin-1")
        return {
            **http,
            "type": "websocket",
            "scheme": "wss" if http["scheme"] == "https" else "ws",
            "path": path,
            "raw_path": path.encode("ascii"),
            "query_string": b"",
            "subprotocols": [part.strip() for part in offered.split(",")],
            "extensions": {"websocket.http.response": {}, RAW_TRANSPORT_EXTENSION: self._take_over},
        }

    async def _receive(self) -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        kind = message["type"]
        if self._transport.is_closing():
            raise ClientDisconnected
        if kind == "websocket.accept":
            self._accept(message["subprotocol"].encode())
        elif kind == "websocket.http.response.start":
            self._refusal = (message["status"], message["headers"])
        elif kind == "websocket.http.response.body":
            self._refuse(*self._refusal, message["body"])
        elif kind == "websocket.close" and not self._answered:
            self._refuse(403, [(b"content-length", b"0")], b"")  # of a host that has mounted us elsewhere
        else:
            raise RuntimeError(f"{kind!r} at an address whose application takes over")

    def _accept(self, subprotocol: bytes) -> None:
        self._answered = True
        headers = [
            *((b"upgrade", b"websocket"), (b"connection", b"Upgrade")),
            (b"sec-websocket-accept", accept_key(self._key).encode()),
            (b"sec-websocket-protocol", subprotocol),
        ]
        self._write(101, headers, b"")

    def _refuse(self, status: int, headers: Headers, body: bytes) -> None:
        self._answered = True
        self._write(status, [*headers, (b"connection", b"close")], body)

    def _write(self, status: int, headers: Headers, body: bytes) -> None:
        line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
        fields = (b"%b: %b\r\n" % field for field in (*self._server_state.default_headers, *headers))
        self._transport.write(b"".join((line, *fields, b"\r\n", body)))

    def _take_over(self, owner: TransportHandler) -> LightweightTransport:
        """Let go of everything but the connection."""
        self._taken = True
        self._connections.discard(self)
        wire = LightweightTransport(self._transport, self._connections, owner)
        self._connections.add(wire)
        self._transport.set_protocol(wire)
        # The HTTP protocol and its parser refer to each other: nobody would free them before a collection.
        self._http.parser = None
        return wire


Headers = list[tuple[bytes, bytes]]


def _key_of(http: Any) -> str:
    """The key of an ordinary handshake at one of our addresses; empty where it is anything else.

    That it asks for an upgrade to a WebSocket, uvicorn has seen already.
    """
    fields: Headers = http.scope["headers"]
    headers = dict(fields)  # names are in lower case
    key = headers.get(b"sec-websocket-key", b"")
    if (
        http.scope["method"] != "GET"
        or len(headers) != len(fields)
        or not OURS.fullmatch(http.url)
        or headers.get(b"sec-websocket-version") != b"13"
        or len(key) != 24
    ):
        return ""
    try:
        return key.decode() if len(base64.b64decode(key, validate=True)) == 16 else ""
    except binascii.Error:
        return ""


class LightweightTransport(asyncio.Protocol):
    """A wire that is the connection's protocol itself."""

    __slots__ = (
        *("_charged_until", "_closing", "_connections", "_inbound", "_owner", "_text", "_transport"),
        *("blocked_at", "last_received_at"),
    )

    def __init__(self, transport: asyncio.Transport, connections: set[Any], owner: TransportHandler) -> None:
        self._transport = transport
        self._connections = connections
        self._owner = owner
        self._inbound: FrameLimit | None = None
        self._text: bytearray | None = None
        self._closing = False
        self.blocked_at: float | None = None
        self._charged_until = self.last_received_at = time.monotonic()
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
        self.last_received_at = now = time.monotonic()
        if self._inbound is None and _whole_pongs(data):
            charged_until = max(self._charged_until, now) + READ_S + FRAME_S
            if charged_until <= now + BURST_S:
                self._charged_until = charged_until
                return
        inbound = self._inbound or _parser()
        inbound.charged_until = self._charged_until
        inbound.receive_data(data)
        self._charged_until = inbound.charged_until
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
        if inbound is not self._inbound:
            inbound.parser.close()  # as below

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
        if self._inbound is not None:
            self._inbound.parser.close()  # a generator that refers to its Protocol, which refers to it
        self._owner.lost()

    def shutdown(self) -> None:
        """uvicorn is stopping, and whoever drains has not closed this one in time."""
        self.close(1012)
        self._transport.close()


_DATA = (Opcode.TEXT, Opcode.CONT)


def _parser() -> FrameLimit:
    return FrameLimit(SERVER, state=OPEN, max_size=MAX_FRAME)


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
