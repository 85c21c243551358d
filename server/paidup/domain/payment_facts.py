"""Facts about a payment, in one shape for all sources.

Webhooks, verification and the reconciler each produce `PaymentFacts`; `decisions.py` decides on them.
Amounts are integers in the currency's smallest unit, times are Unix seconds, as in Stripe's API.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from paidup.domain.delayed_methods import Voucher


class Source(StrEnum):
    """Where the facts came from."""

    VERIFICATION = "verification"
    WEBHOOK = "webhook"
    RECONCILIATION = "reconciliation"
    OPERATOR = "operator"
    """An operator's word: it was paid outside of Stripe."""


class Attempt(StrEnum):
    """The outcome of the latest payment attempt, if nothing more is known."""

    FAILED = "failed"
    ACTION_REQUIRED = "action_required"


class LineFacts(msgspec.Struct, frozen=True):
    """One invoice line. `amount_minor` is before discounts and exclusive taxes, negative for a credit.

    `discount_minor` is the discount on it, with the same sign. A price with tax included has the tax in its
    lines, too. `currency` is the line's; empty where the source does not say: then it is the price's own.
    """

    price: str | None
    amount_minor: int
    quantity: int
    proration: bool
    period_start: int
    period_end: int
    discount_minor: int = 0
    currency: str = ""
    product: str | None = None


class InvoiceFacts(msgspec.Struct, frozen=True):
    """An invoice as Stripe returned it. `lines_complete` is False if Stripe truncated the list."""

    id: str
    status: str | None
    customer: str | None
    currency: str
    amount_due_minor: int
    amount_paid_minor: int
    amount_remaining_minor: int
    total_minor: int
    """After discounts, taxes and credit notes before payment, before the customer's Stripe balance.

    Negative if money goes to that balance.
    """
    from_balance_minor: int
    """The part that the customer's Stripe balance pays."""
    finalized_at: int | None
    sequence: int
    """Stripe's sequence number, assigned when the invoice is finalized; 0 before."""
    billing_reason: str | None
    subscription: str | None
    created: int
    lines: tuple[LineFacts, ...]
    lines_complete: bool = True
    intent: str | None = None
    """The default payment's PaymentIntent, if the source shows it."""
    shows_payments: bool = True
    """False where the source shows no payments: then an invoice without an intent may have one."""
    written_off: bool = False
    """Credit notes before payment left nothing to pay, so Stripe calls it paid; nobody paid anything."""
    account: str | None = None
    """The account's external id, which Paidup writes to the metadata."""
    checkout: str | None = None
    """The Checkout Session that it came from, if the source shows it."""


class PaymentError(msgspec.Struct, frozen=True, omit_defaults=False):
    """Why an attempt to pay failed, in text for the customer."""

    code: str
    message: str
    decline_code: str | None = None


class IntentFacts(msgspec.Struct, frozen=True):
    """A PaymentIntent that an InvoicePayment links to the invoice.

    `invoice` is what Stripe's InvoicePayment names. None if the source (an event about the intent alone)
    shows no link; then the link is checked against the stored intent. `method` is the type of the payment
    method (`sepa_debit`), where the source shows it. `voucher`: it waits for this one to be paid.
    """

    intent: str
    status: str
    customer: str | None
    currency: str
    amount_minor: int
    amount_received_minor: int
    invoice: str | None = None
    error: PaymentError | None = None
    method: str | None = None
    voucher: Voucher | None = None


class PaymentFacts(msgspec.Struct, frozen=True):
    """What one source shows: an invoice with its payments, or a payment alone.

    `attempt` is the outcome that the type of an `invoice.payment_failed` or `invoice.payment_action_required`
    event implies; its object shows no payment. `dated`: the facts are from an event's payload, the state
    when the event was created, which may be older than the row. `event` is the id of the stored event, which
    the same transaction marks handled.
    """

    invoice: InvoiceFacts | None = None
    payments: tuple[IntentFacts, ...] = ()
    attempt: Attempt | None = None
    dated: bool = False
    event: str | None = None
