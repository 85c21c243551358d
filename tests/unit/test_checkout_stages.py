"""What is told of a Checkout Session, from its row and its invoice's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from msgspec.structs import replace

from paidup.domain.checkout_stages import LinkedInvoice, SessionFacts, checkout_state
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.stages import DELAYED_AFTER, Stage

AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
JUST_NOW = AT - timedelta(seconds=1)
OPEN = SessionFacts("open", "unpaid", True, None, None)
PAID = SessionFacts("complete", "paid", True, JUST_NOW, None)
UNPAID = replace(PAID, payment_status="unpaid")
EXPIRED = replace(OPEN, status="expired")
FIRST = LinkedInvoice(InvoiceStatus.OPEN, 1, None)


@pytest.mark.parametrize(
    ("facts", "status", "stage"),
    [
        (OPEN, InvoiceStatus.OPEN, Stage.AWAITING_PAYMENT),
        (PAID, InvoiceStatus.OPEN, Stage.VERIFYING),
        (replace(PAID, payment_status="no_payment_required"), InvoiceStatus.OPEN, Stage.VERIFYING),
        (replace(PAID, completed_at=AT - DELAYED_AFTER), InvoiceStatus.OPEN, Stage.DELAYED),
        (replace(PAID, claimed=False), InvoiceStatus.OPEN, Stage.UNCLAIMED),
        (UNPAID, InvoiceStatus.PROCESSING, Stage.PROCESSING),
        (EXPIRED, InvoiceStatus.VOID, Stage.VOID),
        (replace(PAID, invoice=FIRST), InvoiceStatus.OPEN, Stage.VERIFYING),
        (replace(UNPAID, invoice=FIRST), InvoiceStatus.OPEN, Stage.PROCESSING),
        (replace(OPEN, invoice=FIRST), InvoiceStatus.OPEN, Stage.AWAITING_PAYMENT),
    ],
)
def test_a_session_that_is_complete_is_never_shown_as_unpaid(
    facts: SessionFacts, status: InvoiceStatus, stage: Stage
) -> None:
    """S38: who has done their part is told so, whatever its invoice's row says yet."""
    state = checkout_state(facts, AT)
    assert (state.status, state.stage) == (status, stage)


@pytest.mark.parametrize("status", set(InvoiceStatus) - {InvoiceStatus.OPEN})
def test_a_linked_invoice_says_the_rest(status: InvoiceStatus) -> None:
    state = checkout_state(replace(PAID, invoice=LinkedInvoice(status, 4, None)), AT)
    assert state.status is status


LIVES = [
    [OPEN, EXPIRED],
    [OPEN, replace(PAID, claimed=False), replace(PAID, invoice=FIRST)],
    [OPEN, replace(UNPAID, claimed=False), replace(PAID, claimed=False), replace(PAID, invoice=FIRST)],
    [EXPIRED, replace(PAID, invoice=FIRST)],
    [OPEN, UNPAID, replace(UNPAID, invoice=FIRST), replace(PAID, invoice=replace(FIRST, version=2))],
]


@pytest.mark.parametrize("life", LIVES)
def test_each_change_has_a_higher_version(life: list[SessionFacts]) -> None:
    """A browser ignores what is not newer than what it has."""
    versions = [checkout_state(facts, AT).version for facts in life]
    assert all(before < after for before, after in pairwise(versions))
