"""Limits and deadlines for HTTP connections, from the first byte.

uvicorn's httptools class waits indefinitely for the rest of a request and parses headers of any
size. This subclass limits everything but the body (request line, headers, chunk sizes, trailers), the
number of headers, of pipelined requests and of connections, and sets a deadline on each wait for the
client. WebSockets are limited by `frame_limits.py` once their handshake has been handed over.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from paidup.web.addresses import address_key
from paidup.web.request_ids import fields_of, log_refusal, new_id

MAX_OVERHEAD_BYTES = 32 * 1024
"""Per request, not counting its body."""
MAX_HEADERS = 100
MAX_PIPELINED = 8
MAX_CONNECTIONS_PER_ADDRESS = 200
"""Not counting WebSockets, which have a setting, nor connections from trusted proxies."""
HEADERS_TIMEOUT_S = 10.0
"""To receive the request line and headers, from the first byte of the connection or request."""
BODY_TIMEOUT_S = 30.0
"""To receive the body, from the end of the headers."""
SEND_TIMEOUT_S = 30.0
"""For a client that does not read the response."""
CLOSE_TIMEOUT_S = 10.0
"""To send the remaining data when a connection is closed."""
SLICE_BYTES = 4096
"""Bytes parsed between two checks of the limits."""

WHITE_SPACE = b" \t"
"""Around a header's value, it is not part of it (RFC 9110, 5.5). httptools leaves it at the end."""

FROM_PROXY = "paidup.from_proxy"
"""In a request's `extensions`: its connection comes from a trusted proxy. uvicorn then replaces `client`, so
that nothing else says so.
"""
CHECK_INTERVAL_S = 1.0
"""How often deadlines are checked."""

_connections_by_address: Counter[str] = Counter()
"""The number of connections of each address to this process."""
_connections_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, set[CountedConnection]] = (
    WeakKeyDictionary()
)
"""The HTTP connections of each event loop. A loop without connections has no entry and no timer."""


class _Refused(Exception):
    """Ends the parser's callback. The response has been sent."""


class CountedConnection(asyncio.Protocol):
    """Counts a connection while it is not a WebSocket's, and has its deadlines checked."""

    __slots__ = ("_address", "_from_proxy", "_tracked")
    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self._address: str | None = None
        """The key under which the connection is counted; None while it is not."""
        self._from_proxy = False

    def start_counting(self, client: tuple[str, int] | None, config: Config, connections: int) -> bool:
        """Returns whether the process and the address may have this connection, one of `connections`."""
        host = client[0] if client else ""  # of a Unix socket
        self._from_proxy = is_proxy(host, proxies_of(config))
        self._address = address = "" if self._from_proxy else address_key(host)
        _connections_by_address[address] += 1
        self._tracked = _tracked_connections(self.loop)
        self._tracked.add(self)
        return connections <= (config.limit_concurrency or math.inf) and (
            not address or _connections_by_address[address] <= MAX_CONNECTIONS_PER_ADDRESS
        )

    def stop_counting(self) -> None:
        """The connection has ended or belongs to another protocol."""
        address, self._address = self._address, None
        if address is None:
            return
        self._tracked.discard(self)
        _connections_by_address[address] -= 1
        if not _connections_by_address[address]:
            del _connections_by_address[address]

    def enforce_deadlines(self, now: float) -> None:
        """Close the connection if a deadline has passed."""
        raise NotImplementedError


class LimitedHttpProtocol(HttpToolsProtocol, CountedConnection):
    """uvicorn's HTTP class with limits, and a deadline for each wait on the client.

    One timer per event loop checks the deadlines of all connections.
    """

    # Slots: with more than 30 instance attributes, Python no longer shares the instances' dict keys.
    __slots__ = ("_closed_until", "_expires", "_overhead", "_stalled_until")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        CountedConnection.__init__(self)
        self._overhead = 0
        """Bytes received since the last request ended, not counting bodies."""
        self._expires = self._stalled_until = self._closed_until = math.inf

    # Connections

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expires = self.loop.time() + HEADERS_TIMEOUT_S
        if not self.start_counting(self.client, self.config, len(self.connections)):
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_counting()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self.stop_counting()
        super().handle_websocket_upgrade()

    # Sizes

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), SLICE_BYTES):
            part = data[at : at + SLICE_BYTES]
            self._overhead += len(part)
            super().data_received(part)
            if self._address is None or self.transport.is_closing():
                return  # it is a WebSocket now, or was refused
            if self._overhead > MAX_OVERHEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
                self._refuse(431)
                return

    def on_message_begin(self) -> None:
        self._expires = self.loop.time() + HEADERS_TIMEOUT_S
        super().on_message_begin()
        if self._from_proxy:
            self.scope.setdefault("extensions", {})[FROM_PROXY] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.rstrip(WHITE_SPACE))

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS or len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(431)
            raise _Refused
        self._expires = self.loop.time() + BODY_TIMEOUT_S
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._overhead = 0
        if self.cycle is not None and not self.cycle.response_complete:
            self._expires = math.inf  # the application is responding
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._expires = self.loop.time() + self.timeout_keep_alive + HEADERS_TIMEOUT_S
        super().on_response_complete()

    # Deadlines

    def pause_writing(self) -> None:
        self._stalled_until = self.loop.time() + SEND_TIMEOUT_S
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_until = math.inf
        super().resume_writing()

    def enforce_deadlines(self, now: float) -> None:
        if now >= self._stalled_until or now >= self._closed_until:
            self.transport.abort()
        elif now >= self._expires:
            self._refuse(408)
        if self._closed_until == math.inf and self.transport.is_closing():
            self._closed_until = now + CLOSE_TIMEOUT_S

    # Refusals

    def send_400_response(self, msg: str) -> None:
        self._refuse(400)

    def _refuse(self, status: int) -> None:
        """Close the connection, with a response if no other response is in progress."""
        if self.transport.is_closing():
            return
        if self._may_respond(status):
            phrase, request_id = HTTPStatus(status).phrase.encode(), new_id()
            if self.logs_requests:
                log_refusal(status, request_id, self.client)
            fields = [
                *self.server_state.default_headers,
                *fields_of(request_id),
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(phrase)),
                (b"connection", b"close"),
            ]
            lines = [b"%b: %b\r\n" % field for field in fields]
            self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", phrase]))
        self.transport.close()

    logs_requests = False

    def _may_respond(self, status: int) -> bool:
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            return bool(self._overhead) or status != 408  # an idle connection is closed without a response
        return cycle.more_body and not cycle.response_started and not self.pipeline


class LoggingHttpProtocol(LimitedHttpProtocol):
    """With ACCESS_LOG: what is refused here is logged as what the application answers is."""

    __slots__ = ()
    logs_requests = True


def _tracked_connections(loop: asyncio.AbstractEventLoop) -> set[CountedConnection]:
    """Those whose deadlines are checked."""
    connections = _connections_by_loop.get(loop)
    if connections is None:
        connections = _connections_by_loop[loop] = set()
        loop.call_later(CHECK_INTERVAL_S, _enforce_all_deadlines, loop)
    return connections


def _enforce_all_deadlines(loop: asyncio.AbstractEventLoop) -> None:
    connections, now = _connections_by_loop[loop], loop.time()
    for connection in tuple(connections):
        connection.enforce_deadlines(now)
    if connections:
        loop.call_later(CHECK_INTERVAL_S, _enforce_all_deadlines, loop)
    else:
        del _connections_by_loop[loop]


def proxies_of(config: Config) -> tuple[str, ...]:
    return tuple(config.forwarded_allow_ips or ())


def forwarded_client(forwarded_for: str, proxies: tuple[str, ...]) -> tuple[str, int]:
    """The client that trusted proxies name in `X-Forwarded-For`, as uvicorn's middleware finds it."""
    found: tuple[str, int] = _trusted(proxies).get_trusted_client_address(forwarded_for)
    return found


@lru_cache(maxsize=4096)
def is_proxy(host: str, proxies: tuple[str, ...]) -> bool:
    """Whether a peer is a trusted proxy. One is not limited."""
    return host in _trusted(proxies)


@lru_cache(maxsize=16)
def _trusted(proxies: tuple[str, ...]) -> Any:
    return ProxyHeadersMiddleware(_no_application, list(proxies)).trusted_hosts


async def _no_application(*_: Any) -> None:
    """Never called: ProxyHeadersMiddleware requires an application."""
