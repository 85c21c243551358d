"""Facts about a payment -> what to do about its invoice.

Owns the rule of when to grant (STRIPE's "When to grant"), which statuses end the wait, and
what a browser is told meanwhile. Pure: the row and the facts are handed in, a `Decision`
comes out, and `settlement.py` carries it out.

Money is only ever believed from Stripe's own words, in one of two forms: the invoice is
paid; or a succeeded PaymentIntent is linked to this invoice, names the same customer and
currency, and received what is due. The second form closes the seconds in which Stripe
shows a succeeded intent beside a still open invoice.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from paidup.domain.payment_facts import Attempt, IntentFacts, InvoiceFacts, PaymentError, PaymentFacts


class InvoiceStatus(StrEnum):
    """What Paidup says of an invoice. ACTIVE, VOID and REVERSED end the wait."""

    OPEN = "open"
    REQUIRES_ACTION = "requires_action"
    PROCESSING = "processing"
    ACTIVE = "active"
    FAILED = "failed"
    VOID = "void"
    REVERSED = "reversed"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({InvoiceStatus.ACTIVE, InvoiceStatus.VOID, InvoiceStatus.REVERSED})


class Verdict(StrEnum):
    """What the facts call for."""

    GRANT = "grant"
    ALREADY_GRANTED = "already_granted"
    NOTIFY = "tell"
    """Nothing to grant; the browser hears of a new status or error."""
    NOTHING_NEW = "nothing_new"
    REFETCH = "ask"
    """An event contradicts what is known and may be older than it: only Stripe knows what holds now."""
    REFUSE = "refuse"
    """The facts do not belong to this invoice: nothing changes, and it is noted."""


class InvoiceSnapshot(msgspec.Struct, frozen=True):
    """What our row says of the invoice, before these facts."""

    invoice: str
    status: InvoiceStatus
    customer: str
    currency: str
    amount_due_minor: int
    """What the invoice asks for in all, whatever part of it was paid."""
    intent: str | None
    error: PaymentError | None = None


class Decision(msgspec.Struct, frozen=True):
    verdict: Verdict
    status: InvoiceStatus
    reason: str
    error: PaymentError | None = None


def decide(known: InvoiceSnapshot, facts: PaymentFacts) -> Decision:
    """What to do about `known`, given `facts`. Never grants twice, never believes a stranger."""
    if known.status in (InvoiceStatus.ACTIVE, InvoiceStatus.REVERSED):
        return Decision(Verdict.ALREADY_GRANTED, known.status, "already settled")
    invoice = facts.invoice
    if mismatch := _mismatch(known, invoice):
        return Decision(Verdict.REFUSE, known.status, mismatch)
    if invoice and invoice.status == "paid":
        return Decision(Verdict.GRANT, InvoiceStatus.ACTIVE, "the invoice is paid")

    if invoice and invoice.status == "void":
        return _tell(known, InvoiceStatus.VOID, "the invoice is void")

    # In all, not what remains: a part that was received before has lowered what remains already.
    due = invoice.amount_paid_minor + invoice.amount_remaining_minor if invoice else known.amount_due_minor
    ours = [payment for payment in facts.payments if not _strange(known, payment)]
    received = sum(p.amount_received_minor for p in ours if p.status == "succeeded")
    if received and received >= due:
        return Decision(Verdict.GRANT, InvoiceStatus.ACTIVE, "the linked payments cover what is due")
    if facts.payments and not ours:
        return Decision(Verdict.REFUSE, known.status, _strange(known, facts.payments[0]) or "")
    if received:
        return Decision(Verdict.NOTHING_NEW, known.status, f"{received} of {due} received")
    decision = _from_attempts(known, facts, ours)
    if facts.dated and decision.verdict is Verdict.NOTIFY and _contradicts(known, decision):
        return Decision(Verdict.REFETCH, known.status, f"{decision.reason}, or was", known.error)
    return decision


def _contradicts(known: InvoiceSnapshot, decision: Decision) -> bool:
    """Whether another attempt's news is overwritten. Events come in any order."""
    return known.status not in (InvoiceStatus.OPEN, decision.status)


def _mismatch(known: InvoiceSnapshot, invoice: InvoiceFacts | None) -> str | None:
    if invoice is None:
        return None
    if invoice.id != known.invoice:
        return f"the facts name another invoice, {invoice.id}"
    if invoice.customer != known.customer:
        return f"the invoice names another customer, {invoice.customer}"
    if invoice.currency != known.currency:
        return f"the invoice is in another currency, {invoice.currency}"
    return None


def _strange(known: InvoiceSnapshot, payment: IntentFacts) -> str | None:
    """Why this payment does not count for this invoice, or None."""
    linked = payment.invoice == known.invoice or (payment.invoice is None and payment.intent == known.intent)
    if not linked:
        return f"the payment {payment.intent} is not linked to this invoice"
    if payment.customer != known.customer:
        return f"the payment {payment.intent} names another customer"
    if payment.currency != known.currency:
        return f"the payment {payment.intent} is in another currency"
    return None


CANCELED = PaymentError("canceled", "The payment was canceled. Please start again.")
GIVEN_UP = PaymentError("uncollectible", "The invoice was given up. Please start again.")
ATTEMPT_FAILED = PaymentError("payment_failed", "The payment did not go through.")

_ATTEMPT_STATUSES = {
    "processing": InvoiceStatus.PROCESSING,
    "requires_action": InvoiceStatus.REQUIRES_ACTION,
    "requires_confirmation": InvoiceStatus.OPEN,
    "requires_payment_method": InvoiceStatus.OPEN,
    "canceled": InvoiceStatus.FAILED,
}


def _from_attempts(known: InvoiceSnapshot, facts: PaymentFacts, payments: list[IntentFacts]) -> Decision:
    """The status that the latest attempt shows, where nothing is to be granted."""
    if payments:
        return _from_payment(known, payments[-1])
    if facts.invoice and facts.invoice.status == "uncollectible":
        # Not terminal: Stripe lets an uncollectible invoice be paid after all.
        return _tell(known, InvoiceStatus.FAILED, "the invoice is uncollectible", GIVEN_UP)
    if facts.attempt is Attempt.ACTION_REQUIRED:
        return _tell(known, InvoiceStatus.REQUIRES_ACTION, "the bank asks for a check")
    if facts.attempt is Attempt.FAILED and known.status is not InvoiceStatus.FAILED:
        # An intent's own event says why; this one must not overwrite it.
        return _tell(known, InvoiceStatus.FAILED, "an attempt to pay failed", ATTEMPT_FAILED)
    return Decision(Verdict.NOTHING_NEW, known.status, "awaiting payment", known.error)


def _from_payment(known: InvoiceSnapshot, payment: IntentFacts) -> Decision:
    status, error = _ATTEMPT_STATUSES.get(payment.status), payment.error
    if status is None:  # requires_capture, or a status that Stripe adds one day
        reason = f"unexpected intent status {payment.status}"
        return Decision(Verdict.NOTHING_NEW, known.status, reason, known.error)
    if payment.status == "requires_payment_method" and error:
        status = InvoiceStatus.FAILED
    if payment.status == "canceled":
        error = CANCELED
    reason = f"the payment is {payment.status}"
    return _tell(known, status, reason, error if status is InvoiceStatus.FAILED else None)


def _tell(
    known: InvoiceSnapshot, status: InvoiceStatus, reason: str, error: PaymentError | None = None
) -> Decision:
    if known.status.terminal or (status is known.status and error == known.error):
        return Decision(Verdict.NOTHING_NEW, known.status, reason, known.error)
    return Decision(Verdict.NOTIFY, status, reason, error)
