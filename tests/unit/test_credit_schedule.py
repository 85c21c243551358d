"""Credits are proportional to the money: the arithmetic of an invoice's lines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from paidup.domain.billing_months import add_months, months_between
from paidup.domain.catalog import Catalogue, Interval, Plan, PlanPrice, Rollover, StripePrice, Upgrade
from paidup.domain.credit_schedule import PaidInvoice, grant_schedules
from paidup.domain.payment_facts import LineFacts
from paidup.domain.quotes import Quote, installments, quote
from paidup.domain.reversals import ReversalFacts, claim
from tests.support.billing_simulator import DAY_S, Bills, Item

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


def test_the_quotes_plan_is_of_the_line_that_gives_most() -> None:
    upgrade = quoted(line(BASIC, -450, proration=True), line(PRO, 1450, proration=True))
    assert (upgrade.plan, upgrade.price) == ("pro", PRO)


def test_an_unknown_price_gives_nothing_and_is_named() -> None:
    """S15: never a guess, never silence."""
    mixed = quoted(line("price_of_somebody", 5000), line(PRO, 2900))
    assert (mixed.credits, mixed.unknown_prices) == (2000, ("price_of_somebody",))
    assert quoted(line("price_of_somebody", 5000)) == Quote(
        0, None, None, unknown_prices=("price_of_somebody",)
    )


def test_a_price_of_a_removed_plan_is_unknown() -> None:
    gone = {"price_gone": StripePrice("price_gone", "key_gone", "gone", 100, "usd")}
    assert quote([line("price_gone", 100)], CATALOGUE, gone).unknown_prices == ("price_gone",)


def test_credits_expire_with_their_period_if_the_plan_says_so() -> None:
    assert [item.expires_at for item in installments(quoted(line(ENDS, 1000)).parts)] == [PERIOD_END]
    assert [item.expires_at for item in installments(quoted(line(PRO, 2900)).parts)] == [None]


@given(st.lists(st.integers(1, 2900), min_size=1, max_size=12), st.sampled_from([BASIC, PRO, ENDS]))
def test_a_period_paid_in_parts_never_gives_more_than_paid_at_once(parts: list[int], price: str) -> None:
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
def test_negative_lines_are_subtracted_from_positive_ones(
    positive: list[LineFacts], more: list[LineFacts]
) -> None:
    """S26: adding a line and its reversal changes nothing."""
    back = [line(each.price, -each.amount_minor, each.quantity, proration=True) for each in more]
    assert quoted(*positive, *more, *back).credits == quoted(*positive).credits


# Months


def day(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def days(times: list[int]) -> list[str]:
    return [datetime.fromtimestamp(at, UTC).date().isoformat() for at in times]


@pytest.mark.parametrize(
    ("start", "months", "then"),
    [
        ("2027-01-31", 1, "2027-02-28"),
        ("2027-01-31", 2, "2027-03-31"),
        ("2027-01-31", 3, "2027-04-30"),
        ("2028-01-31", 1, "2028-02-29"),
        ("2028-02-29", 12, "2029-02-28"),
        ("2028-02-29", 48, "2032-02-29"),
        ("2027-12-15", 1, "2028-01-15"),
    ],
)
def test_a_month_later_is_the_same_day_or_the_months_last(start: str, months: int, then: str) -> None:
    """S27."""
    assert add_months(day(start), months) == day(then)


def test_months_from_a_31st_start_on_each_months_last_day() -> None:
    """S27: a short month moves none of those after it."""
    begins = months_between(day("2027-01-31"), day("2028-01-31"))
    assert days(begins)[:4] == ["2027-01-31", "2027-02-28", "2027-03-31", "2027-04-30"]
    assert (len(begins), days(begins)[-1]) == (12, "2027-12-31")


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_months_follow_each_other_by_28_to_31_days(start: int, months: int) -> None:
    begins = months_between(start, add_months(start, months))
    assert len(begins) == months
    assert all(28 * DAY_S <= later - earlier <= 31 * DAY_S for earlier, later in pairwise(begins))


# Years, changes, balances. What each invoice of a life gives, in Stripe's order.


def prices_of(name: str, month: int, year: int) -> tuple[PlanPrice, ...]:
    return (
        PlanPrice(f"{name}_month", month),
        PlanPrice(f"{name}_year", year, interval=Interval.YEAR),
    )


def catalogue(*plans: Plan) -> tuple[Catalogue, dict[str, StripePrice]]:
    made = [
        StripePrice(sold.lookup_key, sold.lookup_key, plan.id, sold.amount_minor, "usd", sold.interval)
        for plan in plans
        for sold in plan.prices
    ]
    return Catalogue(plans), {price.id: price for price in made}


EXTRA = Plan("extra", "Extra", 1000, (PlanPrice("extra", 1500, interval=Interval.ONCE),))
OURS = catalogue(
    Plan("basic", "Basic", 500, prices_of("basic", 900, 9000)),
    Plan("advanced", "Advanced", 1200, prices_of("advanced", 1900, 19000)),
    Plan("pro", "Pro", 2000, prices_of("pro", 2900, 29000)),
    EXTRA,
)
NO_REBATE = catalogue(
    Plan("basic", "Basic", 500, prices_of("basic", 900, 10800)),
    Plan("advanced", "Advanced", 1200, prices_of("advanced", 1900, 22800)),
    Plan("pro", "Pro", 2000, prices_of("pro", 2900, 34800)),
    EXTRA,
)
"""A year costs twelve months, so that the best rate is a month's."""
ODD = catalogue(
    Plan("basic", "Cheap and much", 900, prices_of("basic", 900, 9000)),
    Plan("advanced", "Dear and little", 300, prices_of("advanced", 1900, 19000)),
    Plan("pro", "Dear by the year", 2000, prices_of("pro", 2900, 40000)),
    EXTRA,
)
"""A catalogue that no shop would have: what costs more may give less."""
Sold = tuple[Catalogue, dict[str, StripePrice]]


def life(sold: Sold = OURS) -> Bills:
    return Bills(*sold)


def on(key: str, quantity: int = 1, sold: Sold = OURS) -> Item:
    return Item(sold[1][key], quantity)


def given_by(bills: Bills) -> list[int]:
    """The credits of each invoice, those to come included."""
    plans = grant_schedules(bills.paid)
    return [sum(item.credits for item in plans[each.invoice].installments) for each in bills.paid]


def year_of(bills: Bills, invoice: int = 0) -> list[int]:
    return [item.credits for item in grant_schedules(bills.paid)[f"in_{invoice}"].installments]


def test_a_year_gives_twelve_monthly_installments() -> None:
    """S27."""
    bills = life()
    bills.subscribe(on("pro_year"))
    assert year_of(bills) == [2000] * 12


@given(st.integers(1, 10**6), st.integers(1, 24))
def test_installments_sum_up_exactly_and_differ_by_at_most_one(amount: int, months: int) -> None:
    """S27."""
    start = day("2027-01-31")
    quoted_year = quote([LineFacts("pro_year", amount, 1, True, start, add_months(start, months))], *OURS)
    parts = [item.credits for item in installments(quoted_year.parts)]
    assert (len(parts), sum(parts)) == (months, quoted_year.credits)
    assert max(parts) - min(parts) <= 1
    assert parts == sorted(parts, reverse=True)


def test_each_installment_expires_when_the_next_is_due_if_the_plan_says_so() -> None:
    """S27."""
    sold = catalogue(Plan("ends", "Ends", 500, prices_of("ends", 900, 9000), rollover=Rollover.EXPIRE))
    bills = life(sold)
    bills.subscribe(on("ends_year", sold=sold))
    parts = grant_schedules(bills.paid)["in_0"].installments
    assert [part.due_at for part in parts[1:]] == [part.expires_at for part in parts[:-1]]
    assert (parts[0].due_at, parts[-1].expires_at) == (None, bills.end)


def test_an_upgrade_within_the_year_adds_to_later_installments() -> None:
    """S26: six months of the difference, over the six months that are left."""
    bills = life()
    bills.subscribe(on("basic_year"))
    bills.at = add_months(bills.start, 6)
    bills.change(on("pro_year"))
    assert year_of(bills) == [500] * 12
    assert len(year_of(bills, 1)) == 6
    assert sum(year_of(bills, 1)) == pytest.approx(6 * 1500, rel=0.02)


def test_a_downgrade_within_the_year_lowers_later_installments() -> None:
    """S26: evenly, and never below nothing; what was given stays."""
    bills = life()
    bills.subscribe(on("pro_year"))
    bills.at = add_months(bills.start, 6) + 1
    bills.change(on("basic_year"))
    parts = year_of(bills)
    assert parts[:7] == [2000] * 7
    assert sum(parts) + sum(year_of(bills, 1)) <= 24000 - 9000 + 100
    assert all(part == pytest.approx(parts[7], abs=1) for part in parts[7:])
    assert min(parts) >= 0


def test_the_rest_of_an_abandoned_year_is_granted_soon() -> None:
    """S26: from year to month; what was paid and not yet given is not spread over a year that is over."""
    bills = life()
    bills.subscribe(on("pro_year"))
    bills.at += 15 * DAY_S
    bills.change(on("pro_month"))
    parts = year_of(bills)
    assert parts[0] == 2000
    assert parts[1] == pytest.approx(1000, abs=30)
    assert sum(parts[2:]) == 0
    bills.renew()
    assert given_by(bills)[-1] == 2000


def test_from_month_to_year_the_unused_month_is_subtracted() -> None:
    """S26."""
    bills = life()
    bills.subscribe(on("pro_month"))
    bills.wait(50)
    bills.change(on("pro_year"))
    assert sum(year_of(bills, 1)) == pytest.approx(23000, abs=1)
    assert max(year_of(bills, 1)) - min(year_of(bills, 1)) <= 1


def test_a_downgrade_is_offset_against_what_its_money_buys() -> None:
    """S26: renewals from the Stripe balance give nothing until it is used up; cash gives its share."""
    bills = life()
    bills.subscribe(on("pro_month"))
    bills.change(on("basic_month"))
    for _ in range(4):
        bills.renew()
    assert given_by(bills) == [2000, 0, 0, 0, 388, 500]  # 20.00 pays two renewals and 2.00 of the third
    assert bills.cash == 2900 + 700 + 900


def test_a_top_up_paid_from_the_balance_is_offset_too() -> None:
    """S26."""
    bills = life()
    bills.subscribe(on("pro_month"))
    bills.change(on("basic_month"))
    bills.top_up(OURS[1]["extra"], 1)
    assert given_by(bills) == [2000, 0, 0]


def left_after(bills: Bills, refunded_minor: int) -> int:
    """What remains of the last invoice's credits once so much of its money was returned."""
    schedule = grant_schedules(bills.paid)[bills.last.invoice]
    granted = sum(item.credits for item in schedule.installments)
    back = [ReversalFacts("refund", "succeeded", refunded_minor)]
    return granted - claim(granted, bills.last.money.total_minor, back, schedule.offset).reversed


def test_the_cash_of_a_partly_offset_invoice_takes_back_all_that_it_gave() -> None:
    """S25, S26: 18.00 for 1,800 credits; a downgrade's 9.00 pays half, so that the other 9.00 gave 900."""
    sold = catalogue(
        Plan("small", "Small", 100, prices_of("small", 100, 1000)),
        Plan("large", "Large", 1000, prices_of("large", 1000, 10000)),
        EXTRA,
    )
    bills = life(sold)
    bills.subscribe(on("large_month", sold=sold))
    bills.change(on("small_month", sold=sold))  # 9.00 to the balance, 900 credits carried over
    bills.change(on("large_month", 2, sold))
    assert (bills.last.money.total_minor, bills.last.money.from_balance_minor) == (1900, 900)
    assert given_by(bills) == [1000, 0, 1000]
    assert [left_after(bills, minor) for minor in (0, 500, 1000, 1900)] == [1000, 500, 0, 0]


def test_a_plan_change_buys_back_a_downgrade_even_when_its_money_is_spent() -> None:
    """S26: within the time that the money paid for; a plan's low rate cannot be turned into a better one."""
    bills = life()
    bills.subscribe(on("pro_month"))
    for _ in range(3):
        bills.wait(10)
        bills.change(on("basic_month"))  # 18.00 go to the balance: two renewals
        bills.renew()
        bills.renew()
        bills.change(on("pro_month"))
    assert given_by(bills)[4] == 1500 - 350
    assert sum(given_by(bills)) * 2900 <= 2000 * bills.cash


@pytest.mark.parametrize("renewals", [0, 2])
def test_a_change_billed_at_the_renewal_buys_back_a_downgrade(renewals: int) -> None:
    """S26: so does the one that Stripe bills later, though its money is then only a part of a renewal's."""
    bills = life(NO_REBATE)
    bills.subscribe(on("pro_month", sold=NO_REBATE))
    bills.wait(50 if renewals else 0)
    bills.change(on("basic_month", sold=NO_REBATE))
    for _ in range(renewals):
        bills.renew()
    bills.wait(5)
    bills.change(on("pro_month", sold=NO_REBATE), later=True)
    bills.renew()
    assert sum(given_by(bills)) * 2900 <= 2000 * bills.cash


def test_a_change_of_a_year_paid_after_it_is_granted_at_once() -> None:
    """S26, S27: its months are over."""
    bills = life()
    bills.subscribe(on("basic_year"))
    bills.wait(50)
    bills.change(on("pro_year"), later=True)
    bills.renew()
    late = [item for item in grant_schedules(bills.paid)["in_1"].installments if item.due_at is None]
    # 33000 in all: what is given back is taken off both in proportion.
    assert sum(item.credits for item in late) == pytest.approx(11000 + 22000 / 12, abs=20)
    assert len(grant_schedules(bills.paid)["in_1"].installments) == 13


def test_the_rest_of_a_carryover_is_dropped_after_its_period() -> None:
    """S26: an upgrade a month later is credited in full."""
    bills = life()
    bills.subscribe(on("pro_month"))
    bills.change(on("basic_month"))
    for _ in range(4):
        bills.renew()
    bills.change(on("pro_month"))
    assert given_by(bills)[-1] == 1500


def test_money_that_left_the_balance_elsewhere_withholds_no_credits() -> None:
    """S26: after the balance was emptied elsewhere, the next upgrade is paid in cash and credited."""
    bills = life()
    bills.subscribe(on("pro_month"))
    bills.change(on("basic_month"))
    bills.balance = 0
    bills.renew()
    bills.change(on("pro_month"))
    assert given_by(bills)[2:] == [500, 1500]


def test_prorations_billed_at_the_renewal_last_as_long_as_its_period() -> None:
    """S26: a second seat, made in Stripe by default; none of its credits is over before it is paid."""
    sold = catalogue(Plan("ends", "Ends", 500, prices_of("ends", 900, 9000), rollover=Rollover.EXPIRE))
    bills = life(sold)
    bills.subscribe(on("ends_month", sold=sold))
    bills.wait(50)
    bills.change(on("ends_month", 2, sold), later=True)
    bills.renew()
    items = grant_schedules(bills.paid)[bills.last.invoice].installments
    assert sum(item.credits for item in items) == 1250
    assert {item.expires_at for item in items} == {bills.end}
    assert {item.due_at for item in items} == {None}


def test_upgrades_in_full_count_whole_plans_in_both_directions() -> None:
    """S26: flapping gives nothing more under that policy either."""
    sold = catalogue(
        Plan("basic", "Basic", 500, prices_of("basic", 900, 9000), upgrade=Upgrade.FULL),
        Plan("pro", "Pro", 2000, prices_of("pro", 2900, 29000), upgrade=Upgrade.FULL),
    )
    bills = life(sold)
    bills.subscribe(on("basic_month", sold=sold))
    bills.wait(50)
    for key in ("pro_month", "basic_month", "pro_month", "basic_month", "pro_month"):
        bills.change(on(key, sold=sold))
    assert given_by(bills) == [500, 1500, 0, 0, 0, 0]


CHANGE = st.tuples(
    st.sampled_from(["basic", "advanced", "pro"]),
    st.sampled_from(["month", "month", "year"]),
    st.integers(1, 3),
    st.sampled_from([0, 33, 50, 90]),
    st.sampled_from(["now", "now", "later", "restart"]),
)
RENEW, TOP_UP = st.just("renew"), st.integers(1, 4)
Step = tuple[str, str, int, int, str] | str | int


def lived(sold: Sold, first: str, steps: list[Step]) -> Iterator[Bills]:
    """A life, step by step; the same `Bills` each time, at another moment."""
    bills = life(sold)
    bills.subscribe(on(first, sold=sold))
    yield bills
    for step in steps:
        if isinstance(step, int):
            bills.top_up(sold[1]["extra"], step)
        elif isinstance(step, str):
            bills.renew()
        else:
            plan, interval, quantity, percent, how = step
            bills.wait(percent)
            wanted = on(f"{plan}_{interval}", quantity, sold)
            bills.change(wanted, later=how == "later", restart=how == "restart")
        yield bills


def cash_of(paid: PaidInvoice) -> int:
    return max(0, paid.money.total_minor - paid.money.from_balance_minor)


lives = st.lists(CHANGE | RENEW | TOP_UP, max_size=14)
begins = st.sampled_from(["basic_month", "pro_month", "pro_year"])


@pytest.mark.parametrize("sold", [OURS, NO_REBATE, ODD], ids=["ours", "no rebate", "odd"])
@hypothesis_settings(max_examples=150)
@given(first=begins, steps=lives)
def test_no_path_gives_more_than_its_cash_buys_at_the_best_rate(
    sold: Sold, first: str, steps: list[Step]
) -> None:
    """S26: at every moment, all credits given and to come <= cash paid x the best rate of any price.

    Exactly: each invoice is rounded down, so there is no slack at all.
    """
    best = max(
        Fraction(plan.credits * price.interval.months, price.amount_minor)
        for plan in sold[0].plans
        for price in plan.prices
    )
    for bills in lived(sold, first, steps):
        assert sum(given_by(bills)) <= best * bills.cash


@pytest.mark.parametrize("sold", [OURS, NO_REBATE, ODD], ids=["ours", "no rebate", "odd"])
@hypothesis_settings(max_examples=100)
@given(first=begins, steps=lives)
def test_the_newest_payments_cash_gives_nothing_once_it_is_returned(
    sold: Sold, first: str, steps: list[Step]
) -> None:
    """S25, S26: what remains is at most what the balance's share bought beyond the downgrade's credits."""
    for bills in lived(sold, first, steps):
        money, schedule = bills.last.money, grant_schedules(bills.paid)[bills.last.invoice]
        if money.total_minor <= 0:
            continue
        bought = bills.last.quote.credits
        by_balance = -(-bought * money.from_balance_minor // money.total_minor)
        remaining = left_after(bills, cash_of(bills.last))
        assert remaining == max(0, by_balance - schedule.offset)
        assert left_after(bills, money.total_minor) == 0


@pytest.mark.parametrize("sold", [OURS, NO_REBATE, ODD], ids=["ours", "no rebate", "odd"])
@hypothesis_settings(max_examples=100)
@given(first=begins, steps=lives)
def test_a_period_paid_in_cash_is_credited_in_full(sold: Sold, first: str, steps: list[Step]) -> None:
    """S26: a first purchase or a renewal gives all that its lines say, whatever was changed before."""
    for bills in lived(sold, first, steps):
        if bills.last.invoice in bills.plain:
            assert given_by(bills)[-1] == bills.last.quote.credits


UPWARDS = st.lists(st.tuples(st.sampled_from([0, 33, 50]), st.booleans()), max_size=6)


@given(steps=UPWARDS)
def test_a_customer_who_only_upgrades_is_credited_in_full(steps: list[tuple[int, bool]]) -> None:
    """S26: where dearer plans give more, none is charged without credits who gave nothing back."""
    ladder = [on(f"{plan}_month", seats) for seats in (1, 2, 3) for plan in ("basic", "advanced", "pro")]
    ladder.sort(key=lambda item: item.amount)
    bills = life()
    bills.subscribe(ladder[0])
    for rung, (percent, renews) in enumerate(steps, start=1):
        bills.wait(percent)
        bills.change(ladder[rung])
        assert given_by(bills)[-1] == bills.last.quote.credits > 0
        if renews:
            bills.renew()


@given(first=begins, steps=lives, percent=st.sampled_from([0, 50]))
def test_a_change_and_back_at_one_moment_changes_nothing(first: str, steps: list[Step], percent: int) -> None:
    """S26: it gives nothing; rounding may cost a credit for each invoice."""
    *_, bills = lived(OURS, first, steps)
    bills.wait(percent)
    bills.change(on("pro_month"))
    before = sum(given_by(bills))
    for _ in range(3):
        bills.change(on("basic_month"))
        bills.change(on("pro_month"))
    assert before - 6 <= sum(given_by(bills)) <= before
