"""Answers plain WebSocket handshakes from a connection's first bytes, without the ASGI application.

A browser's handshake comes in one piece, and is the connection's only request. httptools parses it,
`endpoint.py` makes the checks that it makes for every handshake, and the session gets the connection:
no scope, no task, no middleware, and nothing of uvicorn's HTTP class. Whatever else comes first (other
requests, part of a handshake, an unusual one, one that is refused) goes to that class as if it had come
there, and is answered by the application.

The limits on HTTP connections apply from the first moment: see `http_limits.py`.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from starlette.applications import Starlette
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.utils import get_remote_addr
from uvicorn.server import ServerState

from paidup.web import http_limits
from paidup.web.http_limits import CountedConnection, LimitedHttpProtocol, LoggingHttpProtocol
from paidup.web.websocket.endpoint import SocketServer
from paidup.web.websocket.lightweight_protocol import (
    LightweightTransport,
    handshake_key,
    switching_protocols,
)

BEGINNING = b"GET /ws/"
MAX_BYTES = http_limits.SLICE_BYTES
MAX_HEADERS = 50


class LimitedFirstRequest(CountedConnection):
    """A connection from which nothing has been received yet."""

    __slots__ = (
        *("_app_state", "_client", "_config", "_expires", "_server_state"),
        *("loop", "transport"),
    )
    http_protocol: type[LimitedHttpProtocol] = LimitedHttpProtocol

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        super().__init__()
        self.loop = _loop or asyncio.get_running_loop()

    # Called by the event loop

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._client = _peer_of(transport)
        self._expires = self.loop.time() + http_limits.HEADERS_TIMEOUT_S
        connections: set[Any] = self._server_state.connections
        connections.add(self)
        if not self.start_counting(self._client, self._config, len(connections)):
            self._pass_on()

    def data_received(self, data: bytes) -> None:
        if not (data.startswith(BEGINNING) and self._answer(data)):
            self._pass_on().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()

    # Called by uvicorn and `http_limits`

    def shutdown(self) -> None:
        self.transport.close()

    def enforce_deadlines(self, now: float) -> None:
        if now >= self._expires:
            self.transport.abort()

    def _forget(self) -> None:
        self.stop_counting()
        self._server_state.connections.discard(self)

    def _pass_on(self) -> LimitedHttpProtocol:
        self._forget()
        protocol = self.http_protocol(self._config, self._server_state, self._app_state, self.loop)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        return protocol

    def _answer(self, data: bytes) -> bool:
        """Accept a plain handshake. Returns whether it is one, and was accepted."""
        sockets = _sockets_of(self._config)
        request = _parsed(data) if sockets is not None else None
        if sockets is None or request is None:
            return False
        url, headers = request
        key = handshake_key(url, headers) if _is_upgrade(headers) else ""
        session = sockets.accept(url, self._scope(headers)) if key else None
        if session is None:
            return False
        self._forget()
        connections: set[Any] = self._server_state.connections
        session.transport = transport = LightweightTransport(self.transport, connections, session)
        connections.add(transport)
        self.transport.set_protocol(transport)
        self.transport.write(switching_protocols(key, self._server_state.default_headers))
        sockets.start(session)
        return True

    def _scope(self, headers: dict[bytes, bytes]) -> dict[str, Any]:
        """What `endpoint.py` reads of a scope. The client is the one that a trusted proxy names."""
        client = self._client
        if self._from_proxy and (forwarded_for := headers.get(b"x-forwarded-for")):
            found = http_limits.forwarded_client(
                forwarded_for.decode("latin-1"), http_limits.proxies_of(self._config)
            )
            client = found if found[0] else client
        offered = headers.get(b"sec-websocket-protocol", b"").decode("latin-1")
        return {
            "headers": headers.items(),
            "client": client,
            "subprotocols": [part.strip() for part in offered.split(",")],
        }


class LoggingFirstRequest(LimitedFirstRequest):
    """With ACCESS_LOG, which has each refusal."""

    __slots__ = ()
    http_protocol = LoggingHttpProtocol


def _peer_of(transport: Any) -> tuple[str, int] | None:
    """What uvicorn takes for the client. Asking for its socket, as uvicorn does, makes one."""
    peer = transport.get_extra_info("peername")
    return peer if isinstance(peer, tuple) and len(peer) == 2 else get_remote_addr(transport)


class _Request:
    """What httptools calls with the parts of a request. Names are as they came, the last of each counts."""

    __slots__ = ("on_header", "on_url")

    def __init__(self, url: list[bytes], headers: dict[bytes, bytes]) -> None:
        self.on_url = url.append
        self.on_header = headers.__setitem__


def _parsed(data: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
    """Path and headers of a request to switch to WebSockets that is all of `data`. None for anything else.

    Names are in lowercase, and each is there once: a request that repeats one is something else.
    """
    if len(data) > MAX_BYTES:
        return None
    url: list[bytes] = []
    received: dict[bytes, bytes] = {}
    parser = httptools.HttpRequestParser(_Request(url, received))
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as upgrade:
        # No value has other white space than WHITE_SPACE: httptools refuses it.
        values = map(bytes.rstrip, received.values())
        headers = dict(zip(map(bytes.lower, received), values, strict=True))
        lines = data.count(b"\n") - 2  # without the request's and the empty one
        whole = upgrade.args[0] == len(data) and len(headers) == lines <= MAX_HEADERS
        return (b"".join(url), headers) if whole and parser.get_http_version() == "1.1" else None
    except httptools.HttpParserError:
        pass
    return None


def _is_upgrade(headers: dict[bytes, bytes]) -> bool:
    connection = [token.strip() for token in headers.get(b"connection", b"").lower().split(b",")]
    return headers.get(b"upgrade", b"").lower() == b"websocket" and b"upgrade" in connection


def _sockets_of(config: Config) -> SocketServer | None:
    """Paidup's sockets, if the application is Paidup's as it was made, behind uvicorn's proxy headers.

    Middleware that was added to it has to see every handshake.
    """
    app = config.loaded_app
    paidup = app.app if isinstance(app, ProxyHeadersMiddleware) else None
    if not isinstance(paidup, Starlette):
        return None
    unchanged = paidup.user_middleware == getattr(paidup.state, "own_middleware", None)
    return getattr(paidup.state, "sockets", None) if unchanged else None
