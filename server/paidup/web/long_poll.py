"""Long polls: a request for a status or a balance, answered once it has moved on, or the wait is over.

For networks where neither a WebSocket nor a stream gets through. A long poll is a session like any
other: the same limits, the same order of subscribing and reading, and Stripe is asked meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from starlette.requests import ClientDisconnect, Request

from paidup.domain.messages import BalanceMessage, CheckoutMessage, StatusMessage
from paidup.errors import InvalidInput
from paidup.runtime.metrics import Via
from paidup.runtime.tasks import cancel_tasks
from paidup.services import Services
from paidup.web.addresses import address_key
from paidup.web.http import whole_number
from paidup.web.websocket.endpoint import SocketServer
from paidup.web.websocket.session import WebSocketSession

MAX_WAIT_S = 30
"""Proxies that give up on a request mostly do so after 60 s."""


class _FirstFrame:
    """A transport that only notes that there is something to tell."""

    blocked_at: float | None = None
    last_received_at = math.inf

    def __init__(self) -> None:
        self.arrived = asyncio.Event()

    def send(self, frame: bytes) -> None:
        self.arrived.set()

    def send_heartbeat(self, frame: bytes) -> None: ...

    def close(self, code: int) -> None:
        self.arrived.set()

    def abort(self) -> None:
        self.arrived.set()


async def waited_for_news(
    request: Request,
    message: StatusMessage | CheckoutMessage | BalanceMessage,
    make_session: Callable[[Services], WebSocketSession],
) -> bool:
    """Wait as long as `wait` says while `version` is the newest. Returns whether there may be news.

    Does not wait without both, nor for a terminal status. Raises InvalidInput, TooManyRequests,
    TooManySockets, Restarting, ClientDisconnect.
    """
    wait_s, version = whole_number(request, "wait"), whole_number(request, "version")
    if wait_s is not None and wait_s > MAX_WAIT_S:
        raise InvalidInput(f"`wait` is a number of seconds up to {MAX_WAIT_S}.")
    terminal = not isinstance(message, BalanceMessage) and message.terminal
    if not wait_s or version is None or terminal or message.version > version:
        return False
    sockets: SocketServer = request.app.state.sockets
    session = make_session(sockets.services)
    session.via = Via.LONG_POLL
    session.since = version + 1
    session.address = address_key(request.client.host if request.client else "")
    with sockets.counted_refusals(Via.LONG_POLL):
        sockets.admit(session)
    try:
        await _first_frame(request, sockets, session, wait_s)
    finally:
        session.on_disconnect()
    return True


async def _first_frame(
    request: Request, sockets: SocketServer, session: WebSocketSession, wait_s: float
) -> None:
    session.transport = transport = _FirstFrame()
    sockets.start(session)
    arriving = asyncio.create_task(transport.arrived.wait(), name="long-poll")
    leaving = asyncio.create_task(_left(request), name="long-poll-client")
    try:
        await asyncio.wait({arriving, leaving}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done() and not arriving.done():
            raise ClientDisconnect
    finally:
        await cancel_tasks(arriving, leaving)


async def _left(request: Request) -> None:
    """Returns once the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
