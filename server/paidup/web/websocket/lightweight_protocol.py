"""A lightweight WebSocket protocol for uvicorn, for sockets that are mostly idle.

Under uvicorn's own protocol class an idle socket holds its headers, the scope, two parsers, a
queue, timers and a task. Here the handshake of one of Paidup's paths is answered from what httptools
has already parsed, the application takes over the connection, and everything else is freed: a fifth
of the memory, a third of the work of connecting, and one system call for a status. Received frames
are parsed by the websockets library within the limits of `frame_limits.py`; an idle socket keeps no
parser. Any other handshake (another path, a query, a duplicate header, a version other than 13) is
left to uvicorn's class.

This module only handles the bytes on the connection: `session.py` decides what is sent, and
`endpoint.py` when a socket closes.
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

from paidup.domain.messages import MAX_FRAME, SUBPROTOCOL
from paidup.web.websocket.frame_limits import BURST_S, FRAME_S, READ_S, FrameLimit, LimitedWebSocketProtocol
from paidup.web.websocket.transport import TransportHandler

log = structlog.get_logger(__name__)

RAW_TRANSPORT_EXTENSION = "paidup.raw_transport"
"""ASGI scope extension: called with a TransportHandler, right after the handshake was accepted."""
TakeOverTransport = Callable[[TransportHandler], "LightweightTransport"]
WEBSOCKET_PATHS = re.compile(rb"/ws/(?:account|(?:invoices|checkout)/[-_.0-9a-zA-Z]+)")
"""Paths whose application takes over the connection or refuses the handshake, without other ASGI
messages. If Paidup is mounted under a prefix, its sockets are left to uvicorn's class, like the host's."""
_SUBPROTOCOL = SUBPROTOCOL.encode()
PING = Frame(Opcode.PING, b"").serialize(mask=False)


class LightweightProtocol(asyncio.Protocol):
    """Answers a WebSocket handshake. uvicorn creates one when httptools has read an upgrade request."""

    __slots__ = (
        *("_app_state", "_config", "_connections", "_http", "_server_state", "_transport"),
        *("_answered", "_key", "_fallback", "_refusal", "_taken_over"),
    )

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any], _loop: Any = None
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._connections: set[Any] = server_state.connections
        self._key = ""
        self._refusal: tuple[int, HeaderList] = (500, [])
        self._answered = self._taken_over = False
        self._fallback: LimitedWebSocketProtocol | None = None
        """uvicorn's own protocol, if the handshake was left to it."""

    # Called by uvicorn and the event loop

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.Transport = transport
        self._http: Any = transport.get_protocol()

    def data_received(self, data: bytes) -> None:
        if self._key:
            self._transport.close()  # RFC 6455, 4.1: no data before the handshake is answered
        elif self._fallback is not None:
            self._fallback.data_received(data)
        elif key := self._handshake_key():
            self._key = key
            self._connections.add(self)
            task = asyncio.create_task(self._run(), name="handshake")
            self._server_state.tasks.add(task)
            task.add_done_callback(self._server_state.tasks.discard)
        else:
            self._fallback = LimitedWebSocketProtocol(self._config, self._server_state, self._app_state)
            self._fallback.connection_made(self._transport)
            self._fallback.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._fallback is not None:
            self._fallback.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._fallback is not None:
            self._fallback.pause_writing()

    def resume_writing(self) -> None:
        if self._fallback is not None:
            self._fallback.resume_writing()

    def shutdown(self) -> None:
        self._transport.close()

    # The ASGI application

    async def _run(self) -> None:
        app: Any = self._config.loaded_app
        try:
            await app(self._scope(), self._receive, self._send)
        except ClientDisconnected:
            pass
        except Exception:
            log.exception("handshake_failed")
        if not self._taken_over:
            if not self._answered:
                self._refuse(500, [(b"content-length", b"0")], b"")
            self._transport.close()

    def _handshake_key(self) -> str:
        fields: HeaderList = self._http.scope["headers"]
        headers = dict(fields)
        plain = self._http.scope["method"] == "GET" and len(headers) == len(fields)
        return handshake_key(self._http.url, headers) if plain else ""

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
            self._refuse(403, [(b"content-length", b"0")], b"")  # from a host that mounts Paidup elsewhere
        else:
            raise RuntimeError(f"unexpected {kind!r}: the application has to take over the connection")

    def _accept(self, subprotocol: bytes) -> None:
        self._answered = True
        self._transport.write(switching_protocols(self._key, self._server_state.default_headers, subprotocol))

    def _refuse(self, status: int, headers: HeaderList, body: bytes) -> None:
        self._answered = True
        status_line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
        fields = (*self._server_state.default_headers, *headers, (b"connection", b"close"))
        lines = (b"%b: %b\r\n" % field for field in fields)
        self._transport.write(b"".join((status_line, *lines, b"\r\n", body)))

    def _take_over(self, handler: TransportHandler) -> LightweightTransport:
        """Hand over the connection and free everything else."""
        self._taken_over = True
        self._connections.discard(self)
        transport = LightweightTransport(self._transport, self._connections, handler)
        self._connections.add(transport)
        self._transport.set_protocol(transport)
        # Break the reference cycle of the HTTP protocol and its parser, so that both are freed now.
        self._http.parser = None
        return transport


HeaderList = list[tuple[bytes, bytes]]


def handshake_key(url: bytes, headers: dict[bytes, bytes]) -> str:
    """The Sec-WebSocket-Key of a plain handshake at one of WEBSOCKET_PATHS; "" for any other request.

    `headers` have lowercase names, none of which was there twice. That it is a GET that asks for a WebSocket
    has been checked before.
    """
    key = headers.get(b"sec-websocket-key", b"")
    if not WEBSOCKET_PATHS.fullmatch(url) or headers.get(b"sec-websocket-version") != b"13" or len(key) != 24:
        return ""
    try:
        return key.decode() if len(base64.b64decode(key, validate=True)) == 16 else ""
    except binascii.Error:
        return ""


def switching_protocols(key: str, default_headers: HeaderList, subprotocol: bytes = _SUBPROTOCOL) -> bytes:
    """The response that accepts a handshake."""
    lines = [b"%b: %b\r\n" % field for field in default_headers]
    return b"".join(
        (
            b"HTTP/1.1 101 Switching Protocols\r\n",
            *lines,
            b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ",
            *(accept_key(key).encode(), b"\r\nsec-websocket-protocol: ", subprotocol, b"\r\n\r\n"),
        )
    )


class LightweightTransport(asyncio.Protocol):
    """Transport that is itself the connection's asyncio protocol."""

    __slots__ = (
        *("_charged_until", "_closing", "_connections", "_inbound", "_handler", "_text", "_transport"),
        *("blocked_at", "last_received_at"),
    )

    def __init__(
        self, transport: asyncio.Transport, connections: set[Any], handler: TransportHandler
    ) -> None:
        self._transport = transport
        self._connections = connections
        self._handler = handler
        self._inbound: FrameLimit | None = None
        self._text: bytearray | None = None
        self._closing = False
        self.blocked_at: float | None = None
        self._charged_until = self.last_received_at = time.monotonic()
        transport.set_write_buffer_limits(high=0)  # blocked as soon as the kernel's buffer is full

    # Called by the handler

    def send(self, frame: bytes) -> None:
        if not self._closing:
            self._transport.write(_text_frame(frame))

    def send_heartbeat(self, frame: bytes) -> None:
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

    # Called by the event loop

    def data_received(self, data: bytes) -> None:
        self.last_received_at = now = time.monotonic()
        if self._inbound is None and _is_empty_pong(data):
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
                self._on_frame(cast(Frame, frame))
        except UnicodeDecodeError:
            inbound.fail(1007)
        if output := b"".join(inbound.data_to_send()):
            self._transport.write(output)
        if inbound.eof_sent:  # the closing handshake is complete, or the data was invalid
            self._closing = True
            self._transport.close()
        elif self._closing or inbound.current_size is not None or not _ends_at_frame_boundary(data):
            self._inbound = inbound
        if inbound is not self._inbound:
            inbound.parser.close()  # see connection_lost

    def _on_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.TEXT:
            self._text = bytearray(frame.data)
        elif frame.opcode is Opcode.CONT and self._text is not None:
            self._text += frame.data
        elif frame.opcode is Opcode.BINARY:
            self._text = None
        if frame.fin and frame.opcode in _DATA and self._text is not None:
            text, self._text = self._text.decode(), None
            if not self._closing:
                self._handler.on_text(text)

    def pause_writing(self) -> None:
        self.blocked_at = time.monotonic()

    def resume_writing(self) -> None:
        self.blocked_at = None
        self._handler.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._closing = True
        if self._inbound is not None:
            self._inbound.parser.close()  # a generator in a reference cycle with its Protocol
        self._handler.on_disconnect()

    def shutdown(self) -> None:
        """Called by uvicorn when it stops, if the drain has not closed this socket in time."""
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


def _is_empty_pong(data: bytes) -> bool:
    """Whether `data` is one empty, masked pong: a browser's response to each heartbeat."""
    return len(data) == 6 and data[0] == 0x8A and data[1] == 0x80


def _ends_at_frame_boundary(data: bytes) -> bool:
    """Whether `data`, which starts with a frame, ends with one, so that no parser has to be kept."""
    at, size = 0, len(data)
    while at + 2 <= size:
        length = data[at + 1] & 0x7F
        extended = {126: 2, 127: 8}.get(length, 0)
        if extended:
            length = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
        at += 2 + extended + 4 + length
    return at == size
