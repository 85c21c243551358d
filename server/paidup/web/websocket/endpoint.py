"""GET /ws/invoices/{invoice} and GET /ws/account: the lines on which a browser hears that its plan is
live, and what its balance is.

Owns the handshake (origin, ticket, limits: refused with an HTTP answer before it is
accepted), the pace of heartbeats, the deadlines of those who do not read, do not answer or wait
too long, and the drain before a stop. The order closes the gap: the line is registered, Redis
has acknowledged, then the row is read. Refuses to believe anything a browser says; what each
kind of line tells is `lines.py`'s.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from paidup.domain.messages import SUBPROTOCOL, Bye, CloseCode
from paidup.errors import NotAllowed, NotAuthenticated, PaidupError
from paidup.rate_limits.account_limits import Limited
from paidup.services import Services
from paidup.web.addresses import counted_as
from paidup.web.problems import problem, problem_of
from paidup.web.websocket.frame_limits import LIMIT_FRAMES
from paidup.web.websocket.lightweight_protocol import RAW_TRANSPORT_EXTENSION, TakeOverTransport
from paidup.web.websocket.session import AccountSession, InvoiceSession, WebSocketSession
from paidup.web.websocket.snapshots import Snapshots
from paidup.web.websocket.transport import AsgiTransport

TICK_S = 1.0
RETRY_AFTER_MS = 5_000
CLOSE_TIMEOUT_S = 5.0
"""How long the other side has for answering a close."""
MAX_MISSED_HEARTBEATS = 2.5
"""After so many heartbeats without a sign of life the other side is gone."""
DRAIN_PER_S = 200
"""Sockets closed a second before a stop; faster where SHUTDOWN_DRAIN_S would not suffice."""
RECONNECT_AFTER_MS = 1_000
"""After a drain: the closing is spread already, and another process is there or soon will be."""


class SocketServer:
    """The open sockets of this process: their limits, heartbeats, deadlines and farewells."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lines: set[WebSocketSession] = set()
        self._addresses: Counter[str] = Counter()
        self._accounts: Counter[int] = Counter()
        self._snapshots = Snapshots()
        self._open = {kind: services.metrics.sockets.labels(kind) for kind in ("invoice", "account")}
        self.draining = False

    async def serve(self, scope: Scope, receive: Receive, send: Send, kind: type[WebSocketSession]) -> None:
        """One socket: its handshake and first frame, and under a foreign server its whole life."""
        try:
            line = self._admitted(scope, kind)
            refusal = self._full(line)
        except PaidupError as error:
            refusal = problem_of(error)
        if refusal is not None:
            self._services.metrics.sockets_refused.labels(refusal.status_code).inc()
            # Starlette's helper: it knows the extension by which a handshake is answered.
            await WebSocket(scope, receive, send).send_denial_response(refusal)
            return
        self._enter(line)
        extensions: dict[str, Any] = scope.get("extensions", {})
        if LIMIT_FRAMES in extensions:
            extensions[LIMIT_FRAMES]()
        try:
            await receive()  # websocket.connect
            await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
            take_over: TakeOverTransport | None = extensions.get(RAW_TRANSPORT_EXTENSION)
            if take_over is not None:
                line.wire = take_over(line)
                await self._begin(line)
            else:
                line.wire = wire = AsgiTransport(receive, send, line)
                beginning = asyncio.create_task(self._begin(line), name="begin-socket")
                await wire.read()
                beginning.cancel()
        except BaseException:
            line.lost()
            raise

    async def keep_forever(self) -> None:
        """Heartbeats, deadlines and longest waits. Runs until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self._keep_all()

    async def _keep_all(self) -> None:
        # A call of its own: in one that never returns, the variable would keep the last line alive.
        for number, line in enumerate(tuple(self._lines)):
            if number % 100 == 99:
                await asyncio.sleep(0)  # others have their turn
            self._keep(line, time.monotonic())

    async def drain(self) -> None:
        """Send everybody away, spread over a window; take nobody in. Statuses are told meanwhile."""
        self.draining = True
        lines = list(self._lines)
        random.shuffle(lines)
        window_s = min(self._services.settings.shutdown_drain_s, len(lines) / DRAIN_PER_S)
        began = time.monotonic()
        for number, line in enumerate(lines):
            line.close(Bye("restarting", _spread(RECONNECT_AFTER_MS)), CloseCode.RESTARTING)
            ahead_s = began + window_s * (number + 1) / len(lines) - time.monotonic()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
        # The last of them have a moment to answer the farewell, and whoever was just being admitted to come.
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while self._lines and time.monotonic() < deadline:
            for line in tuple(self._lines):
                line.close(Bye("restarting", _spread(RECONNECT_AFTER_MS)), CloseCode.RESTARTING)
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self._snapshots.close()

    # One line

    def _enter(self, line: WebSocketSession) -> None:
        self._lines.add(line)
        self._addresses[line.address] += 1
        self._accounts[line.account_id] += 1
        self._open[line.kind].inc()
        # Spread from the first one on, however many come at once.
        line.beat_at += self._services.settings.heartbeat_s * (1 + random.random()) / 2  # noqa: S311
        line.begin(self._leave)

    def _leave(self, line: WebSocketSession) -> None:
        self._services.hub.unsubscribe(line.topic, line.key, line)
        self._lines.discard(line)
        self._open[line.kind].dec()
        for counted, key in ((self._addresses, line.address), (self._accounts, line.account_id)):
            _count_down(counted, key)

    async def _begin(self, line: WebSocketSession) -> None:
        if not line.over:
            line.clear()
            await self._services.hub.subscribe(line.topic, line.key, line)
        if not line.over:
            self._snapshots.offer_to(line)

    def _keep(self, line: WebSocketSession, at: float) -> None:
        settings, wire = self._services.settings, line.wire
        stalled = wire.blocked_at is not None and at - wire.blocked_at > settings.socket_send_timeout_s
        gone = at - wire.last_received_at > MAX_MISSED_HEARTBEATS * settings.heartbeat_s + TICK_S
        unanswered = line.closed_at is not None and at - line.closed_at > CLOSE_TIMEOUT_S
        if stalled or gone or unanswered:
            wire.abort()
        elif at - line.opened_at > settings.socket_max_lifetime_s:
            line.close(Bye("waited too long", _spread(RETRY_AFTER_MS)), CloseCode.WAITED_TOO_LONG)
        elif at >= line.beat_at:
            line.beat_at = at + settings.heartbeat_s
            line.beat()

    # The handshake

    def _admitted(self, scope: Scope, kind: type[WebSocketSession]) -> WebSocketSession:
        """The line that this handshake may open. Raises NotAllowed or NotAuthenticated."""
        origin = Headers(scope=scope).get("origin")
        if origin is not None and origin not in self._services.settings.origins:
            raise NotAllowed(f"The origin {origin!r} is not in ALLOWED_ORIGINS.")
        offered = scope["subprotocols"]
        tickets = [offer for offer in offered if offer != SUBPROTOCOL]
        if len(offered) != 2 or len(tickets) != 1:
            raise NotAuthenticated(f"Offer two subprotocols: {SUBPROTOCOL} and the ticket.")
        line = kind.admitted(scope, tickets[0], self._services)
        line.address = counted_as(scope["client"][0] if scope.get("client") else "")
        return line

    def _full(self, line: WebSocketSession) -> Response | None:
        """The HTTP answer where no place is free, or None. Raises TooManyRequests for one account's limit."""
        settings = self._services.settings
        if self.draining:
            return _come_later("restarting", "Restarting", "This process is about to stop. Come back.")
        if self._accounts[line.account_id] >= settings.max_sockets_per_account:
            retry_after_s = _spread(RETRY_AFTER_MS) / 1000
            raise self._services.account_limits.refused(Limited.SOCKETS, retry_after_s)
        for count, limit, what in (
            (len(self._lines), settings.max_sockets, "this server"),
            (self._addresses[line.address], settings.max_sockets_per_address, "this address"),
            (
                self._services.hub.subscriber_count(line.topic, line.key),
                settings.max_sockets_per_invoice,
                f"this {line.kind}",
            ),
        ):
            if count >= limit:
                detail = f"Too many for {what}. Come back later."
                return _come_later("too-many-sockets", "Too many sockets", detail)
        return None


def _count_down(counted: Counter[Any], key: object) -> None:
    counted[key] -= 1
    if not counted[key]:
        del counted[key]


def _come_later(slug: str, title: str, detail: str) -> Response:
    response = problem(503, slug, title, detail)
    response.headers["Retry-After"] = str(max(1, round(_spread(RETRY_AFTER_MS) / 1000)))
    return response


def _spread(milliseconds: int) -> int:
    """Somewhere between half and one and a half of it, so that not all come back at once."""
    return round(milliseconds * (0.5 + random.random()))  # noqa: S311


class _Endpoint:
    """A route's ASGI application. Not a function: Starlette would keep a WebSocket for as long as it runs."""

    def __init__(self, kind: type[WebSocketSession]) -> None:
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sockets: SocketServer = scope["app"].state.sockets
        await sockets.serve(scope, receive, send, self._kind)


ROUTES = [
    WebSocketRoute("/ws/invoices/{invoice}", _Endpoint(InvoiceSession)),
    WebSocketRoute("/ws/account", _Endpoint(AccountSession)),
]
