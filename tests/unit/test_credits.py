"""Credits follow the money: the arithmetic of an invoice's lines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.credits import Quote, installments, quote
from server.core.facts import LineFacts
from server.core.plans import Catalogue, Plan, PlanPrice, Rollover, StripePrice

BASIC, PRO, FREE, ENDS = "price_basic", "price_pro", "price_free", "price_ends"
PERIOD_START = 1_792_000_000
PERIOD_END = 1_795_000_000


def plan(name: str, credits: int, amount_minor: int, **more: Any) -> tuple[Plan, StripePrice]:
    price = PlanPrice(f"key_{name}", amount_minor)
    sold = Plan(name, name.title(), credits, (price,), **more)
    return sold, StripePrice(f"price_{name}", price.lookup_key, name, amount_minor, "usd")


SOLD = [
    plan("basic", 500, 900),
    plan("pro", 2000, 2900, trial_credits=100),
    plan("free", 50, 0),
    plan("ends", 1000, 1000, rollover=Rollover.EXPIRE),
]
CATALOGUE = Catalogue(tuple(sold for sold, _ in SOLD))
PRICES = {price.id: price for _, price in SOLD}


def line(price: str | None, amount_minor: int, quantity: int = 1, proration: bool = False) -> LineFacts:
    return LineFacts(price, amount_minor, quantity, proration, PERIOD_START, PERIOD_END)


def quoted(*lines: LineFacts) -> Quote:
    return quote(lines, CATALOGUE, PRICES)


@pytest.mark.parametrize(
    ("lines", "credits"),
    [
        pytest.param([line(PRO, 2900)], 2000, id="a full month"),
        pytest.param([line(PRO, 8700, quantity=3)], 6000, id="three seats"),
        pytest.param([line(PRO, 1450, proration=True)], 1000, id="half a month"),
        pytest.param(
            [line(BASIC, -450, proration=True), line(PRO, 1450, proration=True)],
            750,
            id="an upgrade halfway gives half the difference",
        ),
        pytest.param(
            [line(PRO, -1450, proration=True), line(BASIC, 450, proration=True)],
            -750,
            id="a downgrade leaves half the difference, to be set off",
        ),
        pytest.param([line(PRO, 2900), line(None, 500)], 2000, id="a line that sells no plan"),
        pytest.param([line(FREE, 0)], 50, id="a free plan"),
        pytest.param([line(FREE, 0, quantity=2)], 100, id="two seats of a free plan"),
        pytest.param([line(FREE, 0, proration=True)], 0, id="a free plan's proration"),
        pytest.param([line(PRO, 0)], 100, id="a trial"),
        pytest.param([line(PRO, 0, quantity=2)], 200, id="a trial of two seats"),
        pytest.param([line(BASIC, 0)], 0, id="a trial of a plan that gives none"),
        pytest.param([line(PRO, 0, proration=True)], 0, id="a proration of nothing"),
        pytest.param([], 0, id="no lines"),
    ],
)
def test_lines_give_what_their_money_buys(lines: list[LineFacts], credits: int) -> None:
    """S21, S26: by the line's amount, not by the number of events or changes."""
    assert quoted(*lines).credits == credits


def test_the_sum_is_rounded_down_once() -> None:
    """Thrice a third of a credit is one credit: no line is rounded by itself."""
    third = line(BASIC, 600, proration=True)  # 333 1/3
    assert quoted(third).credits == 333
    assert quoted(third, third, third).credits == 1000


def test_the_plan_is_that_of_the_line_that_gives_most() -> None:
    upgrade = quoted(line(BASIC, -450, proration=True), line(PRO, 1450, proration=True))
    assert (upgrade.plan, upgrade.price) == ("pro", PRO)


def test_an_unknown_price_gives_nothing_and_is_named() -> None:
    """S15: never a guess, never silence."""
    mixed = quoted(line("price_of_somebody", 5000), line(PRO, 2900))
    assert (mixed.credits, mixed.unknown_prices) == (2000, ("price_of_somebody",))
    assert quoted(line("price_of_somebody", 5000)) == Quote(
        0, None, None, unknown_prices=("price_of_somebody",)
    )


def test_a_price_whose_plan_left_the_catalogue_is_unknown() -> None:
    gone = {"price_gone": StripePrice("price_gone", "key_gone", "gone", 100, "usd")}
    assert quote([line("price_gone", 100)], CATALOGUE, gone).unknown_prices == ("price_gone",)


def test_credits_expire_with_their_period_where_the_plan_says_so() -> None:
    assert [item.expires_at for item in installments(quoted(line(ENDS, 1000)).parts)] == [PERIOD_END]
    assert [item.expires_at for item in installments(quoted(line(PRO, 2900)).parts)] == [None]


@given(st.lists(st.integers(1, 2900), min_size=1, max_size=12), st.sampled_from([BASIC, PRO, ENDS]))
def test_a_period_bought_in_parts_never_gives_more_than_bought_plainly(parts: list[int], price: str) -> None:
    """S26: whether on one invoice or on one each."""
    plainly = quoted(line(price, sum(parts))).credits
    prorated = [line(price, part, proration=True) for part in parts]
    assert quoted(*prorated).credits == plainly
    assert sum(quoted(part).credits for part in prorated) <= plainly


changes = st.lists(
    st.builds(line, st.sampled_from([BASIC, PRO, ENDS]), st.integers(-5000, 5000), st.just(1), st.just(True)),
    max_size=8,
)


@given(changes)
def test_no_invoice_takes_credits_away(lines: list[LineFacts]) -> None:
    given = installments(quoted(*lines).parts)
    assert all(item.credits >= 0 for item in given)
    assert sum(item.credits for item in given) == max(0, quoted(*lines).credits)


@given(changes, changes)
def test_what_is_given_back_counts_against_what_is_bought(
    bought: list[LineFacts], more: list[LineFacts]
) -> None:
    """S26: adding a line and its reversal changes nothing."""
    back = [line(each.price, -each.amount_minor, each.quantity, proration=True) for each in more]
    assert quoted(*bought, *more, *back).credits == quoted(*bought).credits
