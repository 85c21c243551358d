"""Quotes in other currencies than the price's own, and for several lines of one plan change."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from paidup.domain.catalog import Catalogue, Interval, Plan, PlanPrice, StripePrice, Upgrade
from paidup.domain.payment_facts import LineFacts
from paidup.domain.quotes import Quote, quote

PRO, BASIC = "price_pro", "price_basic"
PLANS = Catalogue(
    (
        Plan("basic", "Basic", 500, (PlanPrice("basic", 900),)),
        Plan("pro", "Pro", 2000, (PlanPrice("pro", 2900),)),
    )
)
OPTIONS = {"krw": 39000, "jpy": 4500, "eur": 2700, "inr": 240000, "kwd": 8900, "isk": 400000}
PRICES = {
    PRO: StripePrice(PRO, "pro", "pro", 2900, "usd", currency_options=OPTIONS),
    BASIC: StripePrice(BASIC, "basic", "basic", 900, "usd", currency_options={"inr": 75000}),
}
START, END = 1_700_000_000, 1_702_592_000


def line(
    price: str, amount_minor: int, currency: str, proration: bool = False, quantity: int = 1
) -> LineFacts:
    return LineFacts(price, amount_minor, quantity, proration, START, END, 0, currency)


@pytest.mark.parametrize(("currency", "amount_minor"), [("usd", 2900), *OPTIONS.items()])
def test_a_month_gives_the_plans_credits_in_every_currency_of_its_price(
    currency: str, amount_minor: int
) -> None:
    """Zero-decimal (jpy, krw), three-decimal (kwd) and others: https://docs.stripe.com/currencies."""
    assert quote([line(PRO, amount_minor, currency)], PLANS, PRICES).credits == 2000
    assert quote([line(PRO, 3 * amount_minor, currency, quantity=3)], PLANS, PRICES).credits == 6000


def test_a_proration_is_compared_with_the_price_in_its_currency() -> None:
    """Half a month of each: (2000 - 500) / 2, also in rupees."""
    lines = [line(BASIC, -37500, "inr", proration=True), line(PRO, 120000, "inr", proration=True)]
    assert quote(lines, PLANS, PRICES).credits == 750


def test_a_line_in_a_currency_that_its_price_does_not_have_gives_nothing() -> None:
    """Nor does the rest of the invoice: without the credit line it would give too much."""
    nothing = Quote(0, None, None, unpriced=(f"{BASIC} in eur",))
    lines = [line(BASIC, -450, "eur", proration=True), line(PRO, 1350, "eur", proration=True)]
    assert quote(lines, PLANS, PRICES) == nothing
    assert quote([line(BASIC, 900, "eur")], PLANS, PRICES) == nothing


def in_full(seats: int = 1) -> Catalogue:
    return replace(PLANS, plans=tuple(replace(plan, upgrade=Upgrade.FULL) for plan in PLANS.plans))


@pytest.mark.parametrize(
    "credited",
    [
        [line(BASIC, -900, "usd", proration=True, quantity=2)],
        [line(BASIC, -450, "usd", True, 1), line(BASIC, -450, "usd", True, 2)],
        [line(BASIC, -450, "usd", True, 1), line(BASIC, -450, "usd", True, 1)],
        [line(BASIC, -300, "usd", True, 2) for _ in range(3)],
    ],
)
def test_several_credit_lines_of_one_change_count_as_one_whole_plan(credited: list[LineFacts]) -> None:
    """Flexible billing makes one credit line for each debit: https://docs.stripe.com/billing/subscriptions/billing-mode.

    Two seats of basic in the middle of their month become two of pro: 2 x 2000 - 2 x 500.
    """
    month = replace(PRICES[BASIC], unit_amount_minor=450)
    lines = [*credited, line(PRO, 5800, "usd", True, 2)]
    assert quote(lines, in_full(), PRICES | {BASIC: month}).credits == 3000


def test_a_yearly_price_in_another_currency() -> None:
    year = StripePrice("year", "pro", "pro", 29000, "usd", Interval.YEAR, None, {"jpy": 45000})
    given = quote([line("year", 45000, "jpy")], PLANS, {"year": year})
    assert given.credits == 24000
