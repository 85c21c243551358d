"""Generated handshakes, answered from first bytes, by the application and under uvicorn's own class."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from functools import partial
from typing import Any

import pytest
import uvicorn
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from paidup.uvicorn_server import uvicorn_options
from paidup.web.http_limits import LimitedHttpProtocol
from paidup.web.websocket.endpoint import SocketServer
from paidup.web.websocket.session import WebSocketSession
from tests.conftest import World
from tests.support.paidup import ORIGIN, Paidup
from tests.support.paidup import settings as server_settings

LONG = os.environ.get("HANDSHAKE_EXAMPLES")
EXAMPLES = int(LONG or 60)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
INVOICE, CHECKOUT = "in_1", "cs_test_1"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is decided here does not depend on the database."""
    return sqlite_url


WAYS = ["first bytes", "application", "uvicorn"]
PROXIES = ["127.0.0.1", "192.0.2.1"]


async def listening(world: World, paidup: Paidup, way: str, proxies: str) -> int:
    """The port at which the running application is also served this way, behind these proxies."""
    protocol = "uvicorn" if way == "uvicorn" else "lightweight"
    configured = server_settings(**world.given(websocket_protocol=protocol, forwarded_allow_ips=proxies))
    options = {**uvicorn_options(configured), "loop": "none"}
    if way == "application":
        options["http"] = LimitedHttpProtocol
    config = uvicorn.Config(paidup.app, **options)
    config.load()
    protocol_class: Any = config.http_protocol_class
    made = partial(protocol_class, config, ServerState(), {})
    server = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    world.stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])


TICKETS = ["account", "invoice", "checkout", "another invoice", "changed"]
PATHS = [
    *("/ws/account", f"/ws/invoices/{INVOICE}", f"/ws/checkout/{CHECKOUT}"),
    *("/ws/account/", "/ws/account?a=1", "/ws/account#a", "/ws/acc%6funt", "/ws/invoices/", "/ws/"),
    *("http://x/ws/account", "//x/ws/account", "/ws/../ws/account", "/WS/account", "*", "/ws/account;a"),
    *(f"/ws/invoices/{INVOICE}/x", "/ws/invoices/in%5f1", "/ws/checkout", "/ws/account%0a", "/healthz"),
]
VALUES: dict[str, list[str | None]] = {
    "Host": ["x", "app.example.test", "", None, "a b", "x:80"],
    "Connection": [
        "Upgrade",
        "upgrade, keep-alive",
        "close, Upgrade",
        "keep-alive",
        None,
        "",
        "Upgrade,",
        ",",
    ],
    "Upgrade": ["websocket", "WebSocket", "websocket, h2c", "h2c", None, "", "websocket/13"],
    "Origin": [ORIGIN, None, "null", "http://x", "https://x", ORIGIN.upper(), "", ORIGIN + "/"],
    "Sec-WebSocket-Version": ["13", "12", None, "13, 8", "013", ""],
    "Sec-WebSocket-Key": [
        KEY,
        "short",
        None,
        KEY[:-2],
        KEY + "=",
        "x" * 24,
        KEY + " ",
        "dGhlIHNhbXBsZSBub25jZR==",
    ],
    "Sec-WebSocket-Protocol": [
        *("paidup.v1, {}", "{}, paidup.v1", "paidup.v1,{}", " paidup.v1 ,\t{}", "paidup.v1", "{}", None, ""),
        *("paidup.v1, {}, a", "paidup.v1, paidup.v1", "paidup.v1,, {}", "paidup.v1, {},", "paidup.v1, \xe9"),
        *("PAIDUP.V1, {}", "paidup.v1; {}", 'paidup.v1, "{}"', "paidup.v1 {}"),
    ],
    "Sec-WebSocket-Extensions": [
        None,
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "a;;",
    ],
    "X-Forwarded-For": [
        *(None, "203.0.113.7", "203.0.113.7, 127.0.0.1", "127.0.0.1", "[2001:db8::1]:80", "2001:db8::1", ""),
        *("unknown", "203.0.113.7:99", ",", "\xe9", "1.2.3.4, ::1", " 9.9.9.9 "),
    ],
    "X-Forwarded-Proto": [None, "https", "wss", "http"],
    "Content-Length": [None, "0", "1"],
    "Transfer-Encoding": [None, "chunked"],
    "X-Request-Id": [None, "abc", "a b"],
    "Cookie": [None, "c" * 3_000, "c" * 5_000],
}
TRAILING = [" ", " \t "]
"""White space at the end of a value is not part of it: RFC 9110, 5.5."""
USUAL = {name: values[0] for name, values in VALUES.items()}
LINES = [
    *("GET {} HTTP/1.1", "GET {} HTTP/1.0", "GET  {} HTTP/1.1", "get {} HTTP/1.1", "POST {} HTTP/1.1"),
    *("GET {}  HTTP/1.1", "PUT {} HTTP/1.1", "GET {} HTTP/2.0"),
]
MORE = [
    *(b"", b"DNT: 1\r\nDNT: 1\r\n", b"DNT: 1\r\ndnt: 1\r\n", b"A: x\r\n y\r\n", b"A : 1\r\n", b"A: 1\n"),
    *(b"Origin: http://evil.example\r\n", b"Sec-WebSocket-Protocol: a\r\n", b"A:\r\n", b"A: \xff\r\n"),
    b"".join(b"A%d: 1\r\n" % number for number in range(45)),
    b"".join(b"A%d: 1\r\n" % number for number in range(70)),
    b"".join(b"A%d: 1\r\n" % number for number in range(101)),
    *(b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n", b"X-Forwarded-For: 8.8.8.8\r\n", b": 1\r\n"),
]


BODY = re.compile(rb"\r\n(content-length|transfer-encoding):", re.IGNORECASE)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A plain handshake with up to three changes, and the kind of ticket that it offers."""
    path = draw(st.sampled_from(PATHS[:3]) if draw(st.integers(0, 2)) else st.sampled_from(PATHS))
    fitting = {"/ws/account": "account", PATHS[1]: "invoice", PATHS[2]: "checkout"}.get(path, "account")
    ticket = fitting if draw(st.integers(0, 3)) else draw(st.sampled_from(TICKETS))
    headers = dict(USUAL)
    for name in draw(st.lists(st.sampled_from(sorted(VALUES)), max_size=3, unique=True)):
        headers[name] = draw(st.sampled_from(VALUES[name]))
    names = draw(st.permutations(list(headers))) if draw(st.booleans()) else list(headers)
    case: Any = draw(st.sampled_from([str, str.lower, str.upper]))
    ends = dict.fromkeys(draw(st.sets(st.sampled_from(names))), draw(st.sampled_from(["", *TRAILING])))
    lines = [
        f"{case(name)}: {value}{ends.get(name, '')}" for name in names if (value := headers[name]) is not None
    ]
    line = LINES[0] if draw(st.integers(0, 4)) else draw(st.sampled_from(LINES))
    more = b"" if draw(st.booleans()) else draw(st.sampled_from(MORE))
    head = "\r\n".join([line.replace("{}", path), *lines, ""]).encode("latin-1")
    body = (
        b""
        if draw(st.booleans())
        else b"0\r\n\r\n"
        if headers["Transfer-Encoding"]
        else b"x" * int(headers["Content-Length"] or 0)
    )
    return ticket, head + more + b"\r\n" + body


def spaced(spaced_name: str) -> bytes:
    """A plain handshake with white space at the end of this header's value."""
    headers = {**USUAL, spaced_name: f"{USUAL[spaced_name]}{TRAILING[-1]}"}
    lines = [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join(["GET /ws/account HTTP/1.1", *lines, "", ""]).encode()


def answer_to(port: int, request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Status, headers without what differs between any two answers, and body; "" where there is none."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received and (data := connection.recv(65536)):
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(body) < length and (data := connection.recv(65536)):
            body += data
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    for name in ("date", "retry-after", "content-length", "x-request-id"):
        headers.pop(name, None)
    return status, headers, b"" if " 101 " in status else re.sub(rb"req_[0-9a-f]{32}", b"", body)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The sessions that were opened: on what, whose, and from where."""
    found: list[tuple[Any, ...]] = []
    register = SocketServer._register

    def recorded(self: SocketServer, session: WebSocketSession) -> None:
        found.append((session.kind, session.key, session.account_id, session.address))
        register(self, session)

    monkeypatch.setattr(SocketServer, "_register", recorded)
    return found


async def test_generated_handshakes_are_answered_alike(world: World, opened: list[tuple[Any, ...]]) -> None:
    """S28: whichever way a handshake is answered, its checks, its answer and its session are the same.

    uvicorn's own class words some refusals, and orders headers, in its own way, and refuses each body. For a
    longer run, set HANDSHAKE_EXAMPLES=2000 and pass --timeout=0.
    """
    paidup = await world.server(
        webhooks=False,
        max_sockets_per_address=100_000,
        max_sockets_per_account=100_000,
        max_sockets_per_invoice=100_000,
    )
    ways = [[await listening(world, paidup, way, proxies) for way in WAYS] for proxies in PROXIES]
    signing = paidup.services.tickets
    account = await paidup.customer("ada").account_ticket()
    tickets = {
        "account": account,
        "invoice": signing.issue(INVOICE, 1),
        "checkout": signing.issue_for_checkout(CHECKOUT),
        "another invoice": signing.issue("in_2", 1),
        "changed": account[:-1] + ("b" if account.endswith("a") else "a"),
    }

    def check(generated: tuple[str, bytes], behind: int) -> None:
        kind, template = generated
        request = template.replace(b"{}", tickets[kind].encode())
        found = []
        for port in ways[behind]:
            opened.clear()
            found.append((*answer_to(port, request), tuple(opened)))
        first, application, uvicorn_own = found
        assert first == application
        if not BODY.search(request):
            assert (" 101 " in first[0], first[3]) == (" 101 " in uvicorn_own[0], uvicorn_own[3])

    for name in (name for name, value in USUAL.items() if value is not None):
        await asyncio.to_thread(check, ("account", spaced(name)), 0)
    checked = given(requests(), st.sampled_from(range(len(PROXIES))))(check)
    limits = settings(max_examples=EXAMPLES, database=None, phases=[Phase.generate], derandomize=not LONG)
    await asyncio.to_thread(limits(checked))


async def test_a_handshake_that_the_library_does_not_read_is_refused(world: World) -> None:
    """It got no answer and had no deadline, so that one client could keep all of a server's connections."""
    paidup = await world.server(webhooks=False)
    lines = [f"{name}: {value}" for name, value in USUAL.items() if value is not None]
    request = "\r\n".join(["GET /ws/account?a=1 HTTP/1.1", *lines, "Content-Length: 1", "", "x"]).encode()
    for way in WAYS:
        port = await listening(world, paidup, way, PROXIES[0])
        status, _, _ = await asyncio.to_thread(answer_to, port, request.replace(b"{}", b"ticket"))
        assert status == "HTTP/1.1 400 Bad Request"
