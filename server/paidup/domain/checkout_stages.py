"""What is told of a Checkout Session: its status, its stage, and a version that only grows.

A session says nothing of credits: once it has become an invoice, the invoice's row does. Before that,
only Stripe's word for the session is known. A session that is complete is one whose customer has done
their part: it is never shown as awaiting a payment.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.stages import DELAYED_AFTER, Stage, is_provisioning, stage_of

INVOICE_VERSION_OFFSET = 2
"""Added to the invoice's version, which begins with 1: beyond every version of a session without one."""


class LinkedInvoice(msgspec.Struct, frozen=True):
    """The row of the invoice that a session has become."""

    status: InvoiceStatus
    version: int
    payment_seen_at: datetime | None
    provisioning_until: datetime | None = None


class SessionFacts(msgspec.Struct, frozen=True):
    """A session's row. `status` and `payment_status` are Stripe's words."""

    status: str
    payment_status: str
    claimed: bool
    """Whether it belongs to an account."""
    completed_at: datetime | None
    invoice: LinkedInvoice | None


class CheckoutState(msgspec.Struct, frozen=True):
    """What browsers are told."""

    status: InvoiceStatus
    stage: Stage
    version: int


def checkout_state(facts: SessionFacts, at: datetime) -> CheckoutState:
    """The state of the session at the time `at`."""
    if facts.invoice is None:
        return _without_invoice(facts, at)
    row = facts.invoice
    if is_provisioning(row.status, row.provisioning_until, at):
        return CheckoutState(InvoiceStatus.OPEN, Stage.PROVISIONING, row.version - 1 + INVOICE_VERSION_OFFSET)
    stage = stage_of(row.status, row.payment_seen_at, at)
    if stage is Stage.AWAITING_PAYMENT and facts.status == "complete":
        stage = _completed_stage(facts, at)
    return CheckoutState(row.status, stage, row.version + INVOICE_VERSION_OFFSET)


def _without_invoice(facts: SessionFacts, at: datetime) -> CheckoutState:
    if facts.status == "expired":
        return CheckoutState(InvoiceStatus.VOID, Stage.VOID, 2)
    if facts.status != "complete":
        return CheckoutState(InvoiceStatus.OPEN, Stage.AWAITING_PAYMENT, 0)
    stage = _completed_stage(facts, at)
    if stage is Stage.PROCESSING:
        return CheckoutState(InvoiceStatus.PROCESSING, stage, 1)
    return CheckoutState(InvoiceStatus.OPEN, stage if facts.claimed else Stage.UNCLAIMED, 2)


def _completed_stage(facts: SessionFacts, at: datetime) -> Stage:
    """Of a session that is complete, before its credits. Unpaid: by a method that takes days."""
    if facts.payment_status == "unpaid":
        return Stage.PROCESSING
    late = facts.completed_at is not None and at - facts.completed_at >= DELAYED_AFTER
    return Stage.DELAYED if late else Stage.VERIFYING
