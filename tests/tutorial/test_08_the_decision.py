"""At the heart stands one pure function: facts about a payment in, what to do about it out."""

from __future__ import annotations

from paidup.domain.decisions import InvoiceSnapshot, InvoiceStatus, Verdict, decide
from paidup.domain.payment_facts import IntentFacts, InvoiceFacts, PaymentFacts

ROW = InvoiceSnapshot(
    invoice="in_1",
    status=InvoiceStatus.OPEN,
    customer="cus_ada",
    currency="usd",
    amount_due_minor=2900,
    intent="pi_1",
)


def an_invoice(status: str, paid: int) -> InvoiceFacts:
    return InvoiceFacts(
        id="in_1",
        status=status,
        customer="cus_ada",
        currency="usd",
        amount_due_minor=2900,
        amount_paid_minor=paid,
        amount_remaining_minor=2900 - paid,
        total_minor=2900,
        from_balance_minor=0,
        finalized_at=1,
        sequence=1,
        billing_reason="subscription_create",
        subscription="sub_1",
        created=1,
        lines=(),
    )


def a_payment(invoice: str) -> IntentFacts:
    return IntentFacts("pi_1", "succeeded", "cus_ada", "usd", 2900, 2900, invoice)


def test_a_paid_invoice_grants() -> None:
    assert decide(ROW, PaymentFacts(an_invoice("paid", 2900))).verdict is Verdict.GRANT


def test_an_open_invoice_grants_nothing_by_itself() -> None:
    assert decide(ROW, PaymentFacts(an_invoice("open", 0))).verdict is Verdict.NOTHING_NEW


def test_a_succeeded_payment_that_stripe_links_to_it_grants_before_the_invoice_says_paid() -> None:
    """S23: for some seconds Stripe shows the one beside the other."""
    assert decide(ROW, PaymentFacts(an_invoice("open", 0), (a_payment("in_1"),))).verdict is Verdict.GRANT


def test_a_payment_of_another_invoice_grants_nothing() -> None:
    """S22."""
    assert decide(ROW, PaymentFacts(an_invoice("open", 0), (a_payment("in_2"),))).verdict is Verdict.REFUSE
