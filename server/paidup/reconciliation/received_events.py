"""Handles a delivered event and stores it as handled, by one statement that those of the same moment share.

For most events: those of a payment that say nothing new, or of a type that nothing is done with; those that
settle an invoice, which are stored in the transaction that moves the balance; and those that say that a
subscription has begun. For any other nothing is done here: it is stored first, then handled, then marked
(`stripe_events.py`). So is one that exists already, and one of which something fails. Makes no call to Stripe
before the event is stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import msgspec

from paidup.db.bulk import insert_missing
from paidup.db.connection import storage_errors
from paidup.db.instances import new_row
from paidup.db.models import EventSource, StripeEvent
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.payments.outcomes import EventOutcome
from paidup.payments.timeline import Timeline, TimelineEventType
from paidup.payments.verification import Verification
from paidup.realtime.status_queries import read_statuses
from paidup.reconciliation.stripe_events import (
    ATTEMPTS,
    DRAFT_TYPES,
    INTENT_TYPES,
    INVOICE_PAYMENT_TYPES,
    INVOICE_TYPES,
    SUBSCRIPTION_CREATED,
    SUBSCRIPTION_TYPES,
    UNPAID_STATUSES,
    Events,
)
from paidup.runtime.batching import BatchExecutor
from paidup.runtime.clock import now
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.events import Event, payload
from paidup.stripe_api.schemas import InvoicePayment, PaymentIntent, StripeInvoice, StripeSubscription
from paidup.subscriptions.beginnings import Beginnings
from paidup.subscriptions.renewals import Renewals
from paidup.subscriptions.sync import News, SubscriptionSync

_COLUMNS = (
    *("id", "type", "api_version", "payload", "source", "received_at"),
    *("handled_at", "attempts", "outcome"),
)


class _Done(NamedTuple):
    """What handling the event resulted in, and the invoice whose timeline says that it was received.

    `stored`: the settlement has stored it.
    """

    outcome: EventOutcome
    invoice: str | None = None
    stored: bool = False


_Result = _Done | None
"""None: it has to be stored first."""
T = TypeVar("T")
R = TypeVar("R")


class ReceivedEvents:
    def __init__(
        self,
        events: Events,
        verification: Verification,
        subscriptions: SubscriptionSync,
        beginnings: Beginnings,
        timeline: Timeline,
    ) -> None:
        self._events = events
        self._verification = verification
        self._timeline = timeline
        self._store = BatchExecutor(self._giving_way(_store))
        self._read_final = BatchExecutor(self._giving_way(_read_final))
        self._beginnings = beginnings
        self._read_known = BatchExecutor(self._giving_way(subscriptions.read_known))
        handlers: dict[Callable[[Event, StripeEvent], Awaitable[_Result]], tuple[str, ...]] = {
            self._invoice: tuple(kind for kind in INVOICE_TYPES if kind not in ATTEMPTS),
            self._intent: INTENT_TYPES,
            self._draft: DRAFT_TYPES,
            self._invoice_payment: INVOICE_PAYMENT_TYPES,
            self._subscription: SUBSCRIPTION_TYPES,
        }
        self._handlers = {kind: handler for handler, kinds in handlers.items() for kind in kinds}

    async def __call__(self, event: Event, body: str, received_at: datetime) -> EventOutcome | None:
        """The outcome. None, with nothing done, where the event has to be stored first.

        Raises StorageUnavailable, and whatever a bug raises: then nothing is done, or all of it.
        """
        row = new_row(
            StripeEvent,
            id=event.id,
            type=event.type[:100],
            api_version=event.api_version,
            payload=body,
            source=EventSource.WEBHOOK,
            received_at=received_at,
            attempts=1,
        )
        done = await self._handle(event, row)
        if done is None:
            return None
        if not done.stored:
            row.handled_at, row.outcome = now(), done.outcome
            if not await self._store(row):
                return None
        if done.invoice is not None:
            kind = TimelineEventType.WEBHOOK_RECEIVED
            self._timeline.note(done.invoice, kind, row.received_at, type=event.type, event=event.id)
        return done.outcome

    def _giving_way(self, do: Callable[[Sequence[T]], Awaitable[R]]) -> Callable[[Sequence[T]], Awaitable[R]]:
        """`do`, which no customer waits for, once the settlements that some wait for are made."""

        async def later(items: Sequence[T]) -> R:
            await self._verification.give_way()
            return await do(items)

        return later

    async def _handle(self, event: Event, row: StripeEvent) -> _Result:
        if not self._events.is_of_our_account(event, EventSource.WEBHOOK):
            return _Done(EventOutcome.OTHER_ACCOUNT)
        if not self._events.has_handler(event):
            return _Done(EventOutcome.UNHANDLED_TYPE)
        handler = self._handlers.get(event.kind)
        return await handler(event, row) if handler else None

    async def _invoice(self, event: Event, row: StripeEvent) -> _Result:
        invoice = payload(event, StripeInvoice, API_VERSION)
        if invoice is None:
            return None
        return await self._settle(msgspec.structs.replace(invoice.facts(), dated=True), row)

    async def _intent(self, event: Event, row: StripeEvent) -> _Result:
        intent = payload(event, PaymentIntent, API_VERSION)
        if intent is None:
            return None
        return await self._settle(PaymentFacts(payments=(intent.facts(),), dated=True), row)

    async def _settle(self, facts: PaymentFacts, row: StripeEvent) -> _Result:
        settled = await self._verification.settle_received(facts, Source.WEBHOOK, row)
        if settled is None:
            return None
        return _Done(EventOutcome(settled.outcome.value), settled.invoice, settled.event_marked)

    async def _draft(self, event: Event, row: StripeEvent) -> _Result:
        draft = payload(event, StripeInvoice, API_VERSION)
        return None if draft and Renewals.renews(draft) else _Done(EventOutcome.SKIPPED)

    async def _invoice_payment(self, event: Event, row: StripeEvent) -> _Result:
        link = payload(event, InvoicePayment, API_VERSION)
        if link is None:
            return _Done(EventOutcome.SKIPPED)
        is_final = await self._read_final(link.invoice)
        if not is_final and await self._verification.under_way.ended(link.invoice):
            is_final = await self._read_final(link.invoice)  # by the event that came beside this one
        return _Done(EventOutcome.SKIPPED, link.invoice) if is_final else None

    async def _subscription(self, event: Event, row: StripeEvent) -> _Result:
        shown = payload(event, StripeSubscription, API_VERSION)
        if shown is None or shown.status in UNPAID_STATUSES:
            return None
        news = await self._read_known((shown, event.kind == SUBSCRIPTION_CREATED))
        if news is News.BEGUN:
            row.handled_at, row.outcome = now(), EventOutcome.UNCHANGED
            if await self._beginnings(shown, row):
                return _Done(EventOutcome.UNCHANGED, stored=True)
        return _Done(EventOutcome.UNCHANGED) if news is News.NONE else None


async def _store(rows: Sequence[StripeEvent]) -> list[bool]:
    """Store handled events. False for one that exists."""
    by_id = {row.id: row for row in reversed(rows)}
    in_order = sorted(by_id)  # so that two processes storing the same events cannot deadlock
    values = [[getattr(by_id[id], name) for name in _COLUMNS] for id in in_order]
    with storage_errors():
        new = await insert_missing(StripeEvent, _COLUMNS, values)
    return [row is by_id[row.id] and row.id in new for row in rows]


async def _read_final(invoices: Sequence[str]) -> list[bool]:
    """Which of these invoices need no verification any more."""
    with storage_errors():
        final = {status.invoice for status in await read_statuses(invoices) if status.terminal}
    return [invoice in final for invoice in invoices]
