"""Payment methods whose outcome comes days later: how long each takes, and what to tell its customer.

Stripe calls it delayed notification: https://docs.stripe.com/payments/payment-methods#payment-notification.
A bank debit is under way by itself; a voucher is still to be paid, at a bank or in a shop. A method that is
not listed here may take days as well; then no date is promised.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Literal

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


class VoucherMethod(msgspec.Struct, frozen=True):
    """A voucher. Stripe is told of its payment `usual_days` business days later, at most `most_days`.

    It can be paid until the end of a day in the country of its `zone`.
    """

    name: str
    usual_days: int
    most_days: int
    zone: timezone


VOUCHER_METHODS = {
    # https://docs.stripe.com/payments/boleto/accept-a-payment: until 23:59 in São Paulo; one business day
    "boleto": VoucherMethod("Boleto", 1, 3, timezone(timedelta(hours=-3))),
    # https://docs.stripe.com/payments/oxxo/accept-a-payment: until 23:59 in Mexico City; one business day,
    # and the failure of one that was not paid comes after one business day and two calendar days
    "oxxo": VoucherMethod("OXXO", 1, 3, timezone(timedelta(hours=-6))),
    # https://docs.stripe.com/payments/konbini/accept-a-payment: until 23:59:59 in Japan, and a little longer
    # for who is at the cash register
    "konbini": VoucherMethod("Konbini", 0, 1, timezone(timedelta(hours=9))),
    # https://docs.stripe.com/payments/multibanco/accept-a-payment
    "multibanco": VoucherMethod("Multibanco", 0, 1, timezone(timedelta(0))),
}
"""Named like Stripe's types. None of them is given credits on trust: nobody has begun to pay."""


class Voucher(msgspec.Struct, frozen=True):
    """A voucher that Stripe has made and nobody has paid yet, until `expires_at` (Unix seconds).

    `url` is Stripe's page of it, which shows the customer's name, and a Boleto's their tax id.
    """

    method: str
    expires_at: int | None
    url: str | None


class ProcessingPayment(msgspec.Struct, frozen=True):
    """What is known of a payment that takes days. `message` is for the customer, in a page or a mail.

    `expected_at` is a forecast, later than a first one that has passed. `credits_on_trust` can be used
    meanwhile. `kind`: a debit is under way by itself, a voucher is still to be paid. Of a voucher only:
    `pay_by`, the last day on which it can be paid, where it is paid, and `voucher_url`, where its customer
    sees it.
    """

    method: str
    name: str
    since: datetime
    expected_at: datetime
    credits_on_trust: int
    message: str
    kind: Literal["debit", "voucher"] = "debit"
    pay_by: date | None = None
    voucher_url: str | None = None


def processing_payment(
    method: str | None,
    since: datetime | None,
    credits_on_trust: int,
    at: datetime,
    voucher: Voucher | None = None,
) -> ProcessingPayment | None:
    """For a payment in processing; None where the method does not take days, or is not known."""
    if voucher is not None and since is not None:
        return _voucher_payment(voucher, since, at)
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


def _voucher_payment(voucher: Voucher, since: datetime, at: datetime) -> ProcessingPayment | None:
    found = VOUCHER_METHODS.get(voucher.method)
    if found is None:
        return None
    ends = None if voucher.expires_at is None else datetime.fromtimestamp(voucher.expires_at, UTC)
    expected_at = add_business_days(ends or since, found.usual_days)
    if expected_at <= at:
        expected_at = add_business_days(ends or since, found.most_days)
    return ProcessingPayment(
        voucher.method,
        found.name,
        since,
        expected_at,
        credits_on_trust=0,
        message=_voucher_message(found, ends, at),
        kind="voucher",
        pay_by=ends.astimezone(found.zone).date() if ends else None,
        voucher_url=voucher.url,
    )


def _voucher_message(method: VoucherMethod, ends: datetime | None, at: datetime) -> str:
    day = f" {_day(ends.astimezone(method.zone))}" if ends else ""
    if ends and ends <= at:
        return (
            f"Your {method.name} voucher could be paid until{day}. If you have paid it, you do not need to"
            " pay again: your credits are added as soon as the payment has arrived."
        )
    usually = "usually one business day later" if method.usual_days else "shortly after"
    by = f" by{day}" if day else ""
    return (
        f"Pay your {method.name} voucher{by}. Your credits are added as soon as the payment has arrived,"
        f" {usually}. If you have paid it already, you do not need to pay again."
    )


def _day(moment: datetime) -> str:
    return f"{moment:%d %B %Y}".lstrip("0")


def _meanwhile(credits_on_trust: int) -> str:
    return f" Until then you can use {credits_on_trust} credits." if credits_on_trust else ""


def _message(method: DelayedMethod, expected_at: datetime, late: bool, at: datetime) -> str:
    if expected_at <= at:
        when = "The bank is taking longer than usual"
    else:
        day = _day(expected_at.astimezone(UTC))
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
