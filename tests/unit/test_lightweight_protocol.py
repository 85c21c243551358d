"""The slim wire against RFC 6455: the cases of the Autobahn test suite that apply to a server which
only listens for short texts, each by its number there. No compression is offered (12, 13), and no
message above 4 KiB is taken (9).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.routing import Router
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState
from websockets.frames import Close, Frame, Opcode

from paidup.domain.messages import MAX_FRAME
from paidup.web.websocket.endpoint import ROUTES
from paidup.web.websocket.lightweight_protocol import (
    RAW_TRANSPORT_EXTENSION,
    WEBSOCKET_PATHS,
    LightweightProtocol,
    LightweightTransport,
)
from paidup.web.websocket.transport import WebSocketTransport
from tests.support.waiting import wait_until

CONT, TEXT, BINARY, CLOSE = Opcode.CONT, Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE
PING, PONG = Opcode.PING, Opcode.PONG


class Echo:
    """A handler that sends each text back and records what happened."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.heard: list[str] = []
        self.cleared = self.ended = 0

    def on_text(self, text: str) -> None:
        self.heard.append(text)
        self.transport.send(text.encode())

    def flush(self) -> None:
        self.cleared += 1

    def on_disconnect(self) -> None:
        self.ended += 1


class Served:
    """A server on which an Echo takes over every socket."""

    def __init__(self) -> None:
        self.port = 0
        self.handlers: list[Echo] = []
        self.refusal: Any = None
        self.state = ServerState()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.refusal is not None:
            await self.refusal(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "paidup.v1"})
        echo = Echo()
        self.handlers.append(echo)
        if take_over := scope["extensions"].get(RAW_TRANSPORT_EXTENSION):
            echo.transport = take_over(echo)
        else:
            echo.transport = WebSocketTransport(receive, send, echo)
            await echo.transport.read()

    @property
    def transport(self) -> LightweightTransport:
        transport: LightweightTransport = self.handlers[-1].transport
        return transport


class Peer:
    """A minimal client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def frame(self) -> tuple[Opcode, bytes]:
        """The next frame. The server's are never masked, fragmented or long."""
        async with asyncio.timeout(10):
            first, second = await self.reader.readexactly(2)
            assert first & 0x80
            size = second
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2), "big")
            assert second < 127
            return Opcode(first & 0x0F), await self.reader.readexactly(size)

    async def answer(self) -> list[tuple[Opcode, Any]]:
        """All frames until the server closes the connection; a close frame as its code."""
        frames: list[tuple[Opcode, Any]] = []
        try:
            while True:
                opcode, data = await self.frame()
                frames.append((opcode, Close.parse(data).code if opcode is CLOSE else data))
        except (asyncio.IncompleteReadError, ConnectionResetError):
            return frames


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    app = Served()
    config = uvicorn.Config(app, ws=LightweightProtocol, lifespan="off", log_config=None)
    config.load()
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpToolsProtocol(config, app.state, {}), "127.0.0.1", 0
    )
    app.port = server.sockets[0].getsockname()[1]
    yield app
    server.close()
    await server.wait_closed()


@pytest.fixture
async def peer(served: Served) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(
        b"GET /ws/account HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: paidup.v1, ticket\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"101" in head
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    await wait_until(lambda: served.handlers)
    yield Peer(reader, writer)
    writer.transport.abort()
    await wait_until(lambda: served.handlers[-1].ended == 1)


def masked(opcode: Opcode, data: bytes = b"", fin: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, valid or not, with a zero mask. The library only makes valid ones."""
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    if len(data) < 126:
        return bytes((first, 0x80 | len(data))) + bytes(4) + data
    return bytes((first, 0x80 | 126)) + len(data).to_bytes(2, "big") + bytes(4) + data


def closing(code: int, reason: str = "") -> bytes:
    return masked(CLOSE, code.to_bytes(2, "big") + reason.encode())


BYE = closing(1000)
GOOD = "Hellö ☺ 🎉".encode()
CASES: dict[str, tuple[bytes, list[tuple[Opcode, Any]]]] = {
    "1.1.1 an empty text": (masked(TEXT) + BYE, [(TEXT, b""), (CLOSE, 1000)]),
    "1.1.2 a text": (masked(TEXT, b"a" * 125) + BYE, [(TEXT, b"a" * 125), (CLOSE, 1000)]),
    "1.1.4 a text with a longer head": (masked(TEXT, b"a" * 200) + BYE, [(TEXT, b"a" * 200), (CLOSE, 1000)]),
    "1.2.2 a binary message is nothing to us": (masked(BINARY, b"\xfe") + BYE, [(CLOSE, 1000)]),
    "2.1 a ping": (masked(PING) + BYE, [(PONG, b""), (CLOSE, 1000)]),
    "2.4 a ping of 125 bytes": (masked(PING, b"\xfe" * 125) + BYE, [(PONG, b"\xfe" * 125), (CLOSE, 1000)]),
    "2.5 a ping that is too long": (masked(PING, b"a" * 126), [(CLOSE, 1002)]),
    "2.7 a pong that nobody asked for": (masked(PONG) + BYE, [(CLOSE, 1000)]),
    "2.8 the same with something in it": (masked(PONG, b"abc") + BYE, [(CLOSE, 1000)]),
    "2.10 ten pings": (masked(PING, b"1") * 10 + BYE, [*[(PONG, b"1")] * 10, (CLOSE, 1000)]),
    "3.1 a reserved bit": (masked(TEXT, b"a", reserved=4), [(CLOSE, 1002)]),
    "3.5 reserved bits of a ping": (masked(PING, b"", reserved=1), [(CLOSE, 1002)]),
    "4.1.1 a reserved opcode": (b"\x83\x80\0\0\0\0", [(CLOSE, 1002)]),
    "4.2.1 a reserved control opcode": (b"\x8b\x80\0\0\0\0", [(CLOSE, 1002)]),
    "5.1 a fragmented ping": (masked(PING, b"a", fin=False), [(CLOSE, 1002)]),
    "5.3 a text in two parts": (
        masked(TEXT, b"ab", fin=False) + masked(CONT, b"cd") + BYE,
        [(TEXT, b"abcd"), (CLOSE, 1000)],
    ),
    "5.6 a ping between the parts": (
        masked(TEXT, b"ab", fin=False) + masked(PING, b"p") + masked(CONT, b"cd") + BYE,
        [(PONG, b"p"), (TEXT, b"abcd"), (CLOSE, 1000)],
    ),
    "5.9 a part of nothing": (masked(CONT, b"cd"), [(CLOSE, 1002)]),
    "5.18 a text within a text": (masked(TEXT, b"a", fin=False) + masked(TEXT, b"b"), [(CLOSE, 1002)]),
    "6.1.2 empty parts": (
        masked(TEXT, b"", fin=False) + masked(CONT, b"", fin=False) + masked(CONT) + BYE,
        [(TEXT, b""), (CLOSE, 1000)],
    ),
    "6.2.3 UTF-8 cut between its bytes": (
        b"".join(
            masked(TEXT if not n else CONT, GOOD[n : n + 1], n == len(GOOD) - 1) for n in range(len(GOOD))
        )
        + BYE,
        [(TEXT, GOOD), (CLOSE, 1000)],
    ),
    "6.3.1 what is no UTF-8": (masked(TEXT, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), [(CLOSE, 1007)]),
    "7.1.1 a text after the close": (BYE + masked(TEXT, b"late"), [(CLOSE, 1000)]),
    "7.1.3 a ping after the close": (BYE + masked(PING), [(CLOSE, 1000)]),
    "7.3.1 a close without a code": (masked(CLOSE), [(CLOSE, 1005)]),
    "7.3.2 a close with half a code": (masked(CLOSE, b"\x03"), [(CLOSE, 1002)]),
    "7.3.5 a close with a long reason": (closing(1000, "a" * 123), [(CLOSE, 1000)]),
    "7.5.1 a reason that is no UTF-8": (masked(CLOSE, b"\x03\xe8\xed\xa0\x80"), [(CLOSE, 1007)]),
    **{f"7.7 the code {code}": (closing(code), [(CLOSE, code)]) for code in (1000, 1001, 1011, 3000, 4999)},
    **{f"7.9 the code {code}": (closing(code), [(CLOSE, 1002)]) for code in (0, 999, 1004, 1005, 1006, 2999)},
    "9.1 a message of 4 KiB": (
        masked(TEXT, b"a" * MAX_FRAME) + BYE,
        [(TEXT, b"a" * MAX_FRAME), (CLOSE, 1000)],
    ),
    "9.2 a longer one": (masked(TEXT, b"a" * (MAX_FRAME + 1)), [(CLOSE, 1009)]),
    "9.3 one that grows longer": (
        masked(TEXT, b"a" * 3000, fin=False) + masked(CONT, b"a" * 3000),
        [(CLOSE, 1009)],
    ),
    "an unmasked frame": (Frame(TEXT, b"a").serialize(mask=False), [(CLOSE, 1002)]),
}


def told(frames: list[tuple[Opcode, Any]]) -> tuple[list[tuple[Opcode, Any]], list[tuple[Opcode, Any]]]:
    """Pongs separately: they may arrive before or after other frames."""
    return [f for f in frames if f[0] is not PONG], [f for f in frames if f[0] is PONG]


@pytest.mark.parametrize("case", CASES)
async def test_an_autobahn_case(served: Served, peer: Peer, case: str) -> None:
    sent, expected = CASES[case]
    peer.writer.write(sent)
    assert told(await peer.answer()) == told(expected)


@pytest.mark.parametrize(
    "case", [name for name in CASES if name.startswith(("1.", "2.1", "5.3", "5.6", "6."))]
)
async def test_an_autobahn_case_byte_by_byte(served: Served, peer: Peer, case: str) -> None:
    sent, expected = CASES[case]
    for byte in sent:
        peer.writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    assert told(await peer.answer()) == told(expected)


async def test_an_idle_socket_keeps_no_parser(served: Served, peer: Peer) -> None:
    for sent in (masked(TEXT, b"one"), masked(PONG), masked(PING, b"p"), masked(TEXT, b"two") * 2):
        peer.writer.write(sent)
    frames = [await peer.frame() for _ in range(4)]
    assert told(frames) == ([(TEXT, b"one"), *[(TEXT, b"two")] * 2], [(PONG, b"p")])
    assert served.transport._inbound is None
    peer.writer.write(masked(TEXT, b"three")[:4])
    await wait_until(lambda: served.transport._inbound is not None)
    peer.writer.write(masked(TEXT, b"three")[4:])


async def test_a_heartbeat_is_sent_with_a_ping(served: Served, peer: Peer) -> None:
    served.transport.send_heartbeat(b"beat")
    assert [await peer.frame() for _ in range(2)] == [(TEXT, b"beat"), (PING, b"")]
    last_received_at = served.transport.last_received_at
    peer.writer.write(masked(PONG))
    await wait_until(lambda: served.transport.last_received_at > last_received_at)


async def test_the_server_closes_and_the_peer_answers(served: Served, peer: Peer) -> None:
    served.transport.send(b"last")
    served.transport.close(4408)
    served.transport.send(b"never")
    served.transport.close(1000)
    assert [await peer.frame() for _ in range(2)] == [(TEXT, b"last"), (CLOSE, (4408).to_bytes(2, "big"))]
    peer.writer.write(masked(TEXT, b"crossing") + closing(4408))
    assert await peer.answer() == []
    await wait_until(lambda: served.handlers[-1].ended)
    assert served.handlers[-1].heard == []


async def test_a_stalled_reader_blocks_only_itself(served: Served, peer: Peer) -> None:
    """S32: a full kernel buffer sets `blocked_at` at once, and sending resumes when it empties."""
    transport, sent = served.transport, 0
    while transport.blocked_at is None:
        transport.send(os.urandom(30_000).hex().encode())
        sent += 1
    assert served.handlers[-1].cleared == 0
    for _ in range(sent):
        await peer.frame()
    await wait_until(lambda: served.handlers[-1].cleared == 1)
    assert transport.blocked_at is None


async def test_a_stalled_reader_can_be_cut_off(served: Served, peer: Peer) -> None:
    """S32."""
    while served.transport.blocked_at is None:
        served.transport.send(b"x" * 60_000)
    served.transport.abort()
    await wait_until(lambda: served.handlers[-1].ended)


async def test_a_stopping_server_closes_what_is_left(served: Served, peer: Peer) -> None:
    for connection in tuple(served.state.connections):
        connection.shutdown()
    assert await peer.answer() == [(CLOSE, 1012)]


# Handshakes


async def asked(served: Served, path: str = "/ws/account", **changes: str | None) -> tuple[str, Peer]:
    """The status line for a plain handshake with `changes` to its headers (None removes one)."""
    headers: dict[str, str | None] = {
        "host": "x",
        "upgrade": "websocket",
        "connection": "keep-alive, Upgrade",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "paidup.v1, ticket",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    writer.write("\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode())
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    return head.split(b"\r\n")[0].decode(), Peer(reader, writer)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 101),
        ({"sec_websocket_key": None}, 400),
        ({"sec_websocket_key": "c2hvcnQ="}, 400),
        ({"sec_websocket_key": "!" * 24}, 400),
        ({"sec_websocket_version": "8"}, 400),
        ({"sec_websocket_version": None}, 400),
        ({"path": "/ws/account?ticket=1"}, 101),
        ({"path": "/ws/%61ccount"}, 101),
        ({"path": "/elsewhere"}, 101),
        ({"path": "/ws/accounting"}, 101),
        ({"path": "/billing/ws/account"}, 101),
    ],
)
async def test_unusual_handshakes_are_left_to_uvicorn(
    served: Served, changes: dict[str, Any], status: int
) -> None:
    line, peer = await asked(served, **changes)
    assert line.startswith(f"HTTP/1.1 {status} ")
    if status == 101:
        await wait_until(lambda: served.handlers)
        assert isinstance(served.handlers[-1].transport, LightweightTransport) is (not changes)
        peer.writer.write(masked(TEXT, b"there?"))
        assert await peer.frame() == (TEXT, b"there?")
        peer.writer.write(BYE)
        assert await peer.answer() == [(CLOSE, 1000)]
    peer.writer.transport.abort()


def test_the_websocket_paths_match_the_routes() -> None:
    """Otherwise a socket works, but uses five times the memory."""
    assert all(WEBSOCKET_PATHS.fullmatch(re.sub(r"{\w+}", "in_1", route.path).encode()) for route in ROUTES)


async def test_a_refusal_is_an_http_response(served: Served) -> None:
    answer = PlainTextResponse("not now", 503, {"Retry-After": "7"})

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await WebSocket(scope, receive, send).send_denial_response(answer)

    served.refusal = refuse
    line, peer = await asked(served)
    assert line == "HTTP/1.1 503 Service Unavailable"
    assert await peer.reader.read() == b"not now"
    assert not served.state.connections
    peer.writer.transport.abort()


async def test_a_path_unknown_to_the_application_is_forbidden(served: Served) -> None:
    """As with a host's framework that has mounted Paidup elsewhere."""
    served.refusal = Router()
    line, peer = await asked(served)
    assert line == "HTTP/1.1 403 Forbidden"
    assert await peer.reader.read() == b""
    peer.writer.transport.abort()


async def test_a_failing_application_gets_a_500(served: Served) -> None:
    served.refusal = "a bug"
    line, peer = await asked(served)
    assert line == "HTTP/1.1 500 Internal Server Error"
    peer.writer.transport.abort()
