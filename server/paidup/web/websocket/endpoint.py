"""GET /ws/invoices/{invoice}, /ws/checkout/{checkout} and /ws/account: WebSockets that push what changes.

Handles the handshake (origin, ticket and limits are checked before it is accepted; a refusal is an
HTTP response), heartbeats, deadlines (clients that do not read, do not respond, or stay too long),
and the drain at shutdown. No change is missed, because of the order: register the session, await
Redis's acknowledgement, then read the row. `session.py` decides what each kind of session sends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers
from starlette.routing import WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from paidup.domain.messages import SUBPROTOCOL, Bye, CloseCode
from paidup.errors import (
    NotAllowed,
    NotAuthenticated,
    PaidupError,
    Restarting,
    TooManyRequests,
    TooManySockets,
)
from paidup.rate_limits.account_limits import Limited
from paidup.runtime.metrics import SOCKET_KINDS, Via
from paidup.services import Services
from paidup.web.addresses import address_key
from paidup.web.http import is_own_origin
from paidup.web.problems import problem_of
from paidup.web.websocket.frame_limits import LIMIT_FRAMES
from paidup.web.websocket.lightweight_protocol import RAW_TRANSPORT_EXTENSION, TakeOverTransport
from paidup.web.websocket.session import (
    AccountSession,
    CheckoutSocketSession,
    InvoiceSession,
    WebSocketSession,
)
from paidup.web.websocket.snapshots import Snapshots
from paidup.web.websocket.transport import AsgiTransport, WebSocketTransport

TICK_S = 1.0
RETRY_AFTER_MS = 5_000
WORK_OF_A_HEARTBEAT = 50
"""A heartbeat takes as long as so many sessions that nothing is due for."""
WORK_PER_TURN = 1_000
"""Sessions looked at between two turns of the event loop: a fraction of a millisecond."""
CLOSE_TIMEOUT_S = 5.0
"""How long the client has to answer a close frame."""
MAX_MISSED_HEARTBEATS = 2.5
"""Heartbeat intervals without any data from the client, after which the connection is aborted."""
DRAIN_PER_S = 200
"""Sockets closed per second at shutdown; more if SHUTDOWN_DRAIN_S would not suffice."""
RECONNECT_AFTER_MS = 1_000
"""After a drain. Short, since closing is spread out and another process is up or soon will be."""


class SocketServer:
    """The open WebSocket sessions of this process: limits, heartbeats, deadlines and draining."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._sessions: set[WebSocketSession] = set()
        self._addresses: Counter[str] = Counter()
        self._accounts: Counter[int] = Counter()
        self._snapshots = Snapshots(services.hub)
        self._origins = services.settings.origins
        self._open = {
            (kind, via): services.metrics.sockets.labels(kind, via) for kind in SOCKET_KINDS for via in Via
        }
        self.draining = False

    async def serve(self, scope: Scope, receive: Receive, send: Send, kind: type[WebSocketSession]) -> None:
        """Accept or refuse one handshake and start its session.

        With the lightweight protocol this returns once the session has started; with any other ASGI
        server it runs for as long as the socket is open.
        """
        try:
            with self.counted_refusals(Via.WEBSOCKET):
                session = self.authorize(scope, kind, _offered_ticket)
                self.admit(session)
        except PaidupError as error:
            # Starlette's helper uses the ASGI extension for refusing a handshake with a response.
            await WebSocket(scope, receive, send).send_denial_response(problem_of(error))
            return
        extensions: dict[str, Any] = scope.get("extensions", {})
        if LIMIT_FRAMES in extensions:
            extensions[LIMIT_FRAMES]()
        try:
            await receive()  # websocket.connect
            await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
            take_over: TakeOverTransport | None = extensions.get(RAW_TRANSPORT_EXTENSION)
            if take_over is not None:
                session.transport = take_over(session)
                self.start(session)
            else:
                await self.hold(session, WebSocketTransport(receive, send, session))
        except BaseException:
            session.on_disconnect()
            raise

    def accept(self, path: bytes, scope: Scope) -> WebSocketSession | None:
        """The session, admitted, that a handshake at one of WEBSOCKET_PATHS opens.

        None where it has to be refused: `serve` does that, counts it, and answers.
        """
        _, _, name, *key = path.decode("ascii").split("/")
        kind = _KINDS[name]
        scope["path_params"] = {kind.kind: "".join(key)}
        try:
            session = self.authorize(scope, kind, _offered_ticket)
        except PaidupError:
            return None
        if self._refusal_of(session) is not None:
            return None
        self._register(session)
        return session

    # Each connection: authorize, admit, then hold. After `admit`, on_disconnect has to be called.

    def authorize(
        self, scope: Scope, kind: type[WebSocketSession], ticket_of: Callable[[Scope], str]
    ) -> WebSocketSession:
        """The session that this request may open. Raises NotAllowed or NotAuthenticated."""
        sent = next((value for name, value in scope["headers"] if name == b"origin"), None)
        if sent is not None and (origin := sent.decode("latin-1")) not in self._origins:
            own_page = kind.opens_from_own_page and is_own_origin(origin, Headers(scope=scope))
            if not own_page:
                raise NotAllowed(f"The origin {origin!r} is not in ALLOWED_ORIGINS.")
        session = kind.from_ticket(scope, ticket_of(scope), self.services)
        session.address = address_key(scope["client"][0] if scope.get("client") else "")
        return session

    def admit(self, session: WebSocketSession) -> None:
        """Count the session and have it verified. Raises TooManyRequests, TooManySockets or Restarting."""
        if (refusal := self._refusal_of(session)) is not None:
            if isinstance(refusal, TooManyRequests):
                self.services.account_limits.count_refusal(Limited.SOCKETS)
            raise refusal
        self._register(session)

    async def hold(self, session: WebSocketSession, transport: AsgiTransport) -> None:
        """Run an admitted session until its connection ends."""
        session.transport = transport
        self.start(session)
        await transport.read()

    def start(self, session: WebSocketSession) -> None:
        """Subscribe, await the acknowledgement, then have the row read: see `snapshots.py`."""
        if not session.ended:
            session.flush()
            self._snapshots.subscribe(session)

    @contextmanager
    def counted_refusals(self, via: Via) -> Iterator[None]:
        """Count the error that refuses a connection of this transport."""
        try:
            yield
        except PaidupError as error:
            self.services.metrics.sockets_refused.labels(problem_of(error).status_code, via).inc()
            raise

    async def enforce_deadlines_forever(self) -> None:
        """Send heartbeats and enforce deadlines on all sessions, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self._enforce_all_deadlines()

    async def _enforce_all_deadlines(self) -> None:
        # A separate function: in one that never returns, `session` would keep the last one alive.
        at, work = time.monotonic(), 0
        for session in tuple(self._sessions):
            work += 1
            if (
                at >= session.due_at
                or session.transport.blocked_at is not None
                or session.closing is not None
            ):
                self._enforce_deadlines(session, time.monotonic())
                work += WORK_OF_A_HEARTBEAT
            if work >= WORK_PER_TURN:
                await asyncio.sleep(0)  # yield to the event loop
                at, work = time.monotonic(), 0

    async def drain(self) -> None:
        """Refuse new sockets and close all open ones, spread over a window.

        Messages are still delivered to sessions that have not been closed yet.
        """
        self.draining = True
        sessions = list(self._sessions)
        random.shuffle(sessions)
        window_s = min(self.services.settings.shutdown_drain_s, len(sessions) / DRAIN_PER_S)
        began = time.monotonic()
        for number, session in enumerate(sessions):
            session.close(Bye("restarting", _jittered(RECONNECT_AFTER_MS)), CloseCode.RESTARTING)
            ahead_s = began + window_s * (number + 1) / len(sessions) - time.monotonic()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
        # Wait for close frames to be answered, and close sessions whose handshake was in progress.
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while self._sessions and time.monotonic() < deadline:
            for session in tuple(self._sessions):
                session.close(Bye("restarting", _jittered(RECONNECT_AFTER_MS)), CloseCode.RESTARTING)
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        await self._snapshots.close()

    # Sessions

    def _register(self, session: WebSocketSession) -> None:
        self._sessions.add(session)
        self._addresses[session.address] += 1
        if session.account_id is not None:
            self._accounts[session.account_id] += 1
        self._open[session.kind, session.via].inc()
        # The first heartbeat is randomized, so that clients that connect together are spread out.
        session.next_heartbeat_at += self.services.settings.heartbeat_s * (1 + random.random()) / 2  # noqa: S311
        session.start(self._unregister)

    def _unregister(self, session: WebSocketSession) -> None:
        self.services.hub.unsubscribe(session.topic, session.key, session)
        self._sessions.discard(session)
        self._open[session.kind, session.via].dec()
        _decrement(self._addresses, session.address)
        if session.account_id is not None:
            _decrement(self._accounts, session.account_id)

    def _enforce_deadlines(self, session: WebSocketSession, at: float) -> None:
        settings, transport = self.services.settings, session.transport
        stalled = (
            transport.blocked_at is not None and at - transport.blocked_at > settings.socket_send_timeout_s
        )
        gone_at = transport.last_received_at + MAX_MISSED_HEARTBEATS * settings.heartbeat_s + TICK_S
        ends_at = session.opened_at + settings.socket_max_lifetime_s
        unanswered = session.closed_at is not None and at - session.closed_at > CLOSE_TIMEOUT_S
        if stalled or at > gone_at or unanswered:
            transport.abort()
        elif at > ends_at:
            session.close(Bye("waited too long", _jittered(RETRY_AFTER_MS)), CloseCode.WAITED_TOO_LONG)
        elif at >= session.next_heartbeat_at and session.send_heartbeat():
            session.next_heartbeat_at = at + settings.heartbeat_s
        session.due_at = min(session.next_heartbeat_at, gone_at, ends_at)

    def _refusal_of(self, session: WebSocketSession) -> PaidupError | None:
        """Why the session may not be opened now, if it may not."""
        settings = self.services.settings
        if self.draining:
            return Restarting(retry_after_s())
        account = session.account_id
        if account is not None and self._accounts[account] >= settings.max_sockets_per_account:
            return TooManyRequests(Limited.SOCKETS, retry_after_s())
        if len(self._sessions) >= settings.max_sockets:
            return TooManySockets("this server", retry_after_s())
        if self._addresses[session.address] >= settings.max_sockets_per_address:
            return TooManySockets("this address", retry_after_s())
        subscribers = self.services.hub.subscriber_count(session.topic, session.key)
        if subscribers >= settings.max_sockets_per_invoice:
            return TooManySockets(f"this {session.kind}", retry_after_s())
        return None


def _offered_ticket(scope: Scope) -> str:
    offered = scope["subprotocols"]
    tickets = [str(offer) for offer in offered if offer != SUBPROTOCOL]
    if len(offered) != 2 or len(tickets) != 1:
        raise NotAuthenticated(f"Offer two subprotocols: {SUBPROTOCOL} and the ticket.")
    return tickets[0]


def _decrement(counter: Counter[Any], key: object) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def retry_after_s() -> float:
    """When a client that was refused may come back: a few seconds, spread."""
    return _jittered(RETRY_AFTER_MS) / 1000


def _jittered(milliseconds: int) -> int:
    """A random value between 0.5 and 1.5 times `milliseconds`, so that clients do not return at once."""
    return round(milliseconds * (0.5 + random.random()))  # noqa: S311


class _SocketEndpoint:
    """A route's ASGI application. A class, since Starlette wraps a function in a WebSocket object."""

    def __init__(self, kind: type[WebSocketSession]) -> None:
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server: SocketServer = scope["app"].state.sockets
        await server.serve(scope, receive, send, self._kind)


_KINDS: dict[str, type[WebSocketSession]] = {
    "invoices": InvoiceSession,
    "checkout": CheckoutSocketSession,
    "account": AccountSession,
}
"""By what comes after `/ws/` in the path."""

ROUTES = [
    WebSocketRoute("/ws/invoices/{invoice}", _SocketEndpoint(InvoiceSession)),
    WebSocketRoute("/ws/checkout/{checkout}", _SocketEndpoint(CheckoutSocketSession)),
    WebSocketRoute("/ws/account", _SocketEndpoint(AccountSession)),
]
