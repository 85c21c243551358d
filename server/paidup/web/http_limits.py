"""Limits and deadlines of HTTP connections, from the first byte.

uvicorn's httptools class waits for the rest of a request for as long as the connection lasts, and
parses a header of any size. This subclass bounds what is not body (request line, headers, chunk
sizes, trailers), the number of headers, of pipelined requests and of connections, and gives each wait
on the client a deadline. What happens inside the application is not its concern, nor is a WebSocket
once its handshake was handed over: see `frame_limits.py`.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from paidup.web.addresses import counted_as

MAX_OVERHEAD_BYTES = 32 * 1024
"""Of one request, without its body."""
MAX_HEADERS = 100
MAX_PIPELINED = 8
MAX_CONNECTIONS_PER_ADDRESS = 200
"""Not counting WebSockets, which have a setting, and connections from our own proxies."""
HEAD_S = 10.0
"""For the request line and the headers, from the connection's or the request's first byte."""
BODY_S = 30.0
"""For the body, from the end of the headers."""
STALL_S = 30.0
"""For a client that does not read its answer."""
CLOSE_S = 10.0
"""For what is still to be sent when a connection is closed."""
SLICE = 4096
"""Bytes that are parsed before the limits are looked at."""

CHECK_S = 1.0
"""How often the deadlines are looked at."""

_of_address: Counter[str] = Counter()
"""Connections of each address to this process."""
_open: WeakKeyDictionary[asyncio.AbstractEventLoop, set[LimitedHttpProtocol]] = WeakKeyDictionary()
"""HTTP connections of each event loop; an idle loop has no entry, and looks at nothing."""


class _Refused(Exception):
    """Ends the parser's callback; the answer has been sent."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP class with limits, and a deadline for each wait on the client.

    One timer for all connections looks at the deadlines: a connection costs none, and a request moves none.
    """

    # Apart from the base's own: with more than 30 attributes its instances no longer share their keys.
    __slots__ = ("_address", "_closed_until", "_expires", "_overhead", "_stalled_until")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._overhead = 0
        """Bytes since the last request ended which are no body."""
        self._expires = self._stalled_until = self._closed_until = math.inf
        self._address: str | None = None
        """What its place is counted for; None once it has been given back."""

    # Connections

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expires = self.loop.time() + HEAD_S
        _watch(self.loop, self)
        address = ""
        if self.client is not None:
            address = _limited_address(self.client[0], tuple(self.config.forwarded_allow_ips or ()))
        self._address = address
        _of_address[address] += 1
        limit = self.limit_concurrency or math.inf
        if len(self.connections) > limit or (address and _of_address[address] > MAX_CONNECTIONS_PER_ADDRESS):
            self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        self._release()
        super().handle_websocket_upgrade()

    def _release(self) -> None:
        """The connection is over, or another protocol's."""
        address, self._address = self._address, None
        if address is None:
            return
        _open[self.loop].discard(self)
        _of_address[address] -= 1
        if not _of_address[address]:
            del _of_address[address]

    # Sizes

    def data_received(self, data: bytes) -> None:
        for at in range(0, len(data), SLICE):
            part = data[at : at + SLICE]
            self._overhead += len(part)
            super().data_received(part)
            if self._address is None or self.transport.is_closing():
                return  # a WebSocket now, or refused
            if self._overhead > MAX_OVERHEAD_BYTES or len(self.headers or ()) > MAX_HEADERS:
                self._refuse(431)
                return

    def on_message_begin(self) -> None:
        self._expires = self.loop.time() + HEAD_S
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if len(self.headers) > MAX_HEADERS or len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(431)
            raise _Refused
        self._expires = self.loop.time() + BODY_S
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._overhead = 0
        if self.cycle is not None and not self.cycle.response_complete:
            self._expires = math.inf  # it is the application's turn
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if not self.pipeline:
            self._expires = self.loop.time() + self.timeout_keep_alive + HEAD_S
        super().on_response_complete()

    # Deadlines

    def pause_writing(self) -> None:
        self._stalled_until = self.loop.time() + STALL_S
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_until = math.inf
        super().resume_writing()

    def check(self, now: float) -> None:
        """End what has passed its deadline."""
        if now >= self._stalled_until or now >= self._closed_until:
            self.transport.abort()
        elif now >= self._expires:
            self._refuse(408)
        if self._closed_until == math.inf and self.transport.is_closing():
            self._closed_until = now + CLOSE_S

    # Refusals

    def send_400_response(self, msg: str) -> None:
        self._refuse(400)

    def _refuse(self, status: int) -> None:
        """Close the connection, and say why where nothing else is being answered or nobody has asked."""
        if self.transport.is_closing():
            return
        if self._may_answer(status):
            phrase = HTTPStatus(status).phrase.encode()
            fields = [
                *self.server_state.default_headers,
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", b"%d" % len(phrase)),
                (b"connection", b"close"),
            ]
            lines = [b"%b: %b\r\n" % field for field in fields]
            self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", phrase]))
        self.transport.close()

    def _may_answer(self, status: int) -> bool:
        cycle = self.cycle
        if cycle is None or (cycle.response_complete and not cycle.more_body):
            return bool(self._overhead) or status != 408  # an idle connection is closed without a word
        return cycle.more_body and not cycle.response_started and not self.pipeline


def _watch(loop: asyncio.AbstractEventLoop, connection: LimitedHttpProtocol) -> None:
    if loop not in _open:
        _open[loop] = set()
        loop.call_later(CHECK_S, _check_all, loop)
    _open[loop].add(connection)


def _check_all(loop: asyncio.AbstractEventLoop) -> None:
    connections, now = _open[loop], loop.time()
    for connection in tuple(connections):
        connection.check(now)
    if connections:
        loop.call_later(CHECK_S, _check_all, loop)
    else:
        del _open[loop]


@lru_cache(maxsize=4096)
def _limited_address(host: str, proxies: tuple[str, ...]) -> str:
    """What the limit for each address counts for this peer; "" for a proxy of ours."""
    return "" if host in _trusted(proxies) else counted_as(host)


@lru_cache(maxsize=16)
def _trusted(proxies: tuple[str, ...]) -> Any:
    return ProxyHeadersMiddleware(_no_application, list(proxies)).trusted_hosts


async def _no_application(*_: Any) -> None:
    """Nothing is ever asked of it."""
