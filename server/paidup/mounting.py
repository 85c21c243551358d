"""Mounts Paidup in another ASGI application, and gives its routes the whole API without HTTP.

The host imports everything from here. It mounts `create_app(...)`, opens it with `running(...)` in its
own lifespan, and gets an `InProcess`, with which its routes call Paidup: the same methods, results and
errors as `AsyncPaidup`, in the same transactions as the HTTP API, so that open pages receive the new
balance. Nothing process-wide is changed: no logging, no event loop, no garbage collector.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any
from urllib.parse import unquote

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from paidup.app import create_app
from paidup.client.async_methods import AsyncMethods
from paidup.client.retries import DEADLINE_S, HttpRequest, HttpResponse
from paidup.graceful_shutdown import before_stopping
from paidup.runtime.tasks import cancel_tasks
from paidup.web.auth import IN_PROCESS_CUSTOMER, Authenticate, Customer, Scope
from paidup.web.request_ids import RequestIds

__all__ = [
    "Authenticate",
    "Customer",
    "InProcess",
    "Scope",
    "create_app",
    "running",
]

log = structlog.get_logger(__name__)


@asynccontextmanager
async def running(paidup: Starlette, drain_at_sigterm: bool = True) -> AsyncIterator[InProcess]:
    """Open a mounted Paidup for the length of the block. For use in the host's own lifespan.

    Starlette and FastAPI only run the lifespan of the outermost application. With `drain_at_sigterm`,
    sockets are closed, spread over SHUTDOWN_DRAIN_S, before uvicorn handles SIGTERM or SIGINT.
    Raises ConfigurationError (plans file, a second Paidup in this process), StorageUnavailable.
    """
    async with paidup.router.lifespan_context(paidup):
        with before_stopping(paidup.state.sockets.drain) if drain_at_sigterm else nullcontext():
            async with InProcess(paidup) as in_process:
                yield in_process


class InProcess(AsyncMethods):
    """The API for the host's own routes, with the rights of a backend. `customer` is the host's user id.

    Methods and errors are those of `AsyncPaidup`. A call that is given up, at its deadline or because its
    caller was cancelled, goes on like a request over HTTP. Do not call one inside a transaction of your
    own that holds a lock: it uses its own transaction, in Paidup's database.
    """

    def __init__(self, paidup: Starlette, deadline_s: float = DEADLINE_S) -> None:
        super().__init__("", _no_token, deadline_s)
        self._paidup = paidup
        self._routes = _routes_of(paidup)
        self._requests: set[asyncio.Task[HttpResponse]] = set()

    async def close(self) -> None:
        """Cancel the requests that are still being handled."""
        await cancel_tasks(*self._requests)

    async def _send(self, request: HttpRequest) -> HttpResponse | None:
        scope = {**_scope(request), "app": self._paidup}
        answer = _respond(self._routes, scope, request.body or b"")
        task = asyncio.create_task(answer, name="in-process-request")
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)
        await asyncio.wait({task}, timeout=request.timeout_s)
        return task.result() if task.done() else None


def _no_token(_: str) -> str:
    """The customer is in the request's scope, which no client can set."""
    return ""


def _routes_of(paidup: Starlette) -> ASGIApp:
    """Its routes and error handlers, without middleware for clients, such as a check of the host name."""
    handlers = dict(paidup.exception_handlers)
    on_fault = handlers.pop(Exception)
    access_log = paidup.state.services.settings.access_log
    with_ids = RequestIds(ExceptionMiddleware(paidup.router, handlers), access_log)
    return ServerErrorMiddleware(with_ids, on_fault)


async def _respond(routes: ASGIApp, scope: dict[str, Any], sent: bytes) -> HttpResponse:
    messages: list[dict[str, Any]] = [{"type": "http.disconnect"}, {"type": "http.request", "body": sent}]
    status, headers, body = 0, Headers(), b""

    async def receive() -> dict[str, Any]:
        return messages.pop() if len(messages) > 1 else messages[0]

    async def send(message: Any) -> None:
        nonlocal status, headers, body
        if message["type"] == "http.response.start":
            status, headers = message["status"], Headers(raw=message["headers"])
        else:
            body += message.get("body", b"")

    try:
        await routes(scope, receive, send)
    except Exception:
        if not status:
            raise
        log.exception("request_failed", path=scope["path"])  # answered with 500, and raised again for the log
    named = [headers.get(name, "") for name in ("x-request-id", "etag")]
    return HttpResponse(status, headers.get("retry-after", ""), body, *named)


def _scope(request: HttpRequest) -> dict[str, Any]:
    path, _, query = request.url.partition("?")
    headers = [(b"content-type", b"application/json")] if request.body else []
    if etag := request.headers.get("If-None-Match"):
        headers.append((b"if-none-match", etag.encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
        IN_PROCESS_CUSTOMER: request.customer,
    }
