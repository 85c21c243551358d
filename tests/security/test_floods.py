"""Floods on WebSockets and during handshakes: the connection is closed early, and no one else waits."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from websockets.exceptions import ProtocolError
from websockets.frames import Opcode
from websockets.protocol import OPEN, SERVER

from paidup.domain.messages import MAX_FRAME
from paidup.web.websocket.frame_limits import BURST_FRAMES, FRAMES_PER_S, FrameLimit
from paidup.web.websocket.lightweight_protocol import LightweightTransport
from tests.conftest import World
from tests.support.paidup import Paidup, next_status, status_with
from tests.support.socket_load import handshake
from tests.unit.test_lightweight_protocol import closing, masked

TEXT, CONT, PING, PONG = Opcode.TEXT, Opcode.CONT, Opcode.PING, Opcode.PONG
CHUNK = 256 * 1024
"""The most that the event loop reads at once."""
FLOOD_BYTES = 14_000_000
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FLOODS: dict[str, tuple[bytes, bytes]] = {
    "empty pongs": (b"", masked(PONG)),
    "pings": (b"", masked(PING, b"p" * 125)),
    "short texts": (b"", masked(TEXT, b'{"type":"verify"}')),
    "long texts": (b"", masked(TEXT, b"x" * MAX_FRAME)),
    "binary messages": (b"", masked(Opcode.BINARY)),
    "continuations": (masked(TEXT, fin=False), masked(CONT, fin=False)),
    "pings between fragments": (masked(TEXT, b"a", fin=False), masked(PING) + masked(CONT, b"", fin=False)),
}
"""How each flood begins, and what it repeats."""


def flood(kind: str, size: int = FLOOD_BYTES) -> bytes:
    """Frames of this kind, `size` bytes of them or a little more."""
    first, repeated = FLOODS[kind]
    return first + repeated * (size // len(repeated) + 1)


@pytest.fixture(params=["lightweight", "uvicorn"])
async def paidup(world: World, request: pytest.FixtureRequest) -> Paidup:
    """A server in its own process, with each of the WebSocket implementations."""
    return await world.process(webhooks=False, websocket_protocol=request.param)


async def attack(paidup: Paidup, purchase: Any, sent: bytes) -> bytes:
    """Send everything on a socket of this purchase, as fast as the server reads. Returns its response."""
    port = int(paidup.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(handshake(purchase["invoice"], purchase["ticket"]))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head.split(b"\r\n")[0]
    writer.write(sent)
    answer = await _read(reader)
    writer.transport.abort()
    return answer


def closed_with(answer: bytes) -> int:
    """The code of the close frame with which the server's frames end."""
    before, _, reason = answer.rpartition(b"too many frames")
    assert before, answer[-200:]
    assert not reason
    return int.from_bytes(before[-2:], "big")


async def served_meanwhile(paidup: Paidup, attacks: Sequence[asyncio.Task[Any]]) -> None:
    """Request /healthz until the attacks are over."""
    answered = 0
    while not all(task.done() for task in attacks) or answered < 3:
        assert (await paidup.get("/healthz"))[0] == 200
        answered += 1


@ON_SQLITE
@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_is_closed_and_others_are_served(paidup: Paidup, kind: str) -> None:
    """S28: 14 MB of one kind of frame on one socket close it with 1008; another socket is still served."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        attacking = asyncio.create_task(attack(paidup, purchase, flood(kind)))
        await served_meanwhile(paidup, [attacking])
        assert closed_with(await attacking) == 1008
        assert not socket.closed
        await socket.send_json({"type": "verify"})


@ON_SQLITE
async def test_floods_of_many_sockets_are_closed(world: World, paidup: Paidup) -> None:
    """S28: fifty at once: each is closed, and a customer who pays meanwhile gets the status."""
    stripe_side = world.stripe_side
    ada = paidup.customer("ada")
    theirs = [await paidup.customer(f"mallory-{number}").buy("pro") for number in range(5)]
    purchase = await ada.buy("pro")
    sent = flood("empty pongs", 1_000_000)
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        attacks = [asyncio.create_task(attack(paidup, their, sent)) for their in theirs for _ in range(10)]
        await stripe_side.confirm(purchase["client_secret"])
        await served_meanwhile(paidup, attacks)
        await socket.send_json({"type": "verify"})
        await status_with(socket, status="active")
    assert {closed_with(await attack) for attack in attacks} == {1008}


@ON_SQLITE
async def test_garbage_after_a_close_is_not_read(paidup: Paidup) -> None:
    """S28: a close frame followed by a flood is answered, or refused as a flood; then the connection ends."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    answer = await attack(paidup, purchase, closing(1000) + flood("empty pongs"))
    assert answer.endswith(b"\x88\x02\x03\xe8") or closed_with(answer) == 1008


HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
HTTP_FLOODS: dict[str, tuple[bytes, bytes, set[int]]] = {
    "a long request line": (b"GET /", b"a", {431}),
    "a long name": (HEAD, b"a", {431}),
    "a long value": (HEAD + b"a: ", b"a", {431}),
    "many headers": (HEAD, b"a:\r\n", {431}),
    "a long handshake": (handshake("in_1", "t")[:-2], b"a: b\r\n", {431}),
    "a long size of a chunk": (CHUNKED + b"1;", b"a", {431}),
    "tiny chunks": (CHUNKED, b"1\r\na\r\n", {431}),
    "many trailers": (CHUNKED + b"0\r\n", b"a:\r\n", {431}),
    "empty lines": (HEAD + b"\r\n", b"\r\n", {200, 431}),
    "requests without end": (b"", HEAD + b"\r\n", {200}),
}
"""How each begins, what it repeats, and what the server may answer."""


@ON_SQLITE
@pytest.mark.parametrize("kind", HTTP_FLOODS)
async def test_an_endless_request_is_refused_early(world: World, kind: str) -> None:
    """S28: 64 MB of request line, headers or the like are cut off early, and others are served."""
    paidup = await world.process(webhooks=False)
    first, repeated, statuses = HTTP_FLOODS[kind]
    block = repeated * (CHUNK // len(repeated))
    with socket.create_connection(("127.0.0.1", int(paidup.url.rpartition(":")[2]))) as client:
        client.setblocking(False)
        attacking = asyncio.create_task(_push(client, first, block))
        await served_meanwhile(paidup, [attacking])
        assert await attacking < FLOOD_BYTES, "most of it is never accepted"
        answer = await _pull(client)
    assert {int(line[9:12]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")} <= statuses


async def _push(client: socket.socket, first: bytes, block: bytes) -> int:
    """Send until the server closes. Returns the bytes accepted by the server and the system's buffers."""
    loop, sent = asyncio.get_running_loop(), 0
    with suppress(ConnectionError):
        await loop.sock_sendall(client, first)
        while sent < 64_000_000:
            async with asyncio.timeout(60):
                await loop.sock_sendall(client, block)
            sent += len(block)
    return sent


async def _pull(client: socket.socket) -> bytes:
    """What the server sent before it closed."""
    answer = b""
    with suppress(ConnectionError):
        async with asyncio.timeout(60):
            while data := await asyncio.get_running_loop().sock_recv(client, CHUNK):
                answer += data
    return answer


async def _read(reader: asyncio.StreamReader) -> bytes:
    """Everything received until the connection ends."""
    answer = bytearray()
    with suppress(ConnectionError):  # data that is never read resets the connection
        async with asyncio.timeout(60):
            while data := await reader.read(CHUNK):
                answer += data
    return bytes(answer)


class Counted(FrameLimit):
    """Counts the frames that were handled."""

    frames = 0

    def recv_frame(self, frame: Any) -> None:
        super().recv_frame(frame)
        self.frames += 1


@pytest.mark.parametrize("kind", FLOODS)
@pytest.mark.parametrize("size", [1, 7, 200, CHUNK])
def test_the_work_of_a_flood_is_bounded(kind: str, size: int) -> None:
    """However the frames are cut into reads, few of them are handled before the connection fails."""
    parser = Counted(SERVER, state=OPEN, max_size=MAX_FRAME)
    sent, reads = flood(kind, CHUNK), 0
    began = time.monotonic()
    for at in range(0, len(sent), size):
        reads += 1
        parser.receive_data(sent[at : at + size])
        if parser.parser_exc is not None:
            break
    allowed = BURST_FRAMES + FRAMES_PER_S * (time.monotonic() - began)
    assert isinstance(parser.parser_exc, ProtocolError)
    assert parser.close_sent is not None
    assert parser.close_sent.code == 1008
    assert parser.frames <= allowed
    assert reads <= 4 * allowed + 1


def test_the_frame_limit_recovers_over_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser's normal traffic, a pong per heartbeat and a verification each second, never adds up."""
    at = time.monotonic()
    parser = Counted(SERVER, state=OPEN, max_size=MAX_FRAME)
    for second in range(3600):
        monkeypatch.setattr(time, "monotonic", lambda moment=at + second: moment)
        for frame in (masked(PONG), masked(TEXT, b'{"type":"verify"}')):
            parser.receive_data(frame)
    assert parser.frames == 7200


def test_single_pongs_count_towards_the_limit() -> None:
    """The fast path of LightweightTransport for pongs has the same limit."""

    class Handler:
        def on_text(self, text: str) -> None: ...
        def flush(self) -> None: ...
        def on_disconnect(self) -> None: ...

    class Transport(asyncio.Transport):
        written = b""
        closed = False

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

        def write(self, data: Any) -> None:
            self.written += data

        def close(self) -> None:
            self.closed = True

    transport = Transport()
    wire = LightweightTransport(transport, set(), Handler())
    pongs = 0
    while not transport.closed:
        pongs += 1
        wire.data_received(masked(PONG))
        assert pongs < 10_000, "no end"
    assert pongs > 10
    assert closed_with(transport.written) == 1008
