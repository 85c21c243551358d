"""GET /ws/invoices/{invoice}: the line on which a browser hears that its plan is live.

Owns the handshake (origin, ticket, limits: refused with an HTTP answer before it is
accepted), the one task per socket that reads, and the sending of what the hub offers. The
order closes the gap: the line is registered, Redis has acknowledged, then the row is read.
Refuses to believe anything a browser says; it may only ask for a verification.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from typing import Any

import msgspec
import structlog
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from server.core.messages import (
    SUBPROTOCOL,
    Bye,
    CloseCode,
    Heartbeat,
    Stage,
    StatusMessage,
    encode,
    is_verify,
)
from server.database import OUTAGES
from server.errors import NotAllowed, NotAuthenticated, PaidupError
from server.services import Services
from server.statuses import read_status
from server.timeline import What
from server.web.problems import problem, problem_of

log = structlog.get_logger(__name__)

HEARTBEAT = encode(Heartbeat()).decode()
TICK_S = 1.0
VERIFY_AT_MOST_EVERY_S = 1.0
RETRY_AFTER_MS = 5_000


class SocketLine:
    """One open socket. What it is offered replaces what it has not sent yet: room for one is enough."""

    __slots__ = (
        *("_frame", "_heartbeat", "_sender", "_services", "_stage", "_websocket", "closing"),
        *("invoice", "opened_at", "sent_at", "status", "task", "verified_at"),
    )

    def __init__(self, websocket: WebSocket, invoice: str, services: Services) -> None:
        self._websocket = websocket
        self._services = services
        self._sender: asyncio.Task[None] | None = None
        self._frame: str | None = None
        self._stage: Stage | None = None
        self._heartbeat = False
        self.invoice = invoice
        self.status: StatusMessage | None = None
        self.opened_at = self.sent_at = time.monotonic()
        self.verified_at = float("-inf")
        self.closing: tuple[Bye | None, CloseCode] | None = None
        self.task = asyncio.current_task()

    # What the hub calls

    def offer(self, status: StatusMessage, frame: str) -> None:
        """Send `frame`, unless this version or a later one was offered before."""
        if self.status is not None and status.version <= self.status.version:
            return
        # The first is the row as it was before the payment: not told as the truth while Stripe is asked.
        unsure = status.stage is Stage.WAITING or (self.status is None and not status.terminal)
        self.status = status
        if unsure and self._services.verification.asking(self.invoice):
            self._stage = Stage.VERIFYING
            frame = encode(msgspec.structs.replace(status, stage=Stage.VERIFYING)).decode()
        else:
            self._stage = status.stage
        self._frame = frame
        if status.terminal:
            self.closing = (None, CloseCode.FINISHED)
        self._wake()

    def offer_stage(self, stage: Stage) -> None:
        if self.status is None or self.status.terminal or stage is self._stage:
            return
        if stage is Stage.VERIFYING and self.status.stage is not Stage.WAITING:
            return  # asking again takes no screen away from somebody who is about to answer it
        self._stage = stage
        self._frame = encode(msgspec.structs.replace(self.status, stage=stage)).decode()
        self._wake()

    # What the keeper calls

    def beat(self) -> None:
        self._heartbeat = True
        self._wake()

    def close(self, bye: Bye, code: CloseCode) -> None:
        """Say why, and close. A status that is still to be sent goes first."""
        if self.closing is None:
            self.closing = (bye, code)
            self._wake()

    # Sending

    def _wake(self) -> None:
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name=f"send-{self.invoice}")

    async def _send_all(self) -> None:
        """Send what waits, then end. Whoever does not read in time is cut off."""
        try:
            async with asyncio.timeout(self._services.settings.socket_send_timeout_s):
                while self._frame is not None or self._heartbeat:
                    await self._send_next()
                if self.closing is not None:
                    bye, code = self.closing
                    if bye is not None:
                        await self._send(encode(bye).decode())
                    await self._websocket.close(code)
        except (WebSocketDisconnect, RuntimeError, TimeoutError):
            # Gone, or stalled. The task that reads ends the rest.
            if self.task is not None:
                self.task.cancel()
        finally:
            self._sender = None

    async def _send_next(self) -> None:
        frame, self._frame, self._heartbeat = self._frame, None, False
        await self._send(frame or HEARTBEAT)
        if frame is not None and self.status is not None and self.status.terminal:
            self._delivered(self.status)

    async def _send(self, frame: str) -> None:
        await self._websocket.send({"type": "websocket.send", "text": frame})
        self.sent_at = time.monotonic()

    def _delivered(self, status: StatusMessage) -> None:
        waited_s = time.monotonic() - self.opened_at
        self._services.timeline.note(
            self.invoice, What.DELIVERED, status=status.status, waited_ms=round(waited_s * 1000, 1)
        )
        if status.via is not None:
            self._services.metrics.activation_seconds.labels(status.via).observe(waited_s)


class Sockets:
    """The open sockets of this process: their limits, their heartbeats, their longest wait."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._lines: set[SocketLine] = set()
        self._addresses: Counter[str] = Counter()

    async def serve(self, websocket: WebSocket) -> None:
        """One socket, from handshake to end."""
        invoice = websocket.path_params["invoice"]
        refusal = self._refusal(websocket, invoice)
        if refusal is not None:
            self._services.metrics.sockets_refused.labels(refusal.status_code).inc()
            await websocket.send_denial_response(refusal)
            return
        address = websocket.client.host if websocket.client else ""
        line = SocketLine(websocket, invoice, self._services)
        self._lines.add(line)
        self._addresses[address] += 1
        self._services.metrics.sockets.inc()
        self._services.verification.watch(invoice)  # at once: the handshake need not be waited for
        try:
            await self._wait(websocket, line)
        except asyncio.CancelledError:
            if websocket.application_state is not WebSocketState.CONNECTED:
                raise
        finally:
            self._services.verification.unwatch(invoice)
            self._services.hub.leave(invoice, line)
            self._services.metrics.sockets.dec()
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

    def _refusal(self, websocket: WebSocket, invoice: str) -> Any:
        """The HTTP answer that refuses this handshake, or None."""
        settings = self._services.settings
        origin = websocket.headers.get("origin")
        try:
            if origin is not None and origin not in settings.origins:
                raise NotAllowed(f"The origin {origin!r} is not in ALLOWED_ORIGINS.")
            offered = websocket.scope["subprotocols"]
            if SUBPROTOCOL not in offered or len(offered) != 2:
                raise NotAuthenticated(f"Offer two subprotocols: {SUBPROTOCOL} and the ticket.")
            ticket = next(offer for offer in offered if offer != SUBPROTOCOL)
            self._services.tickets.check(ticket, invoice)
        except PaidupError as error:
            return problem_of(error)
        address = websocket.client.host if websocket.client else ""
        for count, limit, what in (
            (len(self._lines), settings.max_sockets, "this server"),
            (self._addresses[address], settings.max_sockets_per_address, "this address"),
            (self._services.hub.lines_of(invoice), settings.max_sockets_per_invoice, "this invoice"),
        ):
            if count >= limit:
                return problem(
                    503, "too-many-sockets", "Too many sockets", f"Too many for {what}. Come back later."
                )
        return None

    async def _wait(self, websocket: WebSocket, line: SocketLine) -> None:
        await websocket.accept(SUBPROTOCOL)
        self._services.timeline.note(line.invoice, What.SOCKET_OPENED)
        await self._services.hub.join(line.invoice, line)
        await self._snapshot(line)
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            at = time.monotonic()
            if text and is_verify(text) and at - line.verified_at >= VERIFY_AT_MOST_EVERY_S:
                line.verified_at = at
                self._services.verification.hurry(line.invoice)

    async def _snapshot(self, line: SocketLine) -> None:
        try:
            status = await read_status(line.invoice)
        except OUTAGES as error:
            # The rereader tells it once the database is back.
            log.warning("snapshot_failed", invoice=line.invoice, error=str(error))
            return
        if status is not None:
            line.offer(status, encode(status).decode())


def _spread(milliseconds: int) -> int:
    """Somewhere between half and one and a half of it, so that not all come back at once."""
    return round(milliseconds * (0.5 + random.random()))  # noqa: S311


async def invoice_socket(websocket: WebSocket) -> None:
    sockets: Sockets = websocket.app.state.sockets
    await sockets.serve(websocket)


ROUTES = [WebSocketRoute("/ws/invoices/{invoice}", invoice_socket)]
