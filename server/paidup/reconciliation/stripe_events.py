"""Stripe's events: stored first, handled second, marked after.

Owns the table of events and what each type means. An event whose payload suffices costs no
call to Stripe; one of another API version, or one that shows only part, has its object read
again through the API. Refuses to verify signatures (the edge does) and to credit (the
settlement does). An event is never deleted, and an unknown one is kept like any other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

import msgspec
import structlog

from paidup.batching import BatchExecutor
from paidup.clock import now
from paidup.db.bulk import insert_unless_there, update_many
from paidup.db.connection import storage_errors
from paidup.db.models import EventSource, ReversalKind, StripeEvent
from paidup.db.models import Invoice as InvoiceRow
from paidup.domain.backoff import event_retry_s
from paidup.domain.payment_facts import Attempt, PaymentFacts, Source
from paidup.errors import StripeRefused
from paidup.payments.refunds import ReversalHandler, decoded
from paidup.payments.settlement import HANDLED, Outcome
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.payments.verification import Verification
from paidup.stripe_api.gateway import API_VERSION
from paidup.stripe_api.schemas import Event, Invoice, InvoicePayment, PaymentIntent, Subscription, payload
from paidup.subscriptions.sync import SubscriptionSync

log = structlog.get_logger(__name__)

Handler = Callable[[Event, Source], Awaitable[str]]

_STORED = ("id", "type", "api_version", "payload", "source", "received_at", "attempts", "next_attempt_at")
GRACE = timedelta(seconds=30)
"""How long whoever stored an event has for handling it, before the reconciler tries."""
ENDED = ("incomplete_expired", "canceled", "unpaid")
RETRYABLE_OUTCOMES = frozenset({Outcome.UNKNOWN_CUSTOMER, Outcome.UNKNOWN_PRICE, Outcome.NEEDS_READING})
"""Money that we cannot place: kept unhandled, tried again, and visible."""


INVOICE_TYPES = (
    "invoice.paid",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.voided",
    "invoice.marked_uncollectible",
)
INTENT_TYPES = (
    "payment_intent.succeeded",
    "payment_intent.processing",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
)
INVOICE_PAYMENT_TYPES = ("invoice_payment.paid",)
SUBSCRIPTION_TYPES = (
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
)
REVERSAL_TYPES = {
    "refund.created": ReversalKind.REFUND,
    "refund.updated": ReversalKind.REFUND,
    "refund.failed": ReversalKind.REFUND,
    "charge.dispute.created": ReversalKind.DISPUTE,
    "charge.dispute.updated": ReversalKind.DISPUTE,
    "charge.dispute.closed": ReversalKind.DISPUTE,
    "credit_note.created": ReversalKind.CREDIT_NOTE,
    "credit_note.voided": ReversalKind.CREDIT_NOTE,
}
PAYMENT_TYPES = (*INVOICE_TYPES, *INTENT_TYPES, *INVOICE_PAYMENT_TYPES, *SUBSCRIPTION_TYPES)
HANDLED_TYPES = (*PAYMENT_TYPES, *REVERSAL_TYPES)
"""What a webhook endpoint should be enabled for. Any other type is stored and answered 200."""


async def store(event: Event, body: str, source: EventSource = EventSource.WEBHOOK) -> bool:
    """Keep a verified event. False where it was handled before. Raises StorageUnavailable."""
    (news,) = await _store([(event, body, source)])
    return news


async def _store(events: Sequence[tuple[Event, str, EventSource]]) -> list[bool]:
    at = now()
    rows = [
        (event.id, event.type[:100], event.api_version, body, source, at, 0, at + GRACE)
        for event, body, source in events
    ]
    ids = [event.id for event, _, _ in events]
    with storage_errors():
        new = await insert_unless_there(StripeEvent, _STORED, rows)
        if len(new) == len(ids):
            return [True] * len(ids)
        done = await StripeEvent.filter(id__in=ids, handled_at__isnull=False).only("id")
    known = {row.id for row in done}
    return [id not in known for id in ids]


async def _mark(handled: Sequence[tuple[str, str, datetime]]) -> list[None]:
    """These events (id, outcome, when) were handled."""
    ordered = sorted(handled)  # another process that marks the same ones does not wait for us in a ring
    with storage_errors():
        await update_many(StripeEvent, HANDLED, "TRUE", ("id", "outcome", "handled_at"), ordered)
    return [None] * len(handled)


class _Marked(str):
    """What became of an event that the settlement itself has marked."""

    __slots__ = ()


class Events:
    """Handles stored events. `handle` may be called any number of times for one event."""

    def __init__(
        self,
        verification: Verification,
        clawbacks: ReversalHandler,
        subscriptions: SubscriptionSync,
        timeline: Timeline,
    ) -> None:
        self._verification = verification
        self._clawbacks = clawbacks
        self._subscriptions = subscriptions
        self._timeline = timeline
        self._store = BatchExecutor(_store)
        self._mark = BatchExecutor(_mark)
        by_object: dict[Handler, tuple[str, ...]] = {
            self._invoice: INVOICE_TYPES,
            self._payment_intent: INTENT_TYPES,
            self._invoice_payment: INVOICE_PAYMENT_TYPES,
            self._subscription: SUBSCRIPTION_TYPES,
            self._reversal: tuple(REVERSAL_TYPES),
        }
        self._handlers = {kind: handler for handler, kinds in by_object.items() for kind in kinds}

    async def store(self, event: Event, body: str) -> bool:
        """Keep a delivered event, as `store` does, together with others that come at this moment."""
        return await self._store((event, body, EventSource.WEBHOOK))

    def note_repeated(self, event: Event) -> None:
        """It was handled before, found by a list or delivered twice: that it came is told all the same."""
        if (about := event.about()).startswith("in_"):
            self._timeline.note(
                about,
                TimelineEventType.WEBHOOK_RECEIVED,
                type=event.type,
                event=event.id,
                outcome="handled before",
            )

    async def handle(self, event: Event, source: EventSource = EventSource.WEBHOOK) -> str:
        """Do what the event calls for, then mark it handled. Returns the outcome in a word or two.

        What it credits came by webhook only where Stripe delivered it; what we found came by reconciliation.

        A failure is noted on the stored event, scheduled again, and raised.
        """
        handler = self._handlers.get(event.kind)
        try:
            outcome = await handler(event, _ROADS[source]) if handler else "not handled by design"
            if outcome in RETRYABLE_OUTCOMES:
                await self._postpone(event.id, f"parked: {outcome}")
                return outcome
        except Exception as error:
            await self._postpone(event.id, f"{type(error).__name__}: {error}")
            raise
        if not isinstance(outcome, _Marked):
            await self._mark((event.id, outcome[:200], now()))
        return str(outcome)

    async def _postpone(self, event_id: str, error: str) -> None:
        log.warning("event_postponed", stripe_event=event_id, error=error)
        with storage_errors():
            row = await StripeEvent.get(id=event_id)
            delay = event_retry_s(row.attempts)
            await StripeEvent.filter(id=event_id).update(
                attempts=row.attempts + 1,
                error=error[:2000],
                next_attempt_at=now() + timedelta(seconds=delay) if delay is not None else None,
            )

    # One method a kind of object

    async def _invoice(self, event: Event, source: Source) -> str:
        shape = payload(event, Invoice, API_VERSION)
        if shape is None:
            return await self._read_again(event, event.about(), source)
        self._received(shape.id, event, source)
        attempt = _ATTEMPTS.get(event.kind)
        facts = msgspec.structs.replace(shape.facts(), attempt=attempt, dated=True, event=event.id)
        return await self._settle(shape.id, facts, source)

    async def _payment_intent(self, event: Event, source: Source) -> str:
        intent_id = event.about()
        with storage_errors():
            row = await InvoiceRow.filter(payment_intent=intent_id).only("id").first()
        if row is None:
            return "no invoice is known for this payment"  # invoice.paid brings it
        shape = payload(event, PaymentIntent, API_VERSION)
        if shape is None:
            return await self._read_again(event, row.id, source)
        self._received(row.id, event, source)
        return await self._settle(
            row.id, PaymentFacts(payments=(shape.facts(),), dated=True, event=event.id), source
        )

    async def _invoice_payment(self, event: Event, source: Source) -> str:
        # It links, but names no customer: a hint to ask, where the others have not settled yet.
        shape = payload(event, InvoicePayment, API_VERSION)
        return await self._ask(event, shape.invoice, source) if shape else "the invoice's own events say it"

    async def _subscription(self, event: Event, source: Source) -> str:
        # Never by arrival: what a late `incomplete` says is long over. It is a reason to look, at most.
        shape = payload(event, Subscription, API_VERSION)
        outcome = await self._subscriptions.heard(event.about(), shape)
        if shape is None or shape.latest_invoice_id is None or shape.status not in ENDED:
            return outcome
        return await self._ask(event, shape.latest_invoice_id, source)

    async def _reversal(self, event: Event, source: Source) -> str:
        kind = REVERSAL_TYPES[event.kind]
        # Where a credit note's money went, older versions say otherwise.
        another_shape = kind is ReversalKind.CREDIT_NOTE and event.api_version != API_VERSION
        if event.data is None or another_shape:
            shape = await self._clawbacks.read(kind, event.about())
        else:
            shape = decoded(kind, event.data.object)
        return await self._clawbacks.take_up(shape, source)

    # What they share

    async def _settle(self, invoice: str, facts: PaymentFacts, source: Source) -> str:
        settled = await self._verification.settle(facts, source)
        if settled.outcome is Outcome.NEEDS_READING:
            settled, _ = await self._verification.read(invoice, source)
        return _Marked(settled.outcome) if settled.marked else settled.outcome

    async def _ask(self, event: Event, invoice: str, source: Source) -> str:
        self._received(invoice, event, source)
        settled = await self._verification.verify(invoice, source)
        return settled.outcome if settled else "over, unknown, or being asked"

    async def _read_again(self, event: Event, invoice: str, source: Source) -> str:
        self._received(invoice, event, source)
        try:
            settled, _ = await self._verification.read(invoice, source)
        except StripeRefused as error:
            if error.code == "resource_missing":
                return "Stripe knows no such invoice"
            raise
        return settled.outcome

    def _received(self, invoice: str, event: Event, source: Source) -> None:
        if source is Source.WEBHOOK:
            self._timeline.note(invoice, TimelineEventType.WEBHOOK_RECEIVED, type=event.type, event=event.id)


_ROADS = {EventSource.WEBHOOK: Source.WEBHOOK, EventSource.LIST: Source.RECONCILIATION}
_ATTEMPTS = {
    "invoice.payment_failed": Attempt.FAILED,
    "invoice.payment_action_required": Attempt.ACTION_REQUIRED,
}
