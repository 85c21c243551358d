"""The lines: what one open socket sends, of one invoice or of one account.

Owns the mailbox with room for one (what is offered replaces what was not sent yet), the
heartbeats, the farewell, and the deadline of a send. Refuses to decide who may open a socket,
and when it must close: that is `sockets.py`'s. An invoice's line has Stripe asked while it is
open; an account's tells its balance and asks nobody.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, ClassVar

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from server.core.messages import (
    BalanceMessage,
    Bye,
    CloseCode,
    Heartbeat,
    Stage,
    StatusMessage,
    encode,
    is_verify,
)
from server.hub import ACCOUNTS, INVOICES, Topic
from server.services import Services
from server.statuses import read_balance, read_status
from server.timeline import What

HEARTBEAT = encode(Heartbeat())
VERIFY_AT_MOST_EVERY_S = 1.0


class SocketLine:
    """One open socket, whatever it is on. Nothing here blocks but the one task that sends."""

    topic: ClassVar[Topic[Any, Any]]
    kind: ClassVar[str]
    """What it is on, in words: for the metrics and for whoever is refused."""

    __slots__ = (
        *("_frame", "_heartbeat", "_sender", "_services", "_websocket"),
        *("closing", "key", "opened_at", "sent_at", "task"),
    )

    def __init__(self, websocket: WebSocket, key: Any, services: Services) -> None:
        self._websocket = websocket
        self._services = services
        self._sender: asyncio.Task[None] | None = None
        self._frame: bytes | None = None
        self._heartbeat = False
        self.key = key
        self.opened_at = self.sent_at = time.monotonic()
        self.closing: tuple[Bye | None, CloseCode] | None = None
        self.task = asyncio.current_task()

    # What each kind says for itself

    @classmethod
    def admitted(cls, websocket: WebSocket, ticket: str, services: Services) -> SocketLine:
        """A line on what the ticket opens. Raises NotAuthenticated or NotAllowed."""
        raise NotImplementedError

    def begin(self) -> None:
        """It will be accepted."""

    def end(self) -> None:
        """It is over."""

    async def snapshot(self) -> None:
        """Offer the row as it is now. Raises what a database that is away raises."""
        raise NotImplementedError

    def offer(self, news: Any, frame: bytes, /) -> bool:
        """Put `frame` into the mailbox, if it is news. Whether it is. The hub calls this, too."""
        raise NotImplementedError

    def hear(self, text: str) -> None:
        """What a browser says is ignored, unless the kind knows better."""

    def _told(self) -> None:
        """A frame of news has been sent."""

    # What the keeper calls

    def beat(self) -> None:
        self._heartbeat = True
        self._wake()

    def close(self, bye: Bye, code: CloseCode) -> None:
        """Say why, and close. A frame that is still to be sent goes first."""
        if self.closing is None:
            self.closing = (bye, code)
            self._wake()

    # Sending

    def _wake(self) -> None:
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name=f"send-{self.key}")

    async def _send_all(self) -> None:
        """Send what waits, then end. Whoever does not read in time is cut off."""
        try:
            async with asyncio.timeout(self._services.settings.socket_send_timeout_s):
                while self._frame is not None or self._heartbeat:
                    await self._send_next()
                if self.closing is not None:
                    bye, code = self.closing
                    if bye is not None:
                        await self._send(encode(bye))
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
        if frame is not None:
            self._told()

    async def _send(self, frame: bytes) -> None:
        await self._websocket.send({"type": "websocket.send", "text": frame.decode()})
        self.sent_at = time.monotonic()


class InvoiceLine(SocketLine):
    """Waits for one invoice, and has Stripe asked about it as long. A terminal status ends it."""

    topic = INVOICES
    kind = "invoice"
    __slots__ = ("_stage", "status", "verified_at")

    def __init__(self, websocket: WebSocket, key: str, services: Services) -> None:
        super().__init__(websocket, key, services)
        self._stage: Stage | None = None
        self.status: StatusMessage | None = None
        self.verified_at = float("-inf")

    @classmethod
    def admitted(cls, websocket: WebSocket, ticket: str, services: Services) -> InvoiceLine:
        invoice = websocket.path_params["invoice"]
        services.tickets.check(ticket, invoice)
        return cls(websocket, invoice, services)

    def begin(self) -> None:
        self._services.timeline.note(self.key, What.SOCKET_OPENED)
        self._services.verification.watch(self.key)  # at once: the handshake need not be waited for

    def end(self) -> None:
        self._services.verification.unwatch(self.key)

    async def snapshot(self) -> None:
        status = await read_status(self.key)
        if status is not None:
            self.offer(status, encode(status))

    def hear(self, text: str) -> None:
        at = time.monotonic()
        if is_verify(text) and at - self.verified_at >= VERIFY_AT_MOST_EVERY_S:
            self.verified_at = at
            self._services.verification.hurry(self.key)

    def offer(self, status: StatusMessage, frame: bytes) -> bool:
        """Send `frame`, unless this version or a later one was offered before."""
        if self.status is not None and status.version <= self.status.version:
            return False
        # The first is the row as it was before the payment: not told as the truth while Stripe is asked.
        unsure = status.stage is Stage.WAITING or (self.status is None and not status.terminal)
        self.status = status
        if unsure and self._services.verification.asking(self.key):
            self._stage = Stage.VERIFYING
            frame = encode(msgspec.structs.replace(status, stage=Stage.VERIFYING))
        else:
            self._stage = status.stage
        self._frame = frame
        if status.terminal:
            self.closing = (None, CloseCode.FINISHED)
        self._wake()
        return True

    def offer_stage(self, stage: Stage) -> None:
        if self.status is None or self.status.terminal or stage is self._stage:
            return
        if stage is Stage.VERIFYING and self.status.stage is not Stage.WAITING:
            return  # asking again takes no screen away from somebody who is about to answer it
        self._stage = stage
        self._frame = encode(msgspec.structs.replace(self.status, stage=stage))
        self._wake()

    def _told(self) -> None:
        if self.status is None or not self.status.terminal:
            return
        waited_s = time.monotonic() - self.opened_at
        waited_ms = round(waited_s * 1000, 1)
        self._services.timeline.note(self.key, What.DELIVERED, status=self.status.status, waited_ms=waited_ms)
        if self.status.via is not None:
            self._services.metrics.activation_seconds.labels(self.status.via).observe(waited_s)


class AccountLine(SocketLine):
    """Tells each change of one account's balance. It never finishes; only the longest wait ends it."""

    topic = ACCOUNTS
    kind = "account"
    __slots__ = ("_version",)

    def __init__(self, websocket: WebSocket, key: int, services: Services) -> None:
        super().__init__(websocket, key, services)
        self._version = -1

    @classmethod
    def admitted(cls, websocket: WebSocket, ticket: str, services: Services) -> AccountLine:
        return cls(websocket, services.tickets.account_of(ticket), services)

    async def snapshot(self) -> None:
        balance = await read_balance(self.key)
        if balance is not None:
            self.offer(balance, encode(balance))

    def offer(self, balance: BalanceMessage, frame: bytes) -> bool:
        """Send `frame`, unless this version or a later one was offered before."""
        if balance.version <= self._version:
            return False
        self._version = balance.version
        self._frame = frame
        self._wake()
        return True
