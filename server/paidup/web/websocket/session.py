"""Sessions: what one open connection on an invoice, a Checkout Session or an account sends.

The connection is a WebSocket, a stream of server-sent events, or a long poll that waits for one frame.

A session holds at most one unsent frame: while the client does not read, a newer message replaces
it. `endpoint.py` decides who may open a session and when it closes; `transport.py` sends the frames.
While a session on an invoice or a Checkout Session is open, it is verified at Stripe; an account's
session only sends its balance.
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
    CheckoutMessage,
    CloseCode,
    Heartbeat,
    StatusMessage,
    encode,
    is_verify,
)
from paidup.domain.stages import Stage, opening_stage
from paidup.payments.timeline import TimelineEventType
from paidup.realtime.hub import ACCOUNTS, CHECKOUTS, INVOICES, Topic
from paidup.runtime import tracing
from paidup.runtime.metrics import Via
from paidup.services import Services
from paidup.web.websocket.transport import UNOPENED, Transport

HEARTBEAT = encode(Heartbeat())
MIN_VERIFY_INTERVAL_S = 1.0


class WebSocketSession:
    """One open connection. Nothing here blocks."""

    topic: ClassVar[Topic[Any, Any]]
    kind: ClassVar[str]
    """What the socket is on: for metrics and for the detail of a refusal."""
    opens_from_own_page: ClassVar[bool] = False
    """Whether a page that this server itself serves may open one, whatever ALLOWED_ORIGINS lists."""

    __slots__ = (
        *("_frame", "_on_end", "_services", "transport"),
        *("account_id", "address", "next_heartbeat_at", "closed_at", "closing", "due_at", "key"),
        *("opened_at", "since", "via"),
    )

    def __init__(self, key: Any, account_id: int | None, services: Services) -> None:
        self._services = services
        self.account_id = account_id
        """Whose sockets it counts among, if its ticket names an account."""
        self.transport: Transport = UNOPENED
        self._frame: bytes | None = None
        self._on_end: Callable[[WebSocketSession], None] | None = None
        self.key = key
        self.address = ""
        self.via = Via.WEBSOCKET
        self.since = -1
        """The lowest version that the client is told: it knows what came before."""
        self.opened_at = time.monotonic()
        self.due_at = self.next_heartbeat_at = self.opened_at
        """Until `due_at`, no deadline can pass, unless the transport is blocked or the session is closing."""
        self.closing: tuple[Bye | None, CloseCode] | None = None
        self.closed_at: float | None = None
        """When the close frame was sent; the client has CLOSE_TIMEOUT_S to answer it."""

    # Overridden by each kind

    @classmethod
    def from_ticket(cls, scope: Scope, ticket: str, services: Services) -> WebSocketSession:
        """A session on what the ticket is for. Raises NotAuthenticated or NotAllowed."""
        raise NotImplementedError

    def start(self, on_end: Callable[[WebSocketSession], None]) -> None:
        """Called once the session is registered. `on_end` unregisters it."""
        self._on_end = on_end

    @property
    def known_version(self) -> int:
        """The last version that was offered, or that the client said it knows."""
        raise NotImplementedError

    def offer(self, message: Any, frame: bytes, /) -> bool:
        """Send `frame` if the message is new. Returns whether it was. The hub calls this, too."""
        raise NotImplementedError

    def on_text(self, text: str) -> None:
        """Text from the browser is ignored by default."""

    def _on_finished(self) -> None:
        """Called after a terminal status has been sent."""

    # Called by the endpoint

    def send_heartbeat(self) -> bool:
        """Send a heartbeat, unless the transport is blocked or closing. Returns whether it was sent."""
        if self.transport.blocked_at is not None or self.closing is not None:
            return False
        self.transport.send_heartbeat(HEARTBEAT)
        return True

    def close(self, bye: Bye | None, code: CloseCode) -> None:
        """Send `bye`, which says why, and close. An unsent frame is sent first."""
        if self.closing is None:
            self.closing = (bye, code)
            self.flush()

    # Called by the transport

    def flush(self) -> None:
        """Send the unsent frame and the close, unless the transport is blocked."""
        if self._frame is not None and self.transport.blocked_at is None:
            frame, self._frame = self._frame, None
            self.transport.send(frame)
        if self.closing is not None and self.closed_at is None and self.transport.blocked_at is None:
            bye, code = self.closing
            self.closed_at = time.monotonic()
            if code is CloseCode.FINISHED:
                self._on_finished()
            if bye is not None:
                self.transport.send(encode(bye))
            self.transport.close(code)

    def on_disconnect(self) -> None:
        if self._on_end is not None:
            self._on_end(self)
            self._on_end = None
            self.transport = UNOPENED  # breaks the reference cycle

    @property
    def ended(self) -> bool:
        return self._on_end is None

    def _enqueue(self, frame: bytes) -> None:
        if self.closing is None and self.transport.blocked_at is None:
            self.transport.send(frame)
        elif self.closed_at is None:
            self._frame = frame
            self.flush()


class VerifiedSession(WebSocketSession):
    """Sends the status of what a payment is for, and has it verified meanwhile. A terminal status ends it."""

    __slots__ = ("_answered", "_stage", "status", "verified_at")

    def __init__(self, key: str, account_id: int | None, services: Services) -> None:
        super().__init__(key, account_id, services)
        self._stage: Stage | None = None
        self._answered = False
        """Whether Stripe has been asked since the session was opened."""
        self.status: StatusMessage | CheckoutMessage | None = None
        self.verified_at = float("-inf")

    def _may_verify(self) -> bool:
        """Count a verification that the session causes. Returns whether it is within its limit."""
        raise NotImplementedError

    def start(self, on_end: Callable[[WebSocketSession], None]) -> None:
        super().start(on_end)
        if self.via is not Via.LONG_POLL:
            self._services.timeline.note(self.key, TimelineEventType.SOCKET_OPENED, **self._transport_detail)
        # Verify before the handshake completes, unless too many were caused already.
        self._services.verification_queue.add(self.key, at_once=self._may_verify())

    def on_disconnect(self) -> None:
        if not self.ended:
            self._services.verification_queue.remove(self.key)
            bye, code = self.closing or (None, None)
            delivered = code is CloseCode.FINISHED and self.closed_at is not None  # recorded as such
            if not delivered and self.via is not Via.LONG_POLL:
                self._services.timeline.note(
                    self.key, TimelineEventType.SOCKET_LOST, reason=bye.reason if bye else None
                )
        super().on_disconnect()

    @property
    def _transport_detail(self) -> dict[str, Any]:
        return {} if self.via is Via.WEBSOCKET else {"transport": self.via.value}

    def on_text(self, text: str) -> None:
        at = time.monotonic()
        if is_verify(text) and at - self.verified_at >= MIN_VERIFY_INTERVAL_S:
            self.verified_at = at
            if self._may_verify():
                self._services.verification_queue.prioritize(self.key)

    @property
    def known_version(self) -> int:
        return self.since - 1 if self.status is None else self.status.version

    def offer(self, status: StatusMessage | CheckoutMessage, frame: bytes) -> bool:
        """Send `frame` unless this version or a later one was offered before."""
        if status.version <= self.known_version:
            return False
        self._stage = status.stage
        if self.status is None:
            checking = self._services.verification_queue.is_checking(self.key)
            self._stage = opening_stage(status.stage, self._answered, checking)
        self.status = status
        if self._stage is not status.stage:
            frame = encode(msgspec.structs.replace(status, stage=self._stage))
        if status.terminal and self.closing is None:
            self.closing = (None, CloseCode.FINISHED)
        self._enqueue(frame)
        return True

    def offer_stage(self, stage: Stage) -> None:
        self._answered = True
        if self.status is None or self.status.terminal or stage is self._stage:
            return
        self._stage = stage
        self._enqueue(encode(msgspec.structs.replace(self.status, stage=stage)))

    def _on_finished(self) -> None:
        assert self.status is not None
        waited_s = time.monotonic() - self.opened_at
        waited_ms = round(waited_s * 1000, 1)
        self._services.timeline.note(
            self.key,
            TimelineEventType.DELIVERED,
            status=self.status.status,
            waited_ms=waited_ms,
            **self._transport_detail,
        )
        traceparent = getattr(self.status, "traceparent", None) or None
        if traceparent:
            told: dict[str, Any] = {
                "paidup.status": self.status.status.value,
                "paidup.source": self.status.via,
            }
            tracing.record(f"wait {self.kind}", traceparent, waited_s, told)
        if self.status.via is not None and self.via is not Via.LONG_POLL:  # its wait began long before
            seconds = self._services.metrics.activation_seconds.labels(self.status.via)
            seconds.observe(waited_s, {"trace_id": traceparent[3:35]} if traceparent else None)


class InvoiceSession(VerifiedSession):
    """On one invoice."""

    topic = INVOICES
    kind = "invoice"
    __slots__ = ()

    @classmethod
    def from_ticket(cls, scope: Scope, ticket: str, services: Services) -> InvoiceSession:
        invoice = scope["path_params"]["invoice"]
        return cls(invoice, services.tickets.check(ticket, invoice), services)

    def _may_verify(self) -> bool:
        assert self.account_id is not None
        return self._services.account_limits.may_verify(self.account_id)


class CheckoutSocketSession(VerifiedSession):
    """On one Checkout Session, for those who know its id: limits count by address, since nobody is named."""

    topic = CHECKOUTS
    kind = "checkout"
    opens_from_own_page = True
    __slots__ = ()

    @classmethod
    def from_ticket(cls, scope: Scope, ticket: str, services: Services) -> CheckoutSocketSession:
        checkout = scope["path_params"]["checkout"]
        services.tickets.check_checkout(ticket, checkout)
        return cls(checkout, None, services)

    def _may_verify(self) -> bool:
        return self._services.address_limits.may_verify(self.address)


class AccountSession(WebSocketSession):
    """Sends each change of one account's balance. Ends only with SOCKET_MAX_LIFETIME_S."""

    topic = ACCOUNTS
    kind = "account"
    __slots__ = ("_version",)

    def __init__(self, key: int, services: Services) -> None:
        super().__init__(key, key, services)
        self._version = -1

    @classmethod
    def from_ticket(cls, scope: Scope, ticket: str, services: Services) -> AccountSession:
        return cls(services.tickets.account_of(ticket), services)

    @property
    def known_version(self) -> int:
        return max(self._version, self.since - 1)

    def offer(self, balance: BalanceMessage, frame: bytes) -> bool:
        """Send `frame` unless this version or a later one was offered before."""
        if balance.version <= self.known_version:
            return False
        self._version = balance.version
        self._enqueue(frame)
        return True
