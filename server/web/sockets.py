"""GET /ws/invoices/{invoice} and GET /ws/account: the lines on which a browser hears that its plan is
live, and what its balance is.

Owns the handshake (origin, ticket, limits: refused with an HTTP answer before it is
accepted), the one task per socket that reads, and the pace of heartbeats and farewells. The
order closes the gap: the line is registered, Redis has acknowledged, then the row is read.
Refuses to believe anything a browser says; what each kind of line tells is `lines.py`'s.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import structlog
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketState

from server.core.messages import SUBPROTOCOL, Bye, CloseCode
from server.database import OUTAGES
from server.errors import NotAllowed, NotAuthenticated, PaidupError
from server.services import Services
from server.web.lines import AccountLine, InvoiceLine, SocketLine
from server.web.problems import problem, problem_of

log = structlog.get_logger(__name__)

TICK_S = 1.0
RETRY_AFTER_MS = 5_000


class Sockets:
    """The open sockets of this process: their limits, their heartbeats, their longest wait."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lines: set[SocketLine] = set()
        self._addresses: Counter[str] = Counter()

    async def serve(self, websocket: WebSocket, kind: type[SocketLine]) -> None:
        """One socket, from handshake to end."""
        try:
            line = self._admitted(websocket, kind)
            refusal = self._full(websocket, line)
        except PaidupError as error:
            refusal = problem_of(error)
        if refusal is not None:
            self._services.metrics.sockets_refused.labels(refusal.status_code).inc()
            await websocket.send_denial_response(refusal)
            return
        address = _address(websocket)
        open_now = self._services.metrics.sockets.labels(line.kind)
        self._lines.add(line)
        self._addresses[address] += 1
        open_now.inc()
        line.begin()
        try:
            await self._wait(websocket, line)
        except asyncio.CancelledError:
            if websocket.application_state is not WebSocketState.CONNECTED:
                raise
        finally:
            line.end()
            self._services.hub.leave(line.topic, line.key, line)
            open_now.dec()
            self._lines.discard(line)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    async def keep_forever(self) -> None:
        """Heartbeats for the quiet, a farewell for those who waited too long. Runs until cancelled."""
        settings = self._services.settings
        while True:
            await asyncio.sleep(TICK_S)
            at = time.monotonic()
            for line in tuple(self._lines):
                if at - line.opened_at > settings.socket_max_wait_s:
                    bye = Bye("waited too long", _spread(RETRY_AFTER_MS))
                    line.close(bye, CloseCode.WAITED_TOO_LONG)
                elif at - line.sent_at > settings.heartbeat_s:
                    line.beat()

    def _admitted(self, websocket: WebSocket, kind: type[SocketLine]) -> SocketLine:
        """The line that this handshake may open. Raises NotAllowed or NotAuthenticated."""
        origin = websocket.headers.get("origin")
        if origin is not None and origin not in self._services.settings.origins:
            raise NotAllowed(f"The origin {origin!r} is not in ALLOWED_ORIGINS.")
        offered = websocket.scope["subprotocols"]
        if SUBPROTOCOL not in offered or len(offered) != 2:
            raise NotAuthenticated(f"Offer two subprotocols: {SUBPROTOCOL} and the ticket.")
        ticket = next(offer for offer in offered if offer != SUBPROTOCOL)
        return kind.admitted(websocket, ticket, self._services)

    def _full(self, websocket: WebSocket, line: SocketLine) -> Response | None:
        """The HTTP answer where one of the limits is reached, or None."""
        settings = self._services.settings
        here = self._services.hub.lines_of(line.topic, line.key)
        for count, limit, what in (
            (len(self._lines), settings.max_sockets, "this server"),
            (self._addresses[_address(websocket)], settings.max_sockets_per_address, "this address"),
            (here, settings.max_sockets_per_invoice, f"this {line.kind}"),
        ):
            if count >= limit:
                return problem(
                    503, "too-many-sockets", "Too many sockets", f"Too many for {what}. Come back later."
                )
        return None

    async def _wait(self, websocket: WebSocket, line: SocketLine) -> None:
        await websocket.accept(SUBPROTOCOL)
        await self._services.hub.join(line.topic, line.key, line)
        try:
            await line.snapshot()
        except OUTAGES as error:
            # The rereader tells it once the database is back.
            log.warning("snapshot_failed", channel=line.topic.channel(line.key), error=str(error))
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if text := message.get("text"):
                line.hear(text)


def _address(websocket: WebSocket) -> str:
    return websocket.client.host if websocket.client else ""


def _spread(milliseconds: int) -> int:
    """Somewhere between half and one and a half of it, so that not all come back at once."""
    return round(milliseconds * (0.5 + random.random()))  # noqa: S311


async def invoice_socket(websocket: WebSocket) -> None:
    sockets: Sockets = websocket.app.state.sockets
    await sockets.serve(websocket, InvoiceLine)


async def account_socket(websocket: WebSocket) -> None:
    sockets: Sockets = websocket.app.state.sockets
    await sockets.serve(websocket, AccountLine)


ROUTES = [
    WebSocketRoute("/ws/invoices/{invoice}", invoice_socket),
    WebSocketRoute("/ws/account", account_socket),
]
