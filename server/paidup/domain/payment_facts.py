"""What is known about a payment, whoever said it.

A webhook, a verification and the reconciler each gather `PaymentFacts`; `decisions.py` turns them
into a decision. Amounts are integers in the currency's smallest unit, times are Unix seconds
as Stripe gives them.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Source(StrEnum):
    """Which of the three roads brought the facts."""

    VERIFICATION = "verification"
    WEBHOOK = "webhook"
    RECONCILIATION = "reconciliation"


class Attempt(StrEnum):
    """How the latest attempt to pay an invoice went, where only that is known."""

    FAILED = "failed"
    ACTION_REQUIRED = "action_required"


class LineFacts(msgspec.Struct, frozen=True):
    """One invoice line. `amount_minor` is before discounts and exclusive taxes, negative for a credit.

    `discount_minor` is what discounts take off it, of the same sign.
    """

    price: str | None
    amount_minor: int
    quantity: int
    proration: bool
    period_start: int
    period_end: int
    discount_minor: int = 0


class InvoiceFacts(msgspec.Struct, frozen=True):
    """An invoice as Stripe showed it. `lines_complete` is False where Stripe cut the list off."""

    id: str
    status: str | None
    customer: str | None
    currency: str
    amount_due_minor: int
    amount_paid_minor: int
    amount_remaining_minor: int
    total_minor: int
    """After discounts, taxes and credit notes before payment, before the customer's Stripe balance.

    Below zero where money goes back.
    """
    from_balance_minor: int
    """What of it the customer's Stripe balance pays."""
    finalized_at: int | None
    sequence: int
    """The running number that Stripe gave it when it was finalised; 0 before."""
    billing_reason: str | None
    subscription: str | None
    created: int
    lines: tuple[LineFacts, ...]
    lines_complete: bool = True
    intent: str | None = None
    """The default payment's PaymentIntent, where the source shows it."""
    account: str | None = None
    """The account's external id that Paidup put into the metadata."""


class PaymentError(msgspec.Struct, frozen=True, omit_defaults=False):
    """Why an attempt to pay failed, in words that the customer may read."""

    code: str
    message: str
    decline_code: str | None = None


class IntentFacts(msgspec.Struct, frozen=True):
    """A PaymentIntent that an InvoicePayment links to the invoice.

    `invoice` is what Stripe's InvoicePayment names, None where the source of the facts (an
    event about the intent alone) shows no link; the link is then proved by what was stored.
    """

    intent: str
    status: str
    customer: str | None
    currency: str
    amount_minor: int
    amount_received_minor: int
    invoice: str | None = None
    error: PaymentError | None = None


class PaymentFacts(msgspec.Struct, frozen=True):
    """All that one source says: an invoice with its payments, or a payment alone.

    `attempt` is what an `invoice.payment_failed` or `invoice.payment_action_required` event
    says by its type, since its object shows no payment. `dated` marks what an event's payload
    shows: the state when the event was made, which may be older than what is known already.
    `event` is the stored event that says all this: what it changes here marks it handled, too.
    """

    invoice: InvoiceFacts | None = None
    payments: tuple[IntentFacts, ...] = ()
    attempt: Attempt | None = None
    dated: bool = False
    event: str | None = None
