"""GET /api/invoices/{invoice}/events and the like: the frames of the WebSockets as server-sent events.

For networks where no WebSocket gets through. The sessions, their tickets, checks and limits are those of
`websocket/`; only the transport differs. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import random
import re

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from paidup.db.connection import storage_errors
from paidup.errors import NotAuthenticated
from paidup.realtime.current_rows import read_current
from paidup.runtime.metrics import Via
from paidup.web.http import whole_number
from paidup.web.websocket.endpoint import SocketServer
from paidup.web.websocket.session import (
    AccountSession,
    CheckoutSocketSession,
    InvoiceSession,
    VerifiedSession,
    WebSocketSession,
)
from paidup.web.websocket.transport import AsgiTransport, TransportHandler

TICKET = "Paidup-Ticket"
"""The header with the ticket. An EventSource cannot send one, so the query parameter `ticket` will do."""
_TICKET_IN_QUERY = re.compile(rb"((?:^|&)ticket=)[^&]*")
REDACTED = rb"\1redacted"
HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store, no-transform",  # a proxy that compresses also buffers
    "X-Accel-Buffering": "no",
}
RETRY_MS = (1_000, 5_000)
"""When an EventSource reconnects after a connection that ended without a word: between these."""
PADDING = b":" + b" " * 4096 + b"\n\n"
"""Follows each event for a client that asks for it, so that a proxy that fills 4 KiB first passes it on."""
ABORT_S = 40.0
"""How long a connection whose client does not read may stay, after its session has ended."""


class _Head(msgspec.Struct):
    """What an event has in fields of its own."""

    version: int | None = None
    reconnect_after_ms: int | None = None


_heads = msgspec.json.Decoder(_Head)


def event_of(frame: bytes) -> bytes:
    """A frame as an event: its version is the id, and a `bye` says when to reconnect."""
    head = _heads.decode(frame)
    fields = b""
    if head.version is not None:
        fields += b"id: %d\n" % head.version
    if head.reconnect_after_ms is not None:
        fields += b"retry: %d\n" % head.reconnect_after_ms
    return fields + b"data: " + frame + b"\n\n"


class EventStreamTransport(AsgiTransport):
    """A response that does not end before its session does."""

    def __init__(self, receive: Receive, send: Send, handler: TransportHandler, padding: bytes) -> None:
        super().__init__(receive, send, handler)
        self._padding = padding
        self._cut: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Send the headers and the first bytes at once: they tell the client that nothing holds them back."""
        headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
        self._enqueue({"type": "http.response.start", "status": 200, "headers": headers})
        retry_ms = random.randint(*RETRY_MS)  # noqa: S311
        self._write(b"retry: %d\n: paidup.v1\n\n" % retry_ms)

    def send(self, frame: bytes) -> None:
        self._write(event_of(frame))

    def send_heartbeat(self, frame: bytes) -> None:
        self._write(b": heartbeat\n\n")

    def close(self, code: int) -> None:
        self._enqueue({"type": "http.response.body", "body": b"", "more_body": False})

    def abort(self) -> None:
        """End the session now, and the response once what is being sent has been read."""
        if self._closed or self._reader is None:
            return
        self._pending.clear()
        self.close(0)
        self._closed = True
        self._cut = asyncio.get_running_loop().call_later(ABORT_S, self._reader.cancel)
        self._handler.on_disconnect()

    async def read(self) -> None:
        try:
            await super().read()
        finally:
            if self._cut is not None:
                self._cut.cancel()

    def _write(self, body: bytes) -> None:
        self._enqueue({"type": "http.response.body", "body": body + self._padding, "more_body": True})


class EventStream(Response):
    """Admits the session and streams what it sends. Raises what `admit` raises, before the first byte."""

    def __init__(self, sockets: SocketServer, session: WebSocketSession, padded: bool) -> None:
        super().__init__()
        self._sockets = sockets
        self._session = session
        self._padded = padded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        padding = PADDING if self._padded else b""
        transport = EventStreamTransport(receive, send, self._session, padding)
        with self._sockets.counted_refusals(Via.SSE):
            self._sockets.admit(self._session)
        try:
            transport.open()
            await self._sockets.hold(self._session, transport)
        finally:
            self._session.on_disconnect()


async def _events(request: Request, kind: type[WebSocketSession]) -> Response:
    sockets: SocketServer = request.app.state.sockets
    ticket = request.headers.get(TICKET) or request.query_params.get("ticket", "")
    # Servers log the query of a request once it is answered: also with a refusal.
    request.scope["query_string"] = _TICKET_IN_QUERY.sub(REDACTED, request.scope["query_string"])
    known = whole_number(request, "version")
    last_id = request.headers.get("last-event-id", "")
    if known is None and re.fullmatch(r"[0-9]{1,18}", last_id):
        known = int(last_id)
    padded = request.query_params.get("padding") == "1"
    with sockets.counted_refusals(Via.SSE):
        session = sockets.authorize(request.scope, kind, lambda _: _required(ticket))
    session.via = Via.SSE
    if known is not None:
        session.since = known
        if await _is_over(session, known):
            return Response(status_code=204)  # tells an EventSource not to reconnect
    return EventStream(sockets, session, padded)


def _required(ticket: str) -> str:
    if not ticket:
        raise NotAuthenticated(f"Send the ticket in the header {TICKET}, or as the parameter `ticket`.")
    return ticket


async def _is_over(session: WebSocketSession, known: int) -> bool:
    """Whether the client, which reconnects, has been told the terminal status."""
    if not isinstance(session, VerifiedSession):
        return False
    with storage_errors():
        rows = await read_current(session.topic, [session.key])
    return any(message.terminal and message.version <= known for _, message in rows)


async def invoice_events(request: Request) -> Response:
    """GET /api/invoices/{invoice}/events: the statuses of one invoice, for who has a ticket for it."""
    return await _events(request, InvoiceSession)


async def checkout_events(request: Request) -> Response:
    """GET /api/checkout/{checkout}/events: the statuses of one Checkout Session."""
    return await _events(request, CheckoutSocketSession)


async def account_events(request: Request) -> Response:
    """GET /api/account/events: the balance of the account that the ticket names."""
    return await _events(request, AccountSession)


ROUTES = [
    Route("/api/invoices/{invoice}/events", invoice_events, methods=["GET"]),
    Route("/api/checkout/{checkout}/events", checkout_events, methods=["GET"]),
    Route("/api/account/events", account_events, methods=["GET"]),
]
for _route in ROUTES:
    assert _route.methods is not None
    _route.methods.discard("HEAD")  # it would open a session
