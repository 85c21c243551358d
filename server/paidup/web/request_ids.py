"""Gives every HTTP request an id, which its response, its problem document and its log lines have.

A caller's `X-Request-Id` is kept if it is one word of 1 to 128 safe characters. Every response also says
which version of the API it follows. With ACCESS_LOG, each request is one line at INFO.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paidup.settings import Settings
from paidup.web.auth import IN_PROCESS_CUSTOMER

log = structlog.get_logger(__name__)

REQUEST_ID = "X-Request-Id"
API_VERSION_HEADER = "Paidup-Api-Version"
API_VERSION = "1"
"""Raised by an incompatible change only: docs/api.md says what may change without notice."""
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@-]{0,127}")
MAX_LOGGED_PATH = 300
DENIAL = "websocket.http.response"
"""ASGI's extension, and the prefix of its messages, that refuse a handshake with a response."""

_current: ContextVar[str | None] = ContextVar("paidup_request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that this task handles."""
    return _current.get()


def headers_of(request_id: str) -> dict[str, str]:
    """What every response to this request has."""
    return {REQUEST_ID: request_id, API_VERSION_HEADER: API_VERSION}


def fields_of(request_id: str) -> list[tuple[bytes, bytes]]:
    """The same, as an ASGI message has them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers_of(request_id).items()]


_OWN_FIELDS = frozenset(name for name, _ in fields_of(""))


class RequestIds:
    """ASGI middleware. Of WebSockets, what refuses a handshake is a response like any other."""

    def __init__(self, app: ASGIApp, access_log: bool) -> None:
        self._app = app
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._handshake(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = id_of(scope)
        status, began = 500, time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                others = [field for field in message["headers"] if field[0] not in _OWN_FIELDS]
                message["headers"] = [*others, *fields_of(request_id)]
            await send(message)

        # Reset even after an error: the context may be that of a host's own request. The handler of
        # unexpected errors runs outside of this middleware, and finds the id in the scope.
        token, bound = _current.set(request_id), structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if self._access_log:
                _log_request(scope, status, time.perf_counter() - began)
            structlog.contextvars.reset_contextvars(**bound)
            _current.reset(token)

    async def _handshake(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, undecided = time.perf_counter(), True

        async def send_with_id(message: Message) -> None:
            nonlocal undecided
            if undecided and message["type"] == "websocket.close" and DENIAL in scope.get("extensions", {}):
                await send_with_id({"type": f"{DENIAL}.start", "status": 403, "headers": []})
                message = {"type": f"{DENIAL}.body", "body": b""}
            elif undecided and message["type"] == f"{DENIAL}.start":
                headers = MutableHeaders(raw=list(message["headers"]))
                headers.update(headers_of(id_of(scope)))
                message = {**message, "headers": headers.raw}
                if self._access_log:
                    with structlog.contextvars.bound_contextvars(request_id=id_of(scope)):
                        _log_request(scope, message["status"], time.perf_counter() - began)
            undecided = False
            await send(message)

        token = _current.set(id_of(scope))
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            _current.reset(token)


def middleware(settings: Settings) -> Middleware:
    """Belongs before all other middleware."""
    return Middleware(RequestIds, access_log=settings.access_log)


def id_of(scope: Scope) -> str:
    """The id of this request: the one that it has already, the caller's, or a new one."""
    if REQUEST_ID in scope:
        return str(scope[REQUEST_ID])
    # A call by the host's own code, in this process, belongs to the request that makes it.
    given = current_request_id() if IN_PROCESS_CUSTOMER in scope else Headers(scope=scope).get(REQUEST_ID)
    request_id = given if given and SAFE_ID.fullmatch(given) else new_id()
    scope[REQUEST_ID] = request_id
    return request_id


def new_id() -> str:
    return f"req_{secrets.token_hex(16)}"


def log_refusal(status: int, request_id: str, client: tuple[str, int] | None) -> None:
    """The line of a request that was refused before it was read."""
    address = client[0] if client else None
    log.info("request", method="", path="", status=status, client=address, request_id=request_id)


def _log_request(scope: Scope, status: int, duration_s: float) -> None:
    path = scope.get("raw_path") or scope["path"].encode("ascii", "backslashreplace")
    client = scope.get("client")
    log.info(
        "request",
        method=scope.get("method", "GET"),  # a handshake has none
        path=path.decode("ascii", "backslashreplace")[:MAX_LOGGED_PATH],  # without the query
        status=status,
        duration_ms=round(duration_s * 1000, 1),
        client=client[0] if client else None,
    )
