"""Decides what payment facts mean for an invoice: grant, notify, refetch or refuse.

Pure: takes a snapshot of the row and the facts, and returns a `Decision`, which `settlement.py` applies.
docs/stripe.md has the rule ("When to grant").

There are two proofs of payment: Stripe shows the invoice as paid; or a succeeded PaymentIntent is linked to
this invoice, names the same customer and currency, and received the amount due. The second covers the
seconds in which Stripe shows a succeeded intent and a still open invoice.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from paidup.domain.delayed_methods import Voucher
from paidup.domain.payment_facts import Attempt, IntentFacts, InvoiceFacts, PaymentError, PaymentFacts


class InvoiceStatus(StrEnum):
    """An invoice's status in Paidup. ACTIVE, VOID and REVERSED are terminal."""

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
    """What to do with the facts."""

    GRANT = "grant"
    ALREADY_GRANTED = "already_granted"
    NOTIFY = "tell"
    """Nothing to grant; the browser is sent a new status or error."""
    NOTHING_NEW = "nothing_new"
    REFETCH = "ask"
    """An event contradicts the row and may be older than it: read the current state from Stripe."""
    UNREAD = "unread"
    """It is paid, and one of its prices has not been read from Stripe: nothing is granted until it is."""
    UNPRICED = "unpriced"
    """It is paid, and one of its prices has no amount in its currency: nothing is granted until it has."""
    REFUSE = "refuse"
    """The facts do not belong to this invoice: nothing changes, and it is logged."""


class InvoiceSnapshot(msgspec.Struct, frozen=True):
    """The invoice's row before these facts."""

    invoice: str
    status: InvoiceStatus
    customer: str
    """Empty for a Checkout Session of a guest, for whom Stripe has made no customer."""
    currency: str
    amount_due_minor: int
    """The invoice's whole amount, whether or not part of it is paid."""
    intent: str | None
    error: PaymentError | None = None
    method: str | None = None
    """The type of the payment method of the latest attempt, where it is known."""
    voucher: Voucher | None = None
    """The voucher that the latest attempt waits for."""


class Decision(msgspec.Struct, frozen=True):
    verdict: Verdict
    status: InvoiceStatus
    reason: str
    error: PaymentError | None = None
    method: str | None = None
    """The type of the payment method that this is about, where the facts show it."""
    voucher: Voucher | None = None
    """The voucher that is to be paid."""


def decide(known: InvoiceSnapshot, facts: PaymentFacts, grant_written_off: bool = False) -> Decision:
    """What to do about `known`, given `facts`. Grants at most once, and only for this invoice's payments.

    `grant_written_off`: an invoice that a credit note reduced to nothing counts as paid.
    """
    if known.status in (InvoiceStatus.ACTIVE, InvoiceStatus.REVERSED):
        return Decision(Verdict.ALREADY_GRANTED, known.status, "already settled")
    invoice = facts.invoice
    if mismatch := _mismatch(known, invoice):
        return Decision(Verdict.REFUSE, known.status, mismatch)
    if invoice and invoice.status == "paid":
        if invoice.written_off and not grant_written_off:
            return _notify(known, InvoiceStatus.VOID, "a credit note has written the invoice off")
        return Decision(Verdict.GRANT, InvoiceStatus.ACTIVE, "the invoice is paid")

    if invoice and invoice.status == "void":
        return _notify(known, InvoiceStatus.VOID, "the invoice is void")

    # The whole amount: a partial payment has already lowered `amount_remaining`.
    due = invoice.amount_paid_minor + invoice.amount_remaining_minor if invoice else known.amount_due_minor
    ours = [payment for payment in facts.payments if not _mismatched_payment(known, payment)]
    received = sum(p.amount_received_minor for p in ours if p.status == "succeeded")
    if received and received >= due:
        return Decision(Verdict.GRANT, InvoiceStatus.ACTIVE, "the linked payments cover what is due")
    if facts.payments and not ours:
        return Decision(Verdict.REFUSE, known.status, _mismatched_payment(known, facts.payments[0]) or "")
    if received:
        return Decision(Verdict.NOTHING_NEW, known.status, f"{received} of {due} received")
    decision = _from_attempts(known, facts, ours)
    if facts.dated and decision.verdict is Verdict.NOTIFY and _contradicts(known, decision):
        return Decision(Verdict.REFETCH, known.status, f"{decision.reason}, or was earlier", known.error)
    return decision


def _contradicts(known: InvoiceSnapshot, decision: Decision) -> bool:
    """Whether the decision would overwrite another attempt's status. Events arrive in any order."""
    return known.status not in (InvoiceStatus.OPEN, decision.status)


def _mismatch(known: InvoiceSnapshot, invoice: InvoiceFacts | None) -> str | None:
    if invoice is None:
        return None
    if invoice.id != known.invoice:
        return f"the facts name another invoice, {invoice.id}"
    if (invoice.customer or "") != known.customer:
        return f"the invoice names another customer, {invoice.customer}"
    if invoice.currency != known.currency:
        return f"the invoice is in another currency, {invoice.currency}"
    return None


def _mismatched_payment(known: InvoiceSnapshot, payment: IntentFacts) -> str | None:
    """Why this payment does not count for this invoice, or None."""
    linked = payment.invoice == known.invoice or (payment.invoice is None and payment.intent == known.intent)
    if not linked:
        return f"the payment {payment.intent} is not linked to this invoice"
    if (payment.customer or "") != known.customer:
        return f"the payment {payment.intent} names another customer"
    if payment.currency != known.currency:
        return f"the payment {payment.intent} is in another currency"
    return None


CANCELED = PaymentError("canceled", "The payment was canceled. Please start again.")
UNCOLLECTIBLE = PaymentError("uncollectible", "The invoice can no longer be collected. Please start again.")
ATTEMPT_FAILED = PaymentError("payment_failed", "The payment did not go through.")

_ATTEMPT_STATUSES = {
    "processing": InvoiceStatus.PROCESSING,
    "requires_action": InvoiceStatus.REQUIRES_ACTION,
    "requires_confirmation": InvoiceStatus.OPEN,
    "requires_payment_method": InvoiceStatus.OPEN,
    "canceled": InvoiceStatus.FAILED,
}


def _from_attempts(known: InvoiceSnapshot, facts: PaymentFacts, payments: list[IntentFacts]) -> Decision:
    """The status of the latest attempt, if there is nothing to grant."""
    uncollectible = facts.invoice is not None and facts.invoice.status == "uncollectible"
    if uncollectible and not (payments and payments[-1].status in ("processing", "requires_action")):
        # Not terminal: an uncollectible invoice can still be paid.
        return _notify(known, InvoiceStatus.FAILED, "the invoice is uncollectible", UNCOLLECTIBLE)
    if payments:
        return _from_payment(known, payments[-1])
    if facts.attempt is Attempt.ACTION_REQUIRED:
        return _notify(known, InvoiceStatus.REQUIRES_ACTION, "the bank requires authentication")
    if facts.attempt is Attempt.FAILED and known.status is not InvoiceStatus.FAILED:
        # The intent's own event has the reason; this event must not overwrite it.
        return _notify(known, InvoiceStatus.FAILED, "an attempt to pay failed", ATTEMPT_FAILED)
    return Decision(Verdict.NOTHING_NEW, known.status, "awaiting payment", known.error)


def _from_payment(known: InvoiceSnapshot, payment: IntentFacts) -> Decision:
    status, error = _ATTEMPT_STATUSES.get(payment.status), payment.error
    if status is None:  # requires_capture, or a status that Stripe has added since
        reason = f"unexpected intent status {payment.status}"
        return Decision(Verdict.NOTHING_NEW, known.status, reason, known.error)
    if payment.status == "requires_action" and payment.voucher:
        # The customer has done their part on the page. It fails only when the voucher has expired.
        status = InvoiceStatus.PROCESSING
        return _notify(known, status, "a voucher is to be paid", voucher=payment.voucher)
    if payment.status == "requires_payment_method" and error:
        status = InvoiceStatus.FAILED
    if payment.status == "canceled":
        error = CANCELED
    reason = f"the payment is {payment.status}"
    error = error if status is InvoiceStatus.FAILED else None
    return _notify(known, status, reason, error, payment.method)


def _notify(
    known: InvoiceSnapshot,
    status: InvoiceStatus,
    reason: str,
    error: PaymentError | None = None,
    method: str | None = None,
    voucher: Voucher | None = None,
) -> Decision:
    method = voucher.method if voucher else method
    other = (method is not None and method != known.method) or voucher != known.voucher
    learned = status is InvoiceStatus.PROCESSING and other
    if known.status.terminal or (status is known.status and error == known.error and not learned):
        return Decision(Verdict.NOTHING_NEW, known.status, reason, known.error)
    return Decision(Verdict.NOTIFY, status, reason, error, method, voucher)
