"""Bank debits and vouchers: by when the payment arrives, and what the customer reads meanwhile."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from paidup.domain.backoff import DAY_S, MAX_CHECKED_AGE_S, reconciler_delay_s
from paidup.domain.delayed_methods import DELAYED_METHODS, Voucher, add_business_days, processing_payment

THURSDAY = datetime(2026, 11, 26, 20, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days", "reached"), [(0, "2026-11-26"), (1, "2026-11-27"), (2, "2026-11-30"), (14, "2026-12-16")]
)
def test_business_days_leave_out_the_weekends(days: int, reached: str) -> None:
    assert f"{add_business_days(THURSDAY, days):%Y-%m-%d}" == reached


def test_a_debit_says_when_the_bank_usually_answers_then_at_most() -> None:
    """A forecast that has passed is replaced by the longest time, and that by no date."""
    shown = processing_payment("sepa_debit", THURSDAY, 500, THURSDAY + timedelta(hours=1))
    assert shown is not None
    assert (shown.name, shown.credits_on_trust) == ("SEPA Direct Debit", 500)
    assert shown.expected_at == datetime(2026, 12, 3, 20, 0, tzinfo=UTC)
    assert shown.message == (
        "Your SEPA Direct Debit is under way. The bank usually answers by 3 December 2026. You do not need to"
        " pay again: your credits are added as soon as the payment has arrived. Until then you can use 500"
        " credits."
    )
    late = processing_payment("sepa_debit", THURSDAY, 0, datetime(2026, 12, 4, tzinfo=UTC))
    assert late is not None
    assert "can take until 16 December 2026" in late.message
    overdue = processing_payment("sepa_debit", THURSDAY, 0, datetime(2027, 1, 4, tzinfo=UTC))
    assert overdue is not None
    assert "taking longer than usual" in overdue.message


@pytest.mark.parametrize("method", [None, "card", "boleto", "a_method_of_next_year"])
def test_a_method_that_is_not_known_to_take_days_promises_nothing(method: str | None) -> None:
    assert processing_payment(method, THURSDAY, 0, THURSDAY) is None


def test_a_voucher_says_the_last_day_where_it_is_paid() -> None:
    """Stripe ends a Boleto at 23:59 in São Paulo, which is the next day in UTC."""
    ends = datetime(2026, 11, 30, 2, 59, 59, tzinfo=UTC)
    voucher = Voucher("boleto", int(ends.timestamp()), "https://payments.stripe.com/boleto/voucher/1")
    shown = processing_payment("boleto", THURSDAY, 0, THURSDAY, voucher)
    assert shown is not None
    assert (shown.kind, shown.pay_by, shown.voucher_url) == ("voucher", date(2026, 11, 29), voucher.url)
    assert shown.message == (
        "Pay your Boleto voucher by 29 November 2026. Your credits are added as soon as the payment has"
        " arrived, usually one business day later. If you have paid it already, you do not need to pay again."
    )
    over = processing_payment("boleto", THURSDAY, 0, ends + timedelta(hours=1), voucher)
    assert over is not None
    assert over.message == (
        "Your Boleto voucher could be paid until 29 November 2026. If you have paid it, you do not need to"
        " pay again: your credits are added as soon as the payment has arrived."
    )
    assert THURSDAY < shown.expected_at <= over.expected_at


@pytest.mark.parametrize(("method", "by"), [("oxxo", " by "), ("konbini", " by "), ("multibanco", "")])
def test_other_vouchers(method: str, by: str) -> None:
    """One without an end, and one of a type that is not known, which promises nothing."""
    expires_at = int(THURSDAY.timestamp()) + 3 * 86_400 if by else None
    shown = processing_payment(method, THURSDAY, 0, THURSDAY, Voucher(method, expires_at, None))
    assert shown is not None
    assert (f"voucher{by}" in shown.message, shown.pay_by is None) == (True, not by)
    assert processing_payment("x", THURSDAY, 0, THURSDAY, Voucher("x", expires_at, None)) is None


def test_every_method_takes_days() -> None:
    assert all(0 < each.usual_days <= each.most_days for each in DELAYED_METHODS.values())


def test_a_payment_in_processing_is_never_given_up() -> None:
    """S44: ordinary unpaid invoices are, after two months."""
    old = MAX_CHECKED_AGE_S + DAY_S
    assert reconciler_delay_s(old) is None
    assert reconciler_delay_s(old, processing=True) == DAY_S
    assert reconciler_delay_s(60, processing=True) == 30
    assert reconciler_delay_s(60, processing=True, takes_days=True) == DAY_S / 2
