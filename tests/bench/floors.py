"""The floors: what the same machine does with nothing of Paidup's.

A raw Redis subscriber: the protocol's parser fed by a socket, and nothing behind it. A bare server:
uvicorn without compression, one starlette WebSocket route, one Redis connection; no ticket, no
database, no limits, no pending message, no deadline: `python -m tests.bench.floors SOCKET PORT`. Both run
until their process is ended. Imports nothing of the server, so that it weighs nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import hiredis
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


if __name__ == "__main__":
    serve_bare(sys.argv[1], int(sys.argv[2]))
