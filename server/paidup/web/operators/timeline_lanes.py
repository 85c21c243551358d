"""The lanes of one invoice's timeline: who did what, and when. The demo's timeline has the same.

Pure: events in, lanes out. Times are milliseconds since the origin. The demo's first lane, the browser, is
missing, since a browser's own times are not recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from paidup.operations.invoice_report import TimelineEvent
from paidup.payments.timeline import TimelineEventType as Type
from paidup.web.operators.words import duration_ms

PAID = frozenset(
    {
        "invoice.paid",
        "invoice.payment_succeeded",
        "invoice_payment.paid",
        "payment_intent.succeeded",
        "checkout.session.completed",
        "checkout.session.async_payment_succeeded",
    }
)
"""Stripe's events that report a payment."""
ACTIVATION = timedelta(minutes=15)
"""What is drawn of the time before the payment was settled, and after it began."""
WEBHOOK_GIVE_UP_MS = 180_000
"""After this, a missing webhook is no longer waited for."""
_BEGINS = frozenset(
    {Type.SOCKET_OPENED, Type.VERIFICATION_ASKED, Type.WEBHOOK_RECEIVED, Type.SETTLED, Type.REFUSED}
)
"""What an activation begins with. What came before it is in the table only."""

Look = Literal["plain", "first", "late", "bad"]
SpanLook = Literal["work", "open", "wait"]


@dataclass(frozen=True)
class Dot:
    at: float
    look: Look
    text: str


@dataclass
class Span:
    """`to` None: still going on."""

    start: float
    to: float | None
    look: SpanLook


@dataclass
class Lane:
    name: str
    summary: str
    dots: list[Dot] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


@dataclass(frozen=True)
class InvoiceTimeline:
    """`settled`: when the credits were granted. `last`: the end of what is drawn. `open`: more may come."""

    lanes: list[Lane]
    settled: float | None
    last: float
    open: bool
    headline: str
    hidden: int
    """How many events came too early or too late to be drawn."""


@dataclass(frozen=True)
class _Event:
    at: float
    type: str
    detail: dict[str, Any]

    @property
    def is_paid_webhook(self) -> bool:
        return self.type == Type.WEBHOOK_RECEIVED and self.detail.get("type") in PAID

    def is_by(self, source: str) -> bool:
        return self.detail.get("source") == source


@dataclass(frozen=True)
class _Known:
    events: list[_Event]
    clock: float
    settled: float | None
    via: str | None


def build_timeline(recorded: Sequence[TimelineEvent], is_over: bool, now: datetime) -> InvoiceTimeline | None:
    """The timeline at `now`; None where nothing was recorded but that the invoice exists."""
    begun = [event for event in recorded if event.event_type in _BEGINS]
    if not begun:
        return None
    origin = _origin(begun)
    events = [
        _Event((event.at - origin).total_seconds() * 1000, event.event_type, event.detail)
        for event in recorded
        if origin <= event.at <= origin + ACTIVATION
    ]
    clock = min((now - origin).total_seconds() * 1000, ACTIVATION.total_seconds() * 1000)
    credited = next((event for event in events if event.type == Type.SETTLED), None)
    settled = credited.at if credited else None
    known = _Known(events, clock, settled, credited.detail.get("source") if credited else None)
    return InvoiceTimeline(
        lanes=[_lane(name, source, build, known) for name, source, build in _LANES],
        settled=settled,
        last=max((event.at for event in events), default=0.0),
        open=settled is None and not is_over and now - origin < ACTIVATION,
        headline=_headline(known),
        hidden=len(recorded) - len(events),
    )


def _origin(begun: Sequence[TimelineEvent]) -> datetime:
    """The first that belongs to the activation: up to a quarter of an hour before it was settled."""
    settled = next((event.at for event in begun if event.event_type == Type.SETTLED), begun[-1].at)
    return next(event.at for event in begun if settled - event.at <= ACTIVATION)


def _lane(name: str, source: str, build: Callable[[_Known], Lane], known: _Known) -> Lane:
    lane = build(known)
    lane.name = name
    if known.settled is not None and known.via == source:
        lane.dots.append(Dot(known.settled, "first", "credited"))
    return lane


def _socket(known: _Known) -> Lane:
    lane, lost, told = Lane("", ""), 0, False
    for event in known.events:
        if event.type == Type.SOCKET_OPENED:
            lane.spans.append(Span(event.at, None, "open"))
            lane.dots.append(Dot(event.at, "plain", "opened"))
        elif event.type in (Type.DELIVERED, Type.SOCKET_LOST):
            _end_open(lane.spans, event.at)
            gone = event.type == Type.SOCKET_LOST
            lost, told = lost + gone, told or not gone
            closed = "closed: server restarting" if event.detail.get("reason") == "restarting" else "lost"
            text = closed if gone else "sent to the page"
            lane.dots.append(Dot(event.at, "bad" if gone else "plain", text))
    is_open = any(span.to is None for span in lane.spans)
    before = f"lost {times(lost)}, " if lost else ""
    if told:
        lane.summary = f"{before}updated"
    elif is_open:
        lane.summary = f"{before}open"
    else:
        lane.summary = "lost" if lost else "never opened"
    return lane


def _calls(known: _Known, source: str) -> Lane:
    """Requests to Stripe by one source, each until its answer."""
    lane = Lane("", "")
    for event in known.events:
        if not event.is_by(source):
            continue
        if event.type == Type.VERIFICATION_ASKED:
            _end_open(lane.spans, event.at)  # its process ended
            lane.spans.append(Span(event.at, None, "work"))
        elif event.type in (Type.VERIFICATION_ANSWERED, Type.VERIFICATION_FAILED):
            _end_open(lane.spans, event.at)
            failed = event.type == Type.VERIFICATION_FAILED
            answer = "Stripe says paid" if _says_paid(event.detail) else "not paid yet"
            text = "Stripe did not answer" if failed else answer
            lane.dots.append(Dot(event.at, "bad" if failed else "plain", text))
    return lane


def _says_paid(detail: dict[str, Any]) -> bool:
    return (
        detail.get("invoice_status") == "paid"
        or "succeeded" in (detail.get("payments") or ())
        or detail.get("payment_status") in ("paid", "no_payment_required")
    )


def _end_open(spans: list[Span], at: float) -> None:
    for span in spans:
        if span.to is None:
            span.to = at
            return


def _verification(known: _Known) -> Lane:
    lane = _calls(known, "verification")
    asked, failed = len(lane.spans), sum(dot.look == "bad" for dot in lane.dots)
    waits = any(span.to is None for span in lane.spans)
    if known.via == "verification":
        if known.settled is not None:
            _end_open(lane.spans, known.settled)
        requests = f"{asked} {'request' if asked == 1 else 'requests'}, " if asked else ""
        lane.summary = f"{requests}first"  # without a request, a plan change has read the invoice
    elif known.settled is not None:
        late = "refused" if asked and failed == asked else "too late"
        lane.summary = "not needed" if not asked else "interrupted" if waits else late
    elif failed:
        lane.summary = f"refused {times(failed)}"
    else:
        lane.summary = "waiting for Stripe" if waits else "not paid yet" if asked else "no request yet"
    return lane


def _webhook(known: _Known) -> Lane:
    lane = _calls(known, "webhook")
    paid = [event for event in known.events if event.is_paid_webhook]
    for event in paid:
        late = known.settled is not None and event.at > known.settled
        lane.dots.append(Dot(event.at, "late" if late else "plain", str(event.detail.get("type"))))
    first = paid[0] if paid else None
    if first is None and known.clock < WEBHOOK_GIVE_UP_MS:
        lane.spans.append(Span(0, None, "wait"))
    elif first is not None and first.at > 0:
        lane.spans.append(Span(0, first.at, "wait"))
    lane.summary = _webhook_summary(known, first)
    return lane


def _webhook_summary(known: _Known, first: _Event | None) -> str:
    if first is None:
        return "not yet" if known.clock < WEBHOOK_GIVE_UP_MS else "none came"
    if known.via == "webhook":
        return f"after {duration_ms(first.at)}, first"
    if known.settled is None:
        return "received"
    if first.at >= known.settled:
        return f"{duration_ms(first.at - known.settled)} later"
    return "at the same time"


def _reconciliation(known: _Known) -> Lane:
    lane = _calls(known, "reconciliation")
    if known.via == "reconciliation":
        lane.summary = f"found after {duration_ms(known.settled or 0)}"
    elif lane.spans:
        lane.summary = "checked"
    else:
        lane.summary = "not needed" if known.settled is not None else "no check yet"
    return lane


def _redis(known: _Known) -> Lane:
    lane = Lane("", "")
    for event in known.events:
        if event.type == Type.PUBLISHED:
            lane.dots.append(Dot(event.at, "plain", "published"))
        elif event.type == Type.NOT_PUBLISHED:
            lane.dots.append(Dot(event.at, "bad", "publish failed"))
    if any(dot.look == "plain" for dot in lane.dots):
        lane.summary = "sent to all processes"
    else:
        lane.summary = "no answer" if lane.dots else "nothing published"
    return lane


_LANES: tuple[tuple[str, str, Callable[[_Known], Lane]], ...] = (
    ("Socket", "", _socket),
    ("Verification", "verification", _verification),
    ("Webhook", "webhook", _webhook),
    ("Reconciler", "reconciliation", _reconciliation),
    ("Redis", "", _redis),
)
_SOURCES = {
    "verification": "verification",
    "webhook": "the webhook",
    "reconciliation": "the reconciler",
    "operator": "an operator",
}


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _headline(known: _Known) -> str:
    """Which source was first, and what became of the webhook."""
    if known.settled is None:
        asked = sum(event.type == Type.VERIFICATION_ASKED for event in known.events)
        return f"Not credited. Stripe was asked {times(asked)}." if asked else "Not credited."
    lead = f"Credited by {_SOURCES.get(known.via or '', 'the server')}"
    webhook = next((event for event in known.events if event.is_paid_webhook), None)
    if known.via == "webhook":
        return f"{lead}."
    if webhook is None:
        return f"{lead}. No webhook has come{'' if known.clock >= WEBHOOK_GIVE_UP_MS else ' yet'}."
    if webhook.at > known.settled:
        return f"{lead}, {duration_ms(webhook.at - known.settled)} before the webhook."
    return f"{lead}; the webhook was being handled."
