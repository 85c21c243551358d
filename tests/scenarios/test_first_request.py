"""A handshake is answered from a connection's first bytes or by the application. Nobody can tell which."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from paidup.app import create_app
from paidup.web import http_limits
from paidup.web.websocket import first_request
from paidup.web.websocket.endpoint import SocketServer
from tests.conftest import World
from tests.support.paidup import ORIGIN, Paidup, serving, settings
from tests.support.processes import free_port
from tests.support.waiting import wait_until


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is decided here does not depend on the database."""
    return sqlite_url


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the handshakes that the application has answered."""
    paths: list[str] = []
    serve = SocketServer.serve

    async def recorded(self: SocketServer, scope: Scope, *more: Any) -> None:
        paths.append(scope["path"])
        await serve(self, scope, *more)

    monkeypatch.setattr(SocketServer, "serve", recorded)
    return paths


def handshake(ticket: str, changes: Mapping[str, str | None], path: str = "/ws/account") -> bytes:
    """A plain one with `changes` to its headers (None removes one)."""
    headers: dict[str, str | None] = {
        "Host": "x",
        "Connection": "keep-alive, Upgrade",
        "Upgrade": "websocket",
        "Origin": ORIGIN,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": f"paidup.v1, {ticket}",
        **changes,
    }
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "", ""]).encode()


async def connect(paidup: Paidup) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(paidup.url)
    return await asyncio.open_connection(address.hostname, address.port)


async def answer_to(paidup: Paidup, *parts: bytes) -> str:
    """The response's status line and headers, without what differs between any two responses."""
    reader, writer = await connect(paidup)
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0)
    try:
        async with asyncio.timeout(30):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except asyncio.IncompleteReadError as closed:
        head = closed.partial.decode()
    writer.transport.abort()
    await wait_until(lambda: not paidup.sockets._sessions)
    return re.sub(r"(?mi)^(date|x-request-id|retry-after|content-length): .*\n", "", head)


PLAIN: dict[str, dict[str, str | None]] = {
    "as a browser sends it": {},
    "without an origin, as a backend": {"Origin": None},
    "with another case": {"Upgrade": "WebSocket", "Connection": "upgrade"},
    "with white space at the ends of values": {
        "Connection": "Upgrade ",
        "Upgrade": "websocket\t",
        "Origin": f"{ORIGIN} ",
        "Sec-WebSocket-Version": "13 \t",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ== ",
    },
    "through a proxy that names its client": {"X-Forwarded-For": "203.0.113.7"},
}
OTHERS: dict[str, dict[str, str | None]] = {
    "from another origin": {"Origin": "http://elsewhere.example"},
    "with another ticket": {"Sec-WebSocket-Protocol": "paidup.v1, ticket"},
    "without a ticket": {"Sec-WebSocket-Protocol": "paidup.v1"},
    "of another version": {"Sec-WebSocket-Version": "12"},
    "with a key that is too short": {"Sec-WebSocket-Key": "c2hvcnQ="},
    "no upgrade": {"Upgrade": None},
    "to another protocol": {"Upgrade": "h2c"},
    "with a body": {"Content-Length": "0"},
    "with a header twice": {"Dnt": "1\r\nDNT: 1"},
    "with the same header twice": {"DNT": "1\r\nDNT: 1"},
    "with too many headers": {"A": "1" + "".join(f"\r\nA{number}: 1" for number in range(60))},
    "with a header that is too long": {"Cookie": "c" * first_request.MAX_BYTES},
    "with an invalid header": {"A b": "1"},
}


async def test_the_answer_is_that_of_the_application(
    world: World, served: list[str], subtests: pytest.Subtests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S28: the checks are the same, and so is every byte of the answer but its id and its date."""
    paidup = await world.server(webhooks=False)
    ticket = await paidup.customer("ada").account_ticket()
    for case, changes in {**PLAIN, **OTHERS}.items():
        with subtests.test(case):
            served.clear()
            answer = await answer_to(paidup, handshake(ticket, changes))
            if case in PLAIN:
                assert answer.startswith("HTTP/1.1 101 ")
                assert not served
            with monkeypatch.context() as patch:
                patch.setattr(first_request, "_sockets_of", lambda _: None)
                assert await answer_to(paidup, handshake(ticket, changes)) == answer
                assert served or not answer.startswith("HTTP/1.1 101 ")


async def test_a_refusal_is_counted_once(world: World, served: list[str]) -> None:
    """S32: although the first bytes are looked at before the application refuses."""
    paidup = await world.server(webhooks=False, max_sockets_per_account=1)
    ada = paidup.customer("ada")
    metrics = paidup.services.metrics
    async with ada.watch_balance():
        served.clear()
        reader, writer = await connect(paidup)
        writer.write(handshake(await ada.account_ticket(), {}))
        async with asyncio.timeout(30):
            assert b" 429 " in await reader.readline()
        writer.transport.abort()
    assert len(served) == 1
    assert metrics.sockets_refused.labels(429, "websocket")._value.get() == 1
    assert metrics.limited.labels("sockets")._value.get() == 1


async def test_a_handshake_in_two_parts_is_answered_by_the_application(
    world: World, served: list[str]
) -> None:
    """Part of a request says nothing yet; the rest comes within the deadline of any request."""
    paidup = await world.server(webhooks=False)
    request = handshake(await paidup.customer("ada").account_ticket(), {})
    reader, writer = await connect(paidup)
    writer.write(request[:60])
    waiting = http_limits._connections_by_loop[asyncio.get_running_loop()]
    await wait_until(lambda: any(getattr(each, "url", b"") == b"/ws/account" for each in waiting))
    writer.write(request[60:])
    async with asyncio.timeout(30):
        assert b" 101 " in await reader.readline()
    writer.transport.abort()
    assert len(served) == 1


async def test_a_handshake_on_a_connection_that_a_proxy_kept_is_answered_by_the_application(
    world: World, served: list[str]
) -> None:
    """nginx with `keepalive` sends it as the second request of a connection, once the first is answered."""
    paidup = await world.server(webhooks=False)
    request = handshake(await paidup.customer("ada").account_ticket(), {})
    reader, writer = await connect(paidup)
    async with asyncio.timeout(30):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.write(request)
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        assert b'"type":"balance"' in await reader.readuntil(b"}")
    writer.transport.abort()
    assert len(served) == 1


async def test_middleware_that_was_added_sees_every_handshake(world: World, served: list[str]) -> None:
    """The demo's refuses pages of others, and notes who uses which transport."""
    seen: list[str] = []

    class Seeing:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope["type"])
            await self._app(scope, receive, send)

    port = free_port()
    configured = settings(**world.given(port=port))
    app = create_app(configured)
    app.add_middleware(Seeing)
    async with serving(configured, world.http, port, app=app) as paidup:
        ticket = await paidup.customer("ada").account_ticket()
        assert (await answer_to(paidup, handshake(ticket, {}))).startswith("HTTP/1.1 101 ")
    assert "websocket" in seen
    assert len(served) == 1
