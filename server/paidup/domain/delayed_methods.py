"""Payment methods whose outcome comes days later: how long each takes, and what to tell its customer.

Stripe calls it delayed notification: https://docs.stripe.com/payments/payment-methods#payment-notification.
A method that is not listed here may take days as well; then no date is promised.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec


class DelayedMethod(msgspec.Struct, frozen=True):
    """A bank debit. The bank usually answers within `usual_days` business days, at most `most_days`."""

    name: str
    usual_days: int
    most_days: int


DELAYED_METHODS = {
    # https://docs.stripe.com/payments/sepa-debit: five business days on average, up to 14
    "sepa_debit": DelayedMethod("SEPA Direct Debit", 5, 14),
    # https://docs.stripe.com/payments/ach-direct-debit: up to four
    "us_bank_account": DelayedMethod("ACH Direct Debit", 4, 4),
    # https://docs.stripe.com/payments/bacs-debit: four, or up to seven with a new mandate
    "bacs_debit": DelayedMethod("Bacs Direct Debit", 4, 7),
    # https://docs.stripe.com/payments/acss-debit: up to five
    "acss_debit": DelayedMethod("pre-authorized debit", 5, 5),
    # https://docs.stripe.com/payments/au-becs-debit: up to three
    "au_becs_debit": DelayedMethod("BECS Direct Debit", 3, 3),
}


class ProcessingPayment(msgspec.Struct, frozen=True):
    """What is known of a bank debit that is under way. `message` is for the customer, in a page or a mail.

    `expected_at` is a forecast, later than a first one that has passed. `credits_on_trust` can be used
    meanwhile.
    """

    method: str
    name: str
    since: datetime
    expected_at: datetime
    credits_on_trust: int
    message: str


def processing_payment(
    method: str | None, since: datetime | None, credits_on_trust: int, at: datetime
) -> ProcessingPayment | None:
    """For a payment in processing; None where the method does not take days, or is not known."""
    found = DELAYED_METHODS.get(method or "")
    if found is None or method is None or since is None:
        return None
    expected_at = add_business_days(since, found.usual_days)
    late = expected_at <= at
    if late:
        expected_at = add_business_days(since, found.most_days)
    return ProcessingPayment(
        method,
        found.name,
        since,
        expected_at,
        credits_on_trust,
        _message(found, expected_at, late, at) + _meanwhile(credits_on_trust),
    )


def _meanwhile(credits_on_trust: int) -> str:
    return f" Until then you can use {credits_on_trust} credits." if credits_on_trust else ""


def _message(method: DelayedMethod, expected_at: datetime, late: bool, at: datetime) -> str:
    if expected_at <= at:
        when = "The bank is taking longer than usual"
    else:
        day = f"{expected_at.astimezone(UTC):%d %B %Y}".lstrip("0")
        when = f"The bank's answer can take until {day}" if late else f"The bank usually answers by {day}"
    return (
        f"Your {method.name} is under way. {when}. You do not need to pay again: your credits are added as"
        " soon as the payment has arrived."
    )


def add_business_days(start: datetime, days: int) -> datetime:
    """So many days later, not counting Saturdays and Sundays. Bank holidays are not known here."""
    moment = start
    while days > 0:
        moment += timedelta(days=1)
        days -= moment.weekday() < 5
    return moment
