"""The report of `paidup explain`: what is known of an invoice, and of every invoice of a reference."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.delayed_methods import ProcessingPayment
from paidup.domain.stages import Stage
from paidup.operations.audit_log import Corrected
from paidup.operations.event_deliveries import DeliveryDetails


class StoredEvent(msgspec.Struct, frozen=True):
    """A stored Stripe event. `unknown_reference` is the unknown customer or prices that keep it unhandled."""

    id: str
    type: str
    received_at: datetime
    handled_at: datetime | None
    attempts: int
    next_attempt_at: datetime | None
    outcome: str | None
    error: str | None
    invoice: str | None = None
    unknown_reference: str | None = None

    @property
    def given_up(self) -> bool:
        return self.handled_at is None and self.next_attempt_at is None


class TimelineEvent(msgspec.Struct, frozen=True):
    """One entry of the timeline. `after_ms` counts from the invoice's creation."""

    at: datetime
    after_ms: int
    event_type: str
    detail: dict[str, Any]


class GrantDetails(msgspec.Struct, frozen=True):
    """A grant of the invoice. `frozen` credits are withheld by a dispute. `unit` unset: the default one."""

    credits: int
    remaining: int
    state: str
    expires_at: datetime | None
    frozen: int = 0
    unit: str | msgspec.UnsetType = msgspec.UNSET


class InvoiceDetails(msgspec.Struct, frozen=True):
    """The stored row of an invoice."""

    account: str
    customer: str
    subscription: str | None
    payment_intent: str | None
    plan: str | None
    billing_reason: str | None
    amount_due_minor: int
    currency: str
    status: InvoiceStatus
    stage: Stage
    error: dict[str, Any] | None
    processing: ProcessingPayment | None
    version: int
    published_version: int
    credits: int
    credits_reversed: int
    settled_via: str | None
    settled_at: datetime | None
    next_check_at: datetime | None
    checks_made: int
    created_at: datetime


class InvoiceReport(msgspec.Struct, frozen=True):
    """One invoice. `details` is None if only events of it are stored."""

    invoice: str
    details: InvoiceDetails | None
    grants: list[GrantDetails]
    timeline: list[TimelineEvent]
    events: list[StoredEvent]
    pending_steps: list[str]
    recommendation: str
    deliveries: list[DeliveryDetails] = []
    """Deliveries of the invoice's outbound events, newest first."""


class SessionDetails(msgspec.Struct, frozen=True):
    """The row of a session. `account` is None where it belongs to nobody yet."""

    checkout: str
    status: str
    payment_status: str
    account: str | None
    purchase: str | None
    plan: str | None
    amount_minor: int | None
    currency: str | None
    invoice: str | None
    subscription: str | None
    superseded_by: str | None
    duplicate_of: str | None
    resolution: str | None
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime
    next_check_at: datetime | None
    customer: str | None = None
    client_reference: str | None = None
    """The account that it names, whether there is one or not."""


class Explanation(msgspec.Struct, frozen=True):
    """All that is known of `reference`, newest invoice and Checkout Session first.

    `older_invoices` counts the invoices that are left out. `other_events` mention the reference and
    had no effect: handling them failed, or their type is not handled.
    """

    reference: str
    at: datetime
    account: str | None
    balance: int | None
    invoices: list[InvoiceReport]
    older_invoices: int
    other_events: list[StoredEvent]
    sessions: list[SessionDetails] = []
    corrections: list[Corrected] = []
    """What operators have done to the account, newest first."""
    units: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    """The account's balances of other units than the default one."""

    @property
    def balances(self) -> str:
        """The account's balances, in one line."""
        others = (f"{credits} {unit}" for unit, credits in (self.units or {}).items())
        return ", ".join((str(self.balance), *others))

    @property
    def found(self) -> bool:
        return bool(self.account or self.invoices or self.other_events or self.sessions)
