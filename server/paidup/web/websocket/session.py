"""The lines: what one open socket is told, of one invoice or of one account.

Owns the mailbox with room for one (what is offered while the other side does not read replaces
what was not sent yet) and the farewell. Refuses to decide who may open a socket, and when it
must close: that is `sockets.py`'s; how a frame gets out is the wire's. An invoice's line has
Stripe asked while it is open; an account's tells its balance and asks nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec
from starlette.types import Scope

from paidup.domain.messages import (
    BalanceMessage,
    Bye,
    CloseCode,
    Heartbeat,
    Stage,
    StatusMessage,
    encode,
    is_verify,
)
from paidup.payments.timeline import TimelineEventType
from paidup.realtime.hub import ACCOUNTS, INVOICES, Topic
from paidup.services import Services
from paidup.web.websocket.transport import UNOPENED, Transport

HEARTBEAT = encode(Heartbeat())
VERIFY_AT_MOST_EVERY_S = 1.0


class WebSocketSession:
    """One open socket, whatever it is on. Nothing here waits."""

    topic: ClassVar[Topic[Any, Any]]
    kind: ClassVar[str]
    """What it is on, in words: for the metrics and for whoever is refused."""

    __slots__ = (
        *("_frame", "_on_end", "_services", "wire"),
        *("account_id", "address", "beat_at", "closed_at", "closing", "key", "opened_at"),
    )

    def __init__(self, key: Any, account_id: int, services: Services) -> None:
        self._services = services
        self.account_id = account_id
        self.wire: Transport = UNOPENED
        self._frame: bytes | None = None
        self._on_end: Callable[[WebSocketSession], None] | None = None
        self.key = key
        self.address = ""
        self.opened_at = time.monotonic()
        self.beat_at = self.opened_at
        self.closing: tuple[Bye | None, CloseCode] | None = None
        self.closed_at: float | None = None
        """When the farewell was sent; the other side has a moment to answer it."""

    # What each kind says for itself

    @classmethod
    def admitted(cls, scope: Scope, ticket: str, services: Services) -> WebSocketSession:
        """A line on what the ticket opens. Raises NotAuthenticated or NotAllowed."""
        raise NotImplementedError

    def begin(self, on_end: Callable[[WebSocketSession], None]) -> None:
        """It was admitted and has its place, which `on_end` gives back."""
        self._on_end = on_end

    def offer(self, news: Any, frame: bytes, /) -> bool:
        """Send `frame`, if it is news. Whether it is. The hub calls this, too."""
        raise NotImplementedError

    def hear(self, text: str) -> None:
        """What a browser says is ignored, unless the kind knows better."""

    def _finished(self) -> None:
        """The frame that ends the wait has been sent."""

    # What the keeper calls

    def beat(self) -> None:
        if self.wire.blocked_at is None and self.closing is None:
            self.wire.beat(HEARTBEAT)

    def close(self, bye: Bye | None, code: CloseCode) -> None:
        """Say why, and close. A frame that is still to be sent goes first."""
        if self.closing is None:
            self.closing = (bye, code)
            self.clear()

    # What the wire calls

    def clear(self) -> None:
        """Send what waits."""
        if self._frame is not None and self.wire.blocked_at is None:
            frame, self._frame = self._frame, None
            self.wire.send(frame)
        if self.closing is not None and self.closed_at is None and self.wire.blocked_at is None:
            bye, code = self.closing
            self.closed_at = time.monotonic()
            if code is CloseCode.FINISHED:
                self._finished()
            if bye is not None:
                self.wire.send(encode(bye))
            self.wire.close(code)

    def lost(self) -> None:
        if self._on_end is not None:
            self._on_end(self)
            self._on_end = None
            self.wire = UNOPENED  # the two refer to each other: nobody would free them before a collection

    @property
    def over(self) -> bool:
        return self._on_end is None

    def _put(self, frame: bytes) -> None:
        if self.closing is None and self.wire.blocked_at is None:
            self.wire.send(frame)  # nearly always
        elif self.closed_at is None:
            self._frame = frame
            self.clear()


class InvoiceSession(WebSocketSession):
    """Waits for one invoice, and has Stripe asked about it as long. A terminal status ends it."""

    topic = INVOICES
    kind = "invoice"
    __slots__ = ("_stage", "status", "verified_at")

    def __init__(self, key: str, account_id: int, services: Services) -> None:
        super().__init__(key, account_id, services)
        self._stage: Stage | None = None
        self.status: StatusMessage | None = None
        self.verified_at = float("-inf")

    @classmethod
    def admitted(cls, scope: Scope, ticket: str, services: Services) -> InvoiceSession:
        invoice = scope["path_params"]["invoice"]
        return cls(invoice, services.tickets.check(ticket, invoice), services)

    def begin(self, on_end: Callable[[WebSocketSession], None]) -> None:
        super().begin(on_end)
        self._services.timeline.note(self.key, TimelineEventType.SOCKET_OPENED)
        # At once, since the handshake need not be waited for; unless the account opens one after another.
        self._services.verification.watch(self.key, at_once=self._may_verify())

    def lost(self) -> None:
        if not self.over:
            self._services.verification.unwatch(self.key)
            bye, code = self.closing or (None, None)
            if code is not CloseCode.FINISHED or self.closed_at is None:  # else it is noted as delivered
                self._services.timeline.note(
                    self.key, TimelineEventType.SOCKET_LOST, reason=bye.reason if bye else None
                )
        super().lost()

    def hear(self, text: str) -> None:
        at = time.monotonic()
        if is_verify(text) and at - self.verified_at >= VERIFY_AT_MOST_EVERY_S:
            self.verified_at = at
            if self._may_verify():
                self._services.verification.prioritize(self.key)

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
        if status.terminal and self.closing is None:
            self.closing = (None, CloseCode.FINISHED)
        self._put(frame)
        return True

    def _may_verify(self) -> bool:
        return self._services.account_limits.may_verify(self.account_id)

    def offer_stage(self, stage: Stage) -> None:
        if self.status is None or self.status.terminal or stage is self._stage:
            return
        if stage is Stage.VERIFYING and self.status.stage is not Stage.WAITING:
            return  # asking again takes no screen away from somebody who is about to answer it
        self._stage = stage
        self._put(encode(msgspec.structs.replace(self.status, stage=stage)))

    def _finished(self) -> None:
        assert self.status is not None
        waited_s = time.monotonic() - self.opened_at
        waited_ms = round(waited_s * 1000, 1)
        self._services.timeline.note(
            self.key, TimelineEventType.DELIVERED, status=self.status.status, waited_ms=waited_ms
        )
        if self.status.via is not None:
            self._services.metrics.activation_seconds.labels(self.status.via).observe(waited_s)


class AccountSession(WebSocketSession):
    """Tells each change of one account's balance. It never finishes; only the longest wait ends it."""

    topic = ACCOUNTS
    kind = "account"
    __slots__ = ("_version",)

    def __init__(self, key: int, services: Services) -> None:
        super().__init__(key, key, services)
        self._version = -1

    @classmethod
    def admitted(cls, scope: Scope, ticket: str, services: Services) -> AccountSession:
        return cls(services.tickets.account_of(ticket), services)

    def offer(self, balance: BalanceMessage, frame: bytes) -> bool:
        """Send `frame`, unless this version or a later one was offered before."""
        if balance.version <= self._version:
            return False
        self._version = balance.version
        self._put(frame)
        return True
