"""Makes each HTTP request an operation of its trace: the caller's (`traceparent`), or a new one.

A webhook begins without one, and joins the trace of the invoice that it settles.
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paidup.runtime import tracing
from paidup.runtime.tracing import Kind
from paidup.web.request_ids import id_of

UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""Of https://www.w3.org/TR/trace-context/. Anything else is no trace, and is not written to a log."""


class Traces:
    """ASGI middleware. A WebSocket's session records its own span, when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self._app(scope, receive, send)
            return
        method, given = scope["method"], Headers(scope=scope).get("traceparent", "")
        parent = given if TRACEPARENT.fullmatch(given) else None
        with tracing.operation(method, Kind.SERVER, parent) as request:
            if request is None:
                await self._app(scope, receive, send)
                return
            status = 500

            async def send_noting_status(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await self._app(scope, receive, send_noting_status)
            finally:
                route = getattr(scope.get("route"), "path", None)
                request.name = f"{method} {route}" if route else method
                request.attributes |= {
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                    "paidup.request_id": id_of(scope),
                }
                if status >= 500:
                    request.failed = str(status)


TRACES = Middleware(Traces)
