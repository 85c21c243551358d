"""Clients that never finish or never read: each wait for them has a deadline, from the first byte."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from paidup import uvicorn_server as serving
from paidup.web import http_limits
from paidup.web.http_limits import LimitedHttpProtocol
from tests.conftest import World
from tests.support.paidup import Paidup
from tests.support.socket_load import handshake
from tests.support.waiting import wait_until

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
WEBHOOK = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: t=1,v1=0\r\n"


@pytest.fixture
async def paidup(world: World, monkeypatch: pytest.MonkeyPatch) -> Paidup:
    """A server with short deadlines."""
    for name in (
        "HEADERS_TIMEOUT_S",
        "BODY_TIMEOUT_S",
        "SEND_TIMEOUT_S",
        "CLOSE_TIMEOUT_S",
        "CHECK_INTERVAL_S",
    ):
        monkeypatch.setattr(http_limits, name, 0.3)
    monkeypatch.setitem(serving.UVICORN, "timeout_keep_alive", 0.3)
    return await world.server(webhooks=False)


async def answer_to(url: str, sent: bytes, then: bytes = b"") -> bytes:
    """The server's response to these bytes until it closes; `then` is sent repeatedly meanwhile."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(sent)
    answer = bytearray()
    reading = asyncio.create_task(reader.read(65536))
    async with asyncio.timeout(60):
        with suppress(ConnectionError):
            while True:
                done, _ = await asyncio.wait([reading], timeout=0.02 if then else None)
                if done:
                    if not (data := reading.result()):
                        break
                    answer += data
                    reading = asyncio.create_task(reader.read(65536))
                elif then:
                    writer.write(then)
    writer.transport.abort()
    return bytes(answer)


SLOW = {
    "half a request line": (GET[:8], b""),
    "half a header": (GET[:-4], b""),
    "headers without an end": (GET[:-2], b""),
    "headers that come one by one": (GET[:-2], b"a: b\r\n"),
    "a header that comes byte by byte": (GET[:-2] + b"a: ", b"b"),
    "half a handshake": (handshake("in_1", "ticket")[:-20], b""),
    "half a body": (WEBHOOK + b"Content-Length: 100\r\n\r\n{", b""),
    "no body": (WEBHOOK + b"Content-Length: 100\r\n\r\n", b""),
    "a body that comes byte by byte": (WEBHOOK + b"Content-Length: 100000\r\n\r\n", b"{"),
    "half a chunk": (WEBHOOK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", b""),
    "chunks that come one by one": (WEBHOOK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
}


@ON_SQLITE
@pytest.mark.parametrize("kind", SLOW)
async def test_an_unfinished_request_is_cut_off(paidup: Paidup, kind: str) -> None:
    """S28: however slowly it arrives: 408 at the deadline, then the connection is closed."""
    answer = await answer_to(paidup.url, *SLOW[kind])
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nx-request-id: req_" in answer
    (failed,) = paidup.services.metrics.requests_failed.collect()
    assert [sample for sample in failed.samples if sample.labels.get("status") == "500"] == []
    assert (await paidup.get("/healthz"))[0] == 200


IDLE = {
    "nothing at all": (b"", b""),
    "nothing after an answer": (GET, b""),
    "empty lines after an answer": (GET, b"\r\n"),
    "a body that nobody wants": (GET[:-2] + b"Content-Length: 1000000000\r\n\r\n", b"x" * 100),
    "a body that nobody wants, to its end": (GET[:-2] + b"Content-Length: 3\r\n\r\nab", b""),
}


@ON_SQLITE
@pytest.mark.parametrize("kind", IDLE)
async def test_an_idle_connection_is_closed(paidup: Paidup, kind: str) -> None:
    """S28: without a request, or without a further one."""
    answer = await answer_to(paidup.url, *IDLE[kind])
    assert answer.count(b"HTTP/1.1 200 OK") == (1 if IDLE[kind][0] else 0)
    assert b" 500 " not in answer


@ON_SQLITE
async def test_many_requests_may_share_one_connection(paidup: Paidup) -> None:
    """The deadline applies to a request, not to the connection."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 4 * http_limits.HEADERS_TIMEOUT_S:
            async with http.get(paidup.url + "/healthz") as response:
                assert response.status == 200


@asynccontextmanager
async def served(body: bytes = b"", **options: Any) -> AsyncIterator[tuple[int, ServerState]]:
    """A server with only the HTTP class, which always responds with `body`."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(body)(scope, receive, send)

    config = uvicorn.Config(application, lifespan="off", log_config=None, timeout_keep_alive=1, **options)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: LimitedHttpProtocol(config, state, {}), "127.0.0.1", 0
    )
    try:
        yield server.sockets[0].getsockname()[1], state
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("ending", ["keep-alive", "close"])
async def test_a_client_that_does_not_read_its_response_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """S28: the server keeps the response until a deadline only."""
    for name in ("HEADERS_TIMEOUT_S", "SEND_TIMEOUT_S", "CLOSE_TIMEOUT_S", "CHECK_INTERVAL_S"):
        monkeypatch.setattr(http_limits, name, 0.3)
    async with served(b"x" * 20_000_000) as (port, state):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(GET[:-2] + b"Connection: " + ending.encode() + b"\r\n\r\n")
            await wait_until(lambda: state.connections)
            await wait_until(lambda: not state.connections, within=60)


async def _until_refused(port: int) -> int:
    """Open connections until one gets 503. Returns how many were open."""
    clients: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    answer = b""
    try:
        while not answer.startswith(b"HTTP/1.1 503 Service Unavailable"):
            clients.append(await asyncio.open_connection("127.0.0.1", port))
            clients[-1][1].write(GET)
            async with asyncio.timeout(60):
                answer = await clients[-1][0].readuntil(b"\r\n\r\n")
        return len(clients) - 1
    finally:
        for _, writer in clients:
            writer.transport.abort()


async def test_one_connection_too_many_of_a_process_is_refused() -> None:
    """S28: their number is limited, and a connection that ends frees its slot."""
    async with served(limit_concurrency=7) as (port, state):
        for _ in range(2):
            assert await _until_refused(port) == 6
            await wait_until(lambda: not state.connections)


async def test_one_connection_too_many_of_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """S28: an address has its own limit; a trusted proxy, which carries all clients, has none."""
    monkeypatch.setattr(http_limits, "MAX_CONNECTIONS_PER_ADDRESS", 5)
    async with served(forwarded_allow_ips=["192.0.2.1"]) as (port, state):
        for _ in range(2):
            assert await _until_refused(port) == 5
            await wait_until(lambda: not state.connections)
    async with served(forwarded_allow_ips=["127.0.0.0/8"], limit_concurrency=21) as (port, state):
        assert await _until_refused(port) == 20
        await wait_until(lambda: not state.connections)


async def test_a_websocket_no_longer_counts_as_an_http_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """WebSockets have other limits, and HTTP deadlines do not apply to them."""
    monkeypatch.setattr(http_limits, "MAX_CONNECTIONS_PER_ADDRESS", 1)
    async with served(
        forwarded_allow_ips=["192.0.2.1"], ws="paidup.web.websocket.lightweight_protocol:LightweightProtocol"
    ) as (port, _):
        for _ in range(3):
            url = f"http://127.0.0.1:{port}"
            assert (await answer_to(url, handshake("in_1", "ticket"))).startswith(b"HTTP/1.1 200 OK")
        assert http_limits._connections_by_address == {}
