"""Decisions: docs/stripe.md's "When to grant" and its table of PaymentIntent statuses, row by row."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paidup.domain.decisions import (
    ATTEMPT_FAILED,
    CANCELED,
    TERMINAL,
    UNCOLLECTIBLE,
    InvoiceSnapshot,
    InvoiceStatus,
    Verdict,
    decide,
)
from paidup.domain.delayed_methods import Voucher
from paidup.domain.payment_facts import Attempt, IntentFacts, InvoiceFacts, PaymentError, PaymentFacts

S, V = InvoiceStatus, Verdict
DUE = 2900
KNOWN = InvoiceSnapshot("in_1", S.OPEN, "cus_1", "usd", DUE, "pi_1")
INVOICE = InvoiceFacts(
    *("in_1", "open", "cus_1", "usd", DUE, 0, DUE, DUE, 0, 1, 1, "subscription_create", "sub_1", 0, ())
)
PAYMENT = IntentFacts("pi_1", "succeeded", "cus_1", "usd", DUE, DUE, invoice="in_1")
DECLINED = PaymentError("card_declined", "Your card was declined.", "insufficient_funds")


def known(**changes: Any) -> InvoiceSnapshot:
    return msgspec.structs.replace(KNOWN, **changes)


def invoice(**changes: Any) -> InvoiceFacts:
    return msgspec.structs.replace(INVOICE, **changes)


def payment(**changes: Any) -> IntentFacts:
    return msgspec.structs.replace(PAYMENT, **changes)


def part(paid: int) -> InvoiceFacts:
    """The invoice once `paid` of it was paid."""
    return invoice(amount_paid_minor=paid, amount_remaining_minor=DUE - paid)


@pytest.mark.parametrize(
    "facts",
    [
        pytest.param(PaymentFacts(invoice(status="paid")), id="the invoice is paid"),
        pytest.param(
            PaymentFacts(invoice(status="paid"), (payment(status="canceled"),)), id="paid, whatever else"
        ),
        pytest.param(PaymentFacts(INVOICE, (PAYMENT,)), id="linked, succeeded, covers"),
        pytest.param(PaymentFacts(payments=(payment(invoice=None),)), id="the intent that was stored"),
        pytest.param(PaymentFacts(INVOICE, (payment(amount_received_minor=DUE + 1),)), id="more than is due"),
        pytest.param(
            PaymentFacts(
                INVOICE,
                (payment(amount_received_minor=900), payment(intent="pi_2", amount_received_minor=2000)),
            ),
            id="two payments together",
        ),
        pytest.param(
            PaymentFacts(INVOICE, (PAYMENT, payment(customer="cus_2"))), id="ours beside a stranger"
        ),
        pytest.param(
            PaymentFacts(invoice(status="uncollectible"), (PAYMENT,)),
            id="an uncollectible invoice paid after all",
        ),
    ],
)
def test_a_payment_of_this_invoice_grants(facts: PaymentFacts) -> None:
    """S23: the invoice is paid, or a linked and succeeded payment proves that it will be."""
    decision = decide(KNOWN, facts)
    assert (decision.verdict, decision.status) == (V.GRANT, S.ACTIVE)


@pytest.mark.parametrize(
    ("facts", "verdict"),
    [
        pytest.param(
            PaymentFacts(INVOICE, (payment(invoice="in_2"),)), V.REFUSE, id="another invoice's payment"
        ),
        pytest.param(
            PaymentFacts(INVOICE, (payment(customer="cus_2"),)), V.REFUSE, id="another customer's payment"
        ),
        pytest.param(PaymentFacts(INVOICE, (payment(customer=None),)), V.REFUSE, id="nobody's payment"),
        pytest.param(PaymentFacts(INVOICE, (payment(currency="eur"),)), V.REFUSE, id="another currency"),
        pytest.param(
            PaymentFacts(payments=(payment(intent="pi_2", invoice=None),)), V.REFUSE, id="no link at all"
        ),
        pytest.param(PaymentFacts(invoice(id="in_2", status="paid")), V.REFUSE, id="another invoice, paid"),
        pytest.param(
            PaymentFacts(invoice(customer="cus_2", status="paid")), V.REFUSE, id="another customer, paid"
        ),
        pytest.param(
            PaymentFacts(invoice(currency="eur", status="paid")), V.REFUSE, id="another currency, paid"
        ),
        pytest.param(
            PaymentFacts(INVOICE, (payment(amount_received_minor=1),)), V.NOTHING_NEW, id="too little"
        ),
        pytest.param(
            PaymentFacts(INVOICE, (payment(amount_received_minor=0),)),
            V.NOTHING_NEW,
            id="succeeded, nothing received",
        ),
        pytest.param(
            PaymentFacts(part(1500), (payment(amount_received_minor=1500),)),
            V.NOTHING_NEW,
            id="a part, counted already",
        ),
        pytest.param(
            PaymentFacts(payments=(payment(invoice=None, amount_received_minor=1500),)),
            V.NOTHING_NEW,
            id="a part, alone",
        ),
        pytest.param(
            PaymentFacts(INVOICE, (payment(status="processing", amount_received_minor=DUE),)),
            V.NOTIFY,
            id="processing",
        ),
    ],
)
def test_a_payment_of_another_invoice_customer_amount_or_currency_grants_nothing(
    facts: PaymentFacts, verdict: Verdict
) -> None:
    """S22: what does not belong here, or does not suffice, grants nothing."""
    decision = decide(KNOWN, facts)
    assert decision.verdict is verdict
    assert decision.status is not S.ACTIVE


@pytest.mark.parametrize(
    ("status", "error", "shown", "told"),
    [
        ("requires_payment_method", None, S.OPEN, None),
        ("requires_payment_method", DECLINED, S.FAILED, DECLINED),
        ("requires_confirmation", None, S.OPEN, None),
        ("requires_action", None, S.REQUIRES_ACTION, None),
        ("requires_action", DECLINED, S.REQUIRES_ACTION, None),
        ("processing", None, S.PROCESSING, None),
        ("canceled", None, S.FAILED, CANCELED),
        ("canceled", DECLINED, S.FAILED, CANCELED),
        ("requires_capture", None, S.OPEN, None),
        ("a_status_of_next_year", None, S.OPEN, None),
    ],
)
def test_each_payment_status_maps_to_an_invoice_status(
    status: str, error: PaymentError | None, shown: InvoiceStatus, told: PaymentError | None
) -> None:
    """The table "PaymentIntent status and what the customer should read"."""
    facts = PaymentFacts(INVOICE, (payment(status=status, amount_received_minor=0, error=error),))
    decision = decide(KNOWN, facts)
    assert (decision.status, decision.error) == (shown, told)
    assert decision.verdict is (V.NOTHING_NEW if shown is S.OPEN else V.NOTIFY)


@pytest.mark.parametrize(
    ("facts", "shown", "told"),
    [
        (PaymentFacts(INVOICE), S.OPEN, None),
        (PaymentFacts(INVOICE, attempt=Attempt.ACTION_REQUIRED), S.REQUIRES_ACTION, None),
        (PaymentFacts(INVOICE, attempt=Attempt.FAILED), S.FAILED, ATTEMPT_FAILED),
        (PaymentFacts(invoice(status="uncollectible")), S.FAILED, UNCOLLECTIBLE),
        (PaymentFacts(invoice(status="void")), S.VOID, None),
        (PaymentFacts(invoice(status="void"), (PAYMENT,)), S.VOID, None),
        (PaymentFacts(invoice(status=None)), S.OPEN, None),
    ],
)
def test_an_invoice_without_a_payment_maps_by_its_own_status(
    facts: PaymentFacts, shown: InvoiceStatus, told: PaymentError | None
) -> None:
    decision = decide(KNOWN, facts)
    assert (decision.status, decision.error) == (shown, told)


def test_the_method_of_a_payment_in_processing_is_news_once() -> None:
    """S44: an event shows that it is processing, and a read later by which method."""
    processing = payment(status="processing", amount_received_minor=0)
    with_method = msgspec.structs.replace(processing, method="sepa_debit")
    now_known = known(status=S.PROCESSING)
    assert decide(now_known, PaymentFacts(INVOICE, (processing,))).verdict is V.NOTHING_NEW
    learned = decide(now_known, PaymentFacts(INVOICE, (with_method,)))
    assert (learned.verdict, learned.status, learned.method) == (V.NOTIFY, S.PROCESSING, "sepa_debit")
    told = known(status=S.PROCESSING, method="sepa_debit")
    for facts in (processing, with_method):
        assert decide(told, PaymentFacts(INVOICE, (facts,))).verdict is V.NOTHING_NEW


def test_the_latest_payment_determines_the_status() -> None:
    """The customer failed with one card and is in the bank's check with the next."""
    failed = payment(status="requires_payment_method", error=DECLINED, amount_received_minor=0)
    checking = payment(intent="pi_2", status="requires_action", amount_received_minor=0)
    assert decide(KNOWN, PaymentFacts(INVOICE, (failed, checking))).status is S.REQUIRES_ACTION


def test_a_decline_reason_is_not_overwritten_by_the_invoices_event() -> None:
    """`payment_intent.payment_failed` names the decline; `invoice.payment_failed` comes after it."""
    declined = known(status=S.FAILED, error=DECLINED)
    decision = decide(declined, PaymentFacts(INVOICE, attempt=Attempt.FAILED))
    assert (decision.verdict, decision.error) == (V.NOTHING_NEW, DECLINED)


def test_another_error_with_the_same_status_is_published() -> None:
    """The second card was declined as well, for another reason: the screen says which."""
    declined = known(status=S.FAILED, error=PaymentError("expired_card", "Your card has expired."))
    again = payment(status="requires_payment_method", error=DECLINED, amount_received_minor=0)
    decision = decide(declined, PaymentFacts(INVOICE, (again,)))
    assert (decision.verdict, decision.error) == (V.NOTIFY, DECLINED)


def test_a_late_success_follows_a_failure() -> None:
    """S07: failed is not the end."""
    assert (
        decide(known(status=S.FAILED, error=DECLINED), PaymentFacts(INVOICE, (PAYMENT,))).verdict is V.GRANT
    )


statuses = st.sampled_from(list(S))
errors = st.sampled_from([None, DECLINED])
amounts = st.integers(0, 2 * DUE)
invoices = st.builds(
    InvoiceFacts,
    id=st.sampled_from(["in_1", "in_1", "in_1", "in_2"]),
    status=st.sampled_from(["draft", "open", "open", "open", "paid", "uncollectible", "void", None]),
    customer=st.sampled_from(["cus_1", "cus_1", "cus_1", "cus_2", None]),
    currency=st.sampled_from(["usd", "usd", "usd", "eur"]),
    amount_due_minor=amounts,
    amount_paid_minor=amounts,
    amount_remaining_minor=amounts,
    billing_reason=st.just("subscription_create"),
    subscription=st.just("sub_1"),
    created=st.just(0),
    lines=st.just(()),
)
payments = st.builds(
    IntentFacts,
    intent=st.sampled_from(["pi_1", "pi_1", "pi_2"]),
    status=st.sampled_from(["succeeded", "succeeded", "processing", "requires_payment_method", "canceled"]),
    customer=st.sampled_from(["cus_1", "cus_1", "cus_2", None]),
    currency=st.sampled_from(["usd", "usd", "eur"]),
    amount_minor=amounts,
    amount_received_minor=amounts,
    invoice=st.sampled_from(["in_1", "in_1", "in_2", None]),
    error=errors,
)
some_facts = st.builds(
    PaymentFacts,
    invoice=st.none() | invoices,
    payments=st.lists(payments, max_size=3).map(tuple),
    attempt=st.sampled_from([None, *Attempt]),
)
some_known = st.builds(
    InvoiceSnapshot,
    invoice=st.just("in_1"),
    status=statuses,
    customer=st.just("cus_1"),
    currency=st.just("usd"),
    amount_due_minor=amounts,
    intent=st.just("pi_1"),
    error=errors,
)


@given(some_known, some_facts)
def test_nothing_is_granted_without_a_paid_invoice_or_payments_that_cover_it(
    before: InvoiceSnapshot, facts: PaymentFacts
) -> None:
    """S22: whatever the facts, a grant has one of the two proofs behind it."""
    if decide(before, facts).verdict is not V.GRANT:
        return
    shown = facts.invoice
    assert shown is None or (shown.id, shown.customer, shown.currency) == ("in_1", "cus_1", "usd")
    if shown and shown.status == "paid":
        return
    proofs = [
        proof
        for proof in facts.payments
        if proof.status == "succeeded"
        and (proof.invoice == "in_1" or (proof.invoice is None and proof.intent == "pi_1"))
        and (proof.customer, proof.currency) == ("cus_1", "usd")
    ]
    due = shown.amount_paid_minor + shown.amount_remaining_minor if shown else before.amount_due_minor
    assert proofs
    assert sum(proof.amount_received_minor for proof in proofs) >= due


@given(some_known, some_facts)
def test_terminal_statuses_are_final(before: InvoiceSnapshot, facts: PaymentFacts) -> None:
    """S18: no late or stale facts take back an end; only money reopens a void invoice."""
    decision = decide(before, facts)
    if before.status in (S.ACTIVE, S.REVERSED):
        assert (decision.verdict, decision.status) == (V.ALREADY_GRANTED, before.status)
    elif before.status is S.VOID:
        assert decision.status in ((S.ACTIVE,) if decision.verdict is V.GRANT else (S.VOID,))


@given(some_known, some_facts)
def test_repeating_the_facts_decides_nothing_new(before: InvoiceSnapshot, facts: PaymentFacts) -> None:
    """S11: the same facts again find nothing new."""
    first = decide(before, facts)
    after = msgspec.structs.replace(before, status=first.status, error=first.error)
    again = decide(after, facts)
    assert again.status is first.status
    if first.verdict is V.GRANT:
        assert again.verdict is V.ALREADY_GRANTED
    if first.verdict is V.NOTIFY:
        assert again.verdict is V.NOTHING_NEW


def test_three_statuses_are_terminal() -> None:
    assert {status for status in S if status.terminal} == set(TERMINAL) == {S.ACTIVE, S.VOID, S.REVERSED}


@pytest.mark.parametrize(
    ("known", "payment", "verdict"),
    [
        (InvoiceStatus.OPEN, "processing", Verdict.NOTIFY),
        (InvoiceStatus.FAILED, "processing", Verdict.REFETCH),
        (InvoiceStatus.FAILED, "requires_action", Verdict.REFETCH),
        (InvoiceStatus.PROCESSING, "requires_action", Verdict.REFETCH),
        (InvoiceStatus.PROCESSING, "processing", Verdict.NOTHING_NEW),
        (InvoiceStatus.FAILED, "succeeded", Verdict.GRANT),
    ],
)
def test_an_event_that_contradicts_the_row_is_refetched(
    known: InvoiceStatus, payment: str, verdict: Verdict
) -> None:
    """S18: events come in any order: a late one overwrites no later attempt; money needs no asking."""
    facts = IntentFacts("pi_1", payment, "cus_1", "usd", 2900, 2900 if payment == "succeeded" else 0, "in_1")
    row = InvoiceSnapshot("in_1", known, "cus_1", "usd", 2900, "pi_1")
    assert decide(row, PaymentFacts(payments=(facts,), dated=True)).verdict is verdict
    if verdict is Verdict.REFETCH:
        assert decide(row, PaymentFacts(payments=(facts,))).verdict is Verdict.NOTIFY, (
            "what Stripe says now holds"
        )


VOUCHER = Voucher("boleto", 1_796_007_599, "https://payments.stripe.com/boleto/voucher/1")
WITH_VOUCHER = {"status": "requires_action", "voucher": VOUCHER, "amount_received_minor": 0}


def test_a_voucher_is_processing_and_no_check_by_the_bank() -> None:
    """S44: `PaymentIntent.NextAction` of the SDK. The same one again is no news; another one is."""
    decision = decide(KNOWN, PaymentFacts(INVOICE, (payment(**WITH_VOUCHER),)))
    assert (decision.verdict, decision.status) == (V.NOTIFY, S.PROCESSING)
    assert (decision.method, decision.voucher, decision.error) == ("boleto", VOUCHER, None)
    waits = known(status=S.PROCESSING, method="boleto", voucher=VOUCHER)
    again = decide(waits, PaymentFacts(INVOICE, (payment(**WITH_VOUCHER),)))
    assert again.verdict is V.NOTHING_NEW
    other = msgspec.structs.replace(VOUCHER, expires_at=1_796_093_999)
    newer = decide(waits, PaymentFacts(INVOICE, (payment(**(WITH_VOUCHER | {"voucher": other})),)))
    assert (newer.verdict, newer.voucher) == (V.NOTIFY, other)
    checked = decide(waits, PaymentFacts(INVOICE, (payment(**(WITH_VOUCHER | {"voucher": None})),)))
    assert (checked.status, checked.voucher) == (S.REQUIRES_ACTION, None)


def test_a_late_word_of_an_action_does_not_turn_a_voucher_into_a_check() -> None:
    """`invoice.payment_action_required` shows no payment: Stripe is read again."""
    waits = known(status=S.PROCESSING, method="boleto", voucher=VOUCHER)
    facts = PaymentFacts(INVOICE, attempt=Attempt.ACTION_REQUIRED, dated=True)
    assert decide(waits, facts).verdict is V.REFETCH
