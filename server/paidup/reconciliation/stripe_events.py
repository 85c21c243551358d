"""Stores, handles and marks Stripe events, in that order.

An event whose payload suffices costs no call to Stripe. Where it does not (another API version, or
only part of an object), the object is read through the API. Signatures are verified before (see
`web/webhooks.py`). An event's row is never deleted, and events of unknown types are stored as well.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import msgspec
import structlog

from paidup.db.bulk import insert_missing, update_many
from paidup.db.connection import storage_errors, write_transaction
from paidup.db.customers import account_id_of, forget_customer
from paidup.db.models import EventSource, Invoice, ReversalKind, StripeEvent
from paidup.domain.backoff import event_retry_s
from paidup.domain.payment_facts import Attempt, PaymentFacts, Source
from paidup.errors import StripeRefused
from paidup.payments.outcomes import EventOutcome, Outcome
from paidup.payments.refunds import ReversalHandler, decode_reversal
from paidup.payments.settlement_rules import MARK_HANDLED
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.payments.unclaimed import PARKED_UNCLAIMED
from paidup.payments.verification import Verification
from paidup.reconciliation.checkout_events import CHECKOUT_TYPES, CheckoutEvents
from paidup.runtime.batching import BatchExecutor
from paidup.runtime.clock import now
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.events import Event, payload
from paidup.stripe_api.schemas import InvoicePayment, PaymentIntent, StripeInvoice, StripeSubscription, decode
from paidup.subscriptions.renewals import Renewals
from paidup.subscriptions.sync import SubscriptionSync

log = structlog.get_logger(__name__)


class Handled(NamedTuple):
    """What handling an event resulted in, and whether the settlement has marked the event as handled."""

    outcome: EventOutcome
    marked: bool = False


Handler = Callable[[Event, Source], Awaitable[Handled]]

_STORED = ("id", "type", "api_version", "payload", "source", "received_at", "attempts", "next_attempt_at")
GRACE = timedelta(seconds=30)
"""How long the process that stored an event has to handle it, before the reconciler does."""
UNPAID_STATUSES = ("incomplete_expired", "canceled", "unpaid")
RETRYABLE_OUTCOMES = frozenset(
    {
        EventOutcome.UNKNOWN_CUSTOMER,
        EventOutcome.UNKNOWN_PRICE,
        EventOutcome.UNKNOWN_CURRENCY,
        EventOutcome.NEEDS_REFETCH,
    }
)
"""Payments that cannot be assigned yet: the event stays unhandled, is retried, and is shown to operators."""
UNCLAIMED_RETRY_S = 24 * 3600.0
"""How often an event is tried whose payment belongs to nobody yet. A claim makes it due at once."""
MAX_UNCLAIMED_ATTEMPTS = 400
"""For more than a year."""


INVOICE_TYPES = (
    "invoice.paid",
    "invoice.payment_succeeded",
    "invoice.payment_failed",
    "invoice.payment_action_required",
    "invoice.voided",
    "invoice.marked_uncollectible",
)
DRAFT_TYPES = ("invoice.created",)
INTENT_PROCESSING = "payment_intent.processing"
INTENT_TYPES = (
    "payment_intent.succeeded",
    INTENT_PROCESSING,
    "payment_intent.requires_action",
    "payment_intent.payment_failed",
    "payment_intent.canceled",
)
INVOICE_PAYMENT_TYPES = ("invoice_payment.paid",)
SUBSCRIPTION_CREATED = "customer.subscription.created"
SUBSCRIPTION_TYPES = (
    SUBSCRIPTION_CREATED,
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
)
CUSTOMER_TYPES = ("customer.deleted",)
REVERSAL_TYPES = {
    "refund.created": ReversalKind.REFUND,
    "refund.updated": ReversalKind.REFUND,
    "refund.failed": ReversalKind.REFUND,
    "charge.dispute.created": ReversalKind.DISPUTE,
    "charge.dispute.updated": ReversalKind.DISPUTE,
    "charge.dispute.closed": ReversalKind.DISPUTE,
    "charge.dispute.funds_withdrawn": ReversalKind.DISPUTE,
    "charge.dispute.funds_reinstated": ReversalKind.DISPUTE,
    "credit_note.created": ReversalKind.CREDIT_NOTE,
    "credit_note.voided": ReversalKind.CREDIT_NOTE,
}
PAYMENT_TYPES = (
    *(*INVOICE_TYPES, *DRAFT_TYPES, *INTENT_TYPES, *INVOICE_PAYMENT_TYPES),
    *(*SUBSCRIPTION_TYPES, *CUSTOMER_TYPES),
)
HANDLED_TYPES = (*PAYMENT_TYPES, *REVERSAL_TYPES, *CHECKOUT_TYPES)
"""The types that a webhook endpoint should be enabled for. Any other is stored and answered 200."""


async def store(event: Event, body: str, source: EventSource = EventSource.WEBHOOK) -> bool:
    """Store a verified event. False where it was handled before. Raises StorageUnavailable."""
    (unhandled,) = await _store([(event, body, source)])
    return unhandled


async def _store(events: Sequence[tuple[Event, str, EventSource]]) -> list[bool]:
    at = now()
    rows = [
        (event.id, event.type[:100], event.api_version, body, source, at, 0, at + GRACE)
        for event, body, source in events
    ]
    ids = [event.id for event, _, _ in events]
    with storage_errors():
        new = await insert_missing(StripeEvent, _STORED, rows)
        if len(new) == len(ids):
            return [True] * len(ids)
        done = await StripeEvent.filter(id__in=ids, handled_at__isnull=False).only("id")
    known = {row.id for row in done}
    return [id not in known for id in ids]


async def _mark(handled: Sequence[tuple[str, EventOutcome, datetime]]) -> list[None]:
    """Mark these events (id, outcome, when) as handled."""
    ordered = sorted(handled)  # in one order, so that two processes marking the same events cannot deadlock
    with storage_errors():
        await update_many(StripeEvent, MARK_HANDLED, "TRUE", ("id", "outcome", "handled_at"), ordered)
    return [None] * len(handled)


class Events:
    """Handles stored events. `handle` may be called any number of times for one event.

    `connected_account`: the one that Paidup sells for, if not for the account of its key.
    """

    def __init__(
        self,
        verification: Verification,
        reversals: ReversalHandler,
        subscriptions: SubscriptionSync,
        renewals: Renewals,
        checkouts: CheckoutEvents,
        timeline: Timeline,
        connected_account: str = "",
    ) -> None:
        self._connected_account = connected_account
        self._verification = verification
        self._reversals = reversals
        self._subscriptions = subscriptions
        self._renewals = renewals
        self._checkouts = checkouts
        self._timeline = timeline
        self._store = BatchExecutor(_store)
        self._mark = BatchExecutor(_mark)
        by_object: dict[Handler, tuple[str, ...]] = {
            self._invoice: INVOICE_TYPES,
            self._draft: DRAFT_TYPES,
            self._payment_intent: INTENT_TYPES,
            self._invoice_payment: INVOICE_PAYMENT_TYPES,
            self._subscription: SUBSCRIPTION_TYPES,
            self._customer_deleted: CUSTOMER_TYPES,
            self._checkout_session: CHECKOUT_TYPES,
            self._reversal: tuple(REVERSAL_TYPES),
        }
        self._handlers = {kind: handler for handler, kinds in by_object.items() for kind in kinds}

    async def store(self, event: Event, body: str) -> bool:
        """Store a delivered event, as `store` does, in one statement with others that arrive meanwhile."""
        return await self._store((event, body, EventSource.WEBHOOK))

    async def outcome_of(self, event_id: str, received_at: datetime | None = None) -> EventOutcome | None:
        """What handling a stored event has resulted in; None where it is not handled.

        With `received_at`: only where it was stored by the delivery of that time. Raises StorageUnavailable.
        """
        with storage_errors():
            row = await StripeEvent.get_or_none(id=event_id).only(
                "id", "received_at", "outcome", "handled_at"
            )
        if row is None or row.handled_at is None or received_at not in (None, row.received_at):
            return None
        return EventOutcome(str(row.outcome))

    def note_delivery(self, event: Event, outcome: EventOutcome) -> None:
        """Note in the timeline that an event which is handled already has been delivered."""
        if (about := event.about()).startswith(("in_", "cs_")):
            self._timeline.note(
                about,
                TimelineEventType.WEBHOOK_RECEIVED,
                type=event.type,
                event=event.id,
                outcome=outcome,
            )

    def is_of_our_account(self, event: Event, source: EventSource) -> bool:
        """A delivery names its connected account; a list shows only the account that it is read for."""
        named = event.account or event.context or ""
        return named == self._connected_account or (not named and source is EventSource.LIST)

    def has_handler(self, event: Event) -> bool:
        """Whether something is done with events of its type."""
        return event.kind in self._handlers

    async def handle(self, event: Event, source: EventSource = EventSource.WEBHOOK) -> EventOutcome:
        """Do what the event calls for, then mark it as handled.

        Credits have the source `webhook` only where Stripe delivered the event; where a list showed it,
        the source is `reconciliation`. A failure is noted on the stored event, which is retried, and
        raised.
        """
        if not self.is_of_our_account(event, source):
            # Its objects cannot be read with our calls, and the same price id may be one of theirs.
            await self._mark((event.id, EventOutcome.OTHER_ACCOUNT, now()))
            return EventOutcome.OTHER_ACCOUNT
        handler = self._handlers.get(event.kind)
        try:
            handled = (
                await handler(event, _SOURCES[source]) if handler else Handled(EventOutcome.UNHANDLED_TYPE)
            )
            if handled.outcome in RETRYABLE_OUTCOMES:
                await self._postpone(event.id, f"parked: {handled.outcome}")
                return handled.outcome
            if handled.outcome is EventOutcome.UNCLAIMED and event.kind not in CHECKOUT_TYPES:
                await self._postpone(event.id, PARKED_UNCLAIMED, UNCLAIMED_RETRY_S)
                return handled.outcome
        except Exception as error:
            await self._postpone(event.id, f"{type(error).__name__}: {error}")
            raise
        if not handled.marked:
            await self._mark((event.id, handled.outcome, now()))
        return handled.outcome

    async def retry(self, row: StripeEvent) -> None:
        """Handle a stored event. Never raises: a failed event is scheduled again, or parked."""
        try:
            await self.handle(decode(Event, row.payload), row.source)
        except Exception as error:
            log.warning("event_failed_again", stripe_event=row.id, error=str(error), exc_info=True)

    async def _postpone(self, event_id: str, error: str, at_last_every_s: float | None = None) -> None:
        """Have it tried again: at growing intervals, then not any more, or `at_last_every_s`."""
        log.warning("event_postponed", stripe_event=event_id, error=error)
        with storage_errors():
            row = await StripeEvent.get(id=event_id)
            delay = event_retry_s(row.attempts)
            if delay is None and row.attempts < MAX_UNCLAIMED_ATTEMPTS:
                delay = at_last_every_s
            await StripeEvent.filter(id=event_id).update(
                attempts=row.attempts + 1,
                error=error[:2000],
                next_attempt_at=now() + timedelta(seconds=delay) if delay is not None else None,
            )

    # One method for each kind of object

    async def _invoice(self, event: Event, source: Source) -> Handled:
        invoice = payload(event, StripeInvoice, API_VERSION)
        if invoice is None:
            return await self._refetch(event, event.about(), source)
        self._note_received(invoice.id, event, source)
        attempt = ATTEMPTS.get(event.kind)
        if attempt is Attempt.FAILED:
            await self._renewals.on_failed_attempt(invoice)
        facts = msgspec.structs.replace(invoice.facts(), attempt=attempt, dated=True, event=event.id)
        return await self._settle(invoice.id, facts, source)

    async def _draft(self, event: Event, source: Source) -> Handled:
        # It grants nothing. Of another API version: the subscription's event leads to a read.
        draft = payload(event, StripeInvoice, API_VERSION)
        outcome = await self._renewals.on_draft(draft, source) if draft else EventOutcome.SKIPPED
        return Handled(outcome)

    async def _payment_intent(self, event: Event, source: Source) -> Handled:
        intent = payload(event, PaymentIntent, API_VERSION)
        with storage_errors():
            row = await Invoice.filter(payment_intent=event.about()).only("id").first()
        if row is None:
            return await self._unknown_intent(event, intent, source)
        if intent is None:
            return await self._refetch(event, row.id, source)
        self._note_received(row.id, event, source)
        facts = PaymentFacts(payments=(intent.facts(),), dated=True, event=event.id)
        return await self._settle(row.id, facts, source)

    async def _unknown_intent(self, event: Event, intent: PaymentIntent | None, source: Source) -> Handled:
        """Its invoice is not known here. `invoice.paid` creates it; some methods take days until then."""
        takes_days = intent and (event.kind == INTENT_PROCESSING or intent.voucher)
        if intent and takes_days and intent.customer:
            with storage_errors():
                ours = await account_id_of(intent.customer)
            if ours and (settled := await self._verification.follow_intent(intent.id, source)):
                return _handled(settled.outcome)
        return Handled(EventOutcome.UNKNOWN_INVOICE)

    async def _invoice_payment(self, event: Event, source: Source) -> Handled:
        # It links an intent to an invoice but names no customer: verify, unless another event settled it.
        link = payload(event, InvoicePayment, API_VERSION)
        return await self._verify(event, link.invoice, source) if link else Handled(EventOutcome.SKIPPED)

    async def _subscription(self, event: Event, source: Source) -> Handled:
        # Event order is not guaranteed: an event is a reason to read the subscription again, at most.
        subscription = payload(event, StripeSubscription, API_VERSION)
        outcome = await self._subscriptions.on_event(
            event.about(), subscription, created=event.kind == SUBSCRIPTION_CREATED
        )
        if subscription is None or subscription.status not in UNPAID_STATUSES:
            return Handled(outcome)
        if subscription.latest_invoice_id is None:
            return Handled(outcome)
        return await self._verify(event, subscription.latest_invoice_id, source)

    async def _customer_deleted(self, event: Event, source: Source) -> Handled:
        async with write_transaction():
            known = await forget_customer(event.about(), now())
        return Handled(EventOutcome.CUSTOMER_DELETED if known else EventOutcome.IRRELEVANT)

    async def _checkout_session(self, event: Event, source: Source) -> Handled:
        self._note_received(event.about(), event, source)
        return _handled(await self._checkouts.handle(event, source))

    async def _reversal(self, event: Event, source: Source) -> Handled:
        kind = REVERSAL_TYPES[event.kind]
        # Older API versions say differently where a credit note's money went.
        other_version = kind is ReversalKind.CREDIT_NOTE and event.api_version != API_VERSION
        if event.data is None or other_version:
            return _handled(await self._reversals.read_and_handle(kind, event.about(), source))
        reversal = decode_reversal(kind, event.data.object)
        return _handled(await self._reversals.handle(reversal, source))

    # What they share

    async def _settle(self, invoice: str, facts: PaymentFacts, source: Source) -> Handled:
        settled = await self._verification.settle(facts, source)
        if settled.outcome is Outcome.NEEDS_REFETCH:
            settled, _ = await self._verification.read(invoice, source)
        return _handled(settled.outcome, settled.event_marked)

    async def _verify(self, event: Event, invoice: str, source: Source) -> Handled:
        self._note_received(invoice, event, source)
        settled = await self._verification.verify(invoice, source)
        return _handled(settled.outcome) if settled else Handled(EventOutcome.SKIPPED)

    async def _refetch(self, event: Event, invoice: str, source: Source) -> Handled:
        self._note_received(invoice, event, source)
        try:
            settled = await self._verification.refresh(invoice, source)
        except StripeRefused as error:
            if error.is_missing:
                return Handled(EventOutcome.UNKNOWN_INVOICE)
            raise
        return _handled(settled.outcome if settled else Outcome.ALREADY_SETTLED)

    def _note_received(self, invoice: str, event: Event, source: Source) -> None:
        if source is Source.WEBHOOK:
            self._timeline.note(invoice, TimelineEventType.WEBHOOK_RECEIVED, type=event.type, event=event.id)


def _handled(outcome: Outcome, marked: bool = False) -> Handled:
    return Handled(EventOutcome(outcome.value), marked)


_SOURCES = {EventSource.WEBHOOK: Source.WEBHOOK, EventSource.LIST: Source.RECONCILIATION}
ATTEMPTS = {
    "invoice.payment_failed": Attempt.FAILED,
    "invoice.payment_action_required": Attempt.ACTION_REQUIRED,
}
"""Types that tell of an attempt to pay, and its outcome."""
