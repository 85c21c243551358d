"""The floors: what the same machine does with nothing of Paidup's.

A raw Redis subscriber: the protocol's parser fed by a socket, and nothing behind it. A bare server:
uvicorn without compression, one starlette WebSocket route, one Redis connection; no ticket, no
database, no limits, no pending message, no deadline: `python -m tests.bench.floors SOCKET PORT`. Only the
answer to a handshake: uvloop, httptools, a 101 and one text, with nothing checked or kept:
`python -m tests.bench.floors PORT`. And that with Redis's messages passed on to the sockets:
`python -m tests.bench.floors SOCKET PORT relay`. All run until their process is ended. Imports nothing of the
server, so that it weighs nothing.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hiredis
import httptools
import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

if TYPE_CHECKING:
    from tests.bench.clients import Board

CHANNEL = "paidup:invoice:"
SNAPSHOT = (
    '{"type":"status","invoice":"in_1","version":1,"status":"open","stage":"awaiting_payment","plan":"pro",'
    '"credits_granted":0,"balance":0,"via":null,"at":"2026-11-23T09:00:00.123456Z","error":null}'
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: paidup.v1\r\n\r\n"
)
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 1.3."""
POLLED = json.loads(SNAPSHOT)


class Subscriber(asyncio.Protocol):
    """One connection to Redis. `held` is called once a channel is subscribed, `heard` with each message."""

    def __init__(self, heard: Callable[[bytes, bytes], None], held: Callable[[bytes], None]) -> None:
        self._reader = hiredis.Reader()
        self._heard = heard
        self._held = held
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def subscribe(self, *channels: bytes) -> None:
        command: Any = ("SUBSCRIBE", *channels)
        self._transport.write(hiredis.pack_command(command))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            if reply[0] == b"message":
                self._heard(reply[1], reply[2])
            else:
                self._held(reply[1])


def subscribe_raw(path: str, channels: Sequence[str], board: Board) -> None:
    """Listen to these channels; channel n writes to the board's place n."""
    numbers = {channel.encode(): number for number, channel in enumerate(channels)}

    def heard(channel: bytes, message: bytes) -> None:
        board.hear(numbers[channel], message)

    def held(channel: bytes) -> None:
        board.last[numbers[channel]] = 1
        board.counters.opened += 1

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        _, subscriber = await loop.create_unix_connection(lambda: Subscriber(heard, held), path)
        subscriber.subscribe(*numbers)
        await asyncio.Event().wait()

    uvloop.run(listen())


class Bare:
    """Sockets by channel, and one task that sends to them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sockets: dict[bytes, WebSocket] = {}
        self._confirmed: dict[bytes, asyncio.Future[None]] = {}
        self._messages: deque[tuple[bytes, bytes]] = deque()
        self._any = asyncio.Event()
        self._subscriber: Subscriber

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._subscriber = await loop.create_unix_connection(
            lambda: Subscriber(self._heard, self._held), self._path
        )
        self._task = asyncio.create_task(self._send_all())

    def _heard(self, channel: bytes, message: bytes) -> None:
        self._messages.append((channel, message))
        self._any.set()

    def _held(self, channel: bytes) -> None:
        self._confirmed.pop(channel).set_result(None)

    async def _send_all(self) -> None:
        while True:
            await self._any.wait()
            self._any.clear()
            while self._messages:
                channel, message = self._messages.popleft()
                if (websocket := self._sockets.get(channel)) is not None:
                    await websocket.send_text(message.decode())

    async def serve(self, websocket: WebSocket) -> None:
        channel = f"{CHANNEL}{websocket.path_params['invoice']}".encode()
        await websocket.accept("paidup.v1")
        self._sockets[channel] = websocket
        self._confirmed[channel] = confirmed = asyncio.get_running_loop().create_future()
        self._subscriber.subscribe(channel)
        await confirmed
        await websocket.send_text(SNAPSHOT)
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            del self._sockets[channel]


def serve_bare(path: str, port: int) -> None:
    """GET /ws/invoices/{invoice} on this port, with Redis at this Unix socket, and a status for who polls."""
    bare = Bare(path)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await bare.open()
        yield

    async def status(_: Request) -> JSONResponse:
        return JSONResponse(POLLED)

    routes = [WebSocketRoute("/ws/invoices/{invoice}", bare.serve), Route("/api/invoices/{invoice}", status)]
    app = Starlette(routes=routes, lifespan=lifespan)
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=port,
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
    )


class Switched(asyncio.Protocol):
    """One connection: a handshake is answered, and any other request is not found."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._key = b""
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"sec-websocket-key":
            self._key = value

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._parser = None
            accept = base64.b64encode(hashlib.sha1(self._key + GUID, usedforsecurity=False).digest())
            self._transport.write(SWITCHING % accept)
            self.opened()
        else:
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()

    def opened(self) -> None:
        """The handshake is answered."""
        self.send(SNAPSHOT.encode())

    def send(self, text: bytes) -> None:
        """A text of 126 bytes or more."""
        self._transport.write(b"\x81\x7e" + len(text).to_bytes(2, "big") + text)


class Relay:
    """Sockets by channel: a message is sent on as it is read."""

    def __init__(self) -> None:
        self.subscriber = Subscriber(self._heard, self._held)
        self.sockets: dict[bytes, Switched] = {}

    def _heard(self, channel: bytes, message: bytes) -> None:
        self.sockets[channel].send(message)

    def _held(self, channel: bytes) -> None:
        self.sockets[channel].send(SNAPSHOT.encode())


class Relayed(Switched):
    """One connection for an invoice, whose messages it gets."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def on_url(self, url: bytes) -> None:
        self._channel = CHANNEL.encode() + url.rpartition(b"/")[2]

    def opened(self) -> None:
        self._transport.set_write_buffer_limits(high=0)  # written at once
        self._relay.sockets[self._channel] = self
        self._relay.subscriber.subscribe(self._channel)


def serve_relay(path: str, port: int) -> None:
    async def serve() -> None:
        loop, relay = asyncio.get_running_loop(), Relay()
        await loop.create_unix_connection(lambda: relay.subscriber, path)
        server = await loop.create_server(lambda: Relayed(relay), "127.0.0.1", port, backlog=2048)
        await server.serve_forever()

    uvloop.run(serve())


def serve_handshakes(port: int) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Switched, "127.0.0.1", port, backlog=2048)
        await server.serve_forever()

    uvloop.run(serve())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve_handshakes(int(sys.argv[1]))
    elif sys.argv[3:] == ["relay"]:
        serve_relay(sys.argv[1], int(sys.argv[2]))
    else:
        serve_bare(sys.argv[1], int(sys.argv[2]))
