"""Free credits (free plans, trials, full discounts, upgrades in full), and their bound."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec.structs import replace

from paidup.domain.billing_months import add_months, months_between
from paidup.domain.catalog import OnCancel, Plan, Rollover, Upgrade
from paidup.domain.credit_schedule import grant_schedules
from paidup.domain.payment_facts import LineFacts
from paidup.domain.reversals import ReversalFacts, claim
from tests.support.billing_simulator import Item
from tests.unit.test_credit_schedule import EXTRA, ODD, Sold, catalogue, given_by, life, on, prices_of

FREE_PLAN = Plan("free", "Free", 50, (*prices_of("free", 0, 0),))
SHOP = (
    Plan("basic", "Basic", 500, prices_of("basic", 900, 9000)),
    Plan("advanced", "Advanced", 1200, prices_of("advanced", 1900, 19000)),
    Plan("pro", "Pro", 2000, prices_of("pro", 2900, 29000), trial_credits=100),
    EXTRA,
)
GIFTS = catalogue(FREE_PLAN, Plan("more", "More", 80, prices_of("more", 0, 0)), *SHOP)


def test_repeating_a_free_plan_within_its_period_gives_nothing_more() -> None:
    """Whatever is cancelled in between; once the period is over, the next regular grant comes."""
    bills = life(GIFTS)
    bills.subscribe(on("free_month", sold=GIFTS))
    for _ in range(3):
        bills.wait(10)
        bills.cancel()
        bills.subscribe(on("free_month", sold=GIFTS))
    assert given_by(bills) == [50, 0, 0, 0]
    bills.renew()
    bills.renew()
    assert given_by(bills) == [50, 0, 0, 0, 50, 50]


def test_a_free_plan_gives_at_most_the_largest_quantity() -> None:
    """Even where the subscription was given more in Stripe: where there is no money, it decides nothing."""
    bills = life(GIFTS)
    bills.subscribe(on("free_month", 10_000, GIFTS))
    assert given_by(bills) == [50]
    for_teams = catalogue(replace(FREE_PLAN, max_quantity=3))
    bills = life(for_teams)
    bills.subscribe(on("free_month", 10_000, for_teams))
    assert given_by(bills) == [150]


def test_a_larger_free_plan_gives_only_the_difference() -> None:
    """All that costs nothing comes to as much as the largest of it; a smaller one adds nothing."""
    bills = life(GIFTS)
    for key in ("free_month", "more_month", "free_month", "more_month"):
        bills.cancel()
        bills.subscribe(on(key, sold=GIFTS))
    assert given_by(bills) == [50, 30, 0, 0]


def test_a_trial_with_a_free_plan_gives_the_difference_and_a_paid_plan_all() -> None:
    bills = life(GIFTS)
    bills.subscribe(on("free_month", sold=GIFTS))
    bills.cancel()
    bills.subscribe(on("pro_month", sold=GIFTS), trial_days=14)
    bills.cancel()
    bills.subscribe(on("pro_month", sold=GIFTS), trial_days=14)
    assert given_by(bills) == [50, 50, 0]
    bills.renew()
    assert given_by(bills) == [50, 50, 0, 2000]
    bills.renew()
    bills.cancel()
    bills.subscribe(on("free_month", sold=GIFTS))
    assert given_by(bills)[-1] == 50, "what was paid for stands in the way of nothing"


def test_a_full_discount_gives_credits_once_per_period() -> None:
    """A plan and a top-up alike, a change included; half the money is money."""
    bills = life(GIFTS)
    bills.percent_off = 100
    for _ in range(3):
        bills.subscribe(on("basic_month", sold=GIFTS))
        bills.wait(10)
        bills.change(on("pro_month", sold=GIFTS))
        bills.cancel()
    # The rest of a month's difference; and what is missing to one whole grant of the larger plan.
    assert given_by(bills) == [500, 1350, 0, 150, 0, 0]
    for _ in range(2):
        bills.top_up(GIFTS[1]["extra"], 3)
    assert given_by(bills)[6:] == [1000, 0]
    bills.percent_off = 50
    bills.subscribe(on("basic_month", sold=GIFTS))
    assert given_by(bills)[-1] == 500


def test_a_late_upgrade_in_full_gives_credits_once_per_period() -> None:
    """Up, down, canceled, repeated: more than the money buys is granted once, for one seat."""
    sold = catalogue(*(replace(plan, upgrade=Upgrade.FULL) for plan in SHOP[:3]))
    bills = life(sold)
    bills.subscribe(on("basic_month", sold=sold))
    bills.at = bills.end - 3600
    bills.change(on("pro_month", 10_000, sold))
    (_, at_the_end), paid = given_by(bills), bills.last.money.total_minor * 2000 // 2900
    assert at_the_end <= paid + 2000
    for _ in range(3):
        bills.change(on("basic_month", sold=sold))
        bills.change(on("pro_month", 10_000, sold))
    assert sum(given_by(bills)[2:]) == 0


def test_an_upgrade_in_full_within_a_year_counts_started_months() -> None:
    """In a year's last minute it gives a month, not twelve."""
    sold = catalogue(*(replace(plan, upgrade=Upgrade.FULL) for plan in SHOP[:3]))
    bills = life(sold)
    bills.subscribe(on("basic_year", sold=sold))
    bills.at = bills.end - 3600
    bills.change(on("pro_year", sold=sold))
    assert given_by(bills) == [6000, 1500]


POLICIES = st.fixed_dictionaries(
    {
        "upgrade": st.sampled_from(Upgrade),
        "on_cancel": st.sampled_from(OnCancel),
        "max_quantity": st.sampled_from([None, 1, 3]),
        "trial_credits": st.sampled_from([0, 100]),
        "rollover": st.sampled_from([Rollover.KEEP, Rollover.EXPIRE]),
    }
)
ODD_SHOP = ODD[0].plans


@st.composite
def shops(draw: st.DrawFn) -> Sold:
    """A catalogue with any policies, a free plan in it."""
    plans = draw(st.sampled_from([SHOP[:3], ODD_SHOP[:3]]))
    with_policies = [replace(plan, **draw(POLICIES)) for plan in (FREE_PLAN, *plans)]
    return catalogue(*with_policies, EXTRA)


ANY_ITEM = st.tuples(
    st.sampled_from(["free", "free", "basic", "advanced", "pro"]),
    st.sampled_from(["month", "month", "year"]),
    st.sampled_from([1, 1, 2, 3, 10_000]),
)
ANY_STEP = st.one_of(
    st.tuples(st.just("change"), ANY_ITEM, st.sampled_from(["now", "now", "later", "restart"])),
    st.tuples(st.just("buy again"), ANY_ITEM, st.sampled_from([0, 0, 14])),
    st.tuples(st.just("wait"), st.sampled_from([33, 50, 90, 99, 100])),
    st.tuples(st.just("coupon"), st.sampled_from([0, 50, 100])),
    st.tuples(st.just("top up"), st.integers(1, 4)),
    st.tuples(st.just("renew")),
    st.tuples(st.just("refund"), st.sampled_from([1, 2])),
)


class AnyLife:
    """A random life; `refunded` is how much of each invoice's cash has gone back."""

    def __init__(self, sold: Sold) -> None:
        self.sold = sold
        self.bills = life(sold)
        self.bills.subscribe(on("basic_month", sold=sold))
        self.refunded: dict[str, int] = {}
        self.half_off = False

    def step(self, name: str, *how: Any) -> None:
        getattr(self, name.replace(" ", "_"))(*how)

    def change(self, item: tuple[str, str, int], how: str) -> None:
        wanted = self._item(item)
        self.bills.change(wanted, later=how == "later", restart=how == "restart")

    def buy_again(self, item: tuple[str, str, int], trial_days: int) -> None:
        self.bills.cancel()
        wanted = self._item(item)
        self.bills.subscribe(wanted, trial_days if wanted.price.unit_amount_minor else 0)

    def wait(self, percent: int) -> None:
        self.bills.at = self.bills.end - 60 if percent == 100 else self.bills.at
        self.bills.wait(0 if percent == 100 else percent)

    def coupon(self, percent: int) -> None:
        self.bills.percent_off = percent
        self.half_off |= percent == 50

    def top_up(self, quantity: int) -> None:
        self.bills.top_up(self.sold[1]["extra"], quantity)

    def renew(self) -> None:
        self.bills.renew()

    def refund(self, parts: int) -> None:
        """The newest payment's cash, or half of it: for somebody who leaves, and comes again."""
        money = self.bills.last.money
        if money.total_minor > money.from_balance_minor:
            self.refunded[self.bills.last.invoice] = (money.total_minor - money.from_balance_minor) // parts
        self.buy_again(("basic", "month", 1), 0)

    def _item(self, item: tuple[str, str, int]) -> Item:
        plan, interval, quantity = item
        return on(f"{plan}_{interval}", quantity, self.sold)

    @property
    def given(self) -> int:
        """What remains where refunds have taken their part, as core/reversals.py says."""
        plans = grant_schedules(self.bills.paid)
        total = 0
        for each in self.bills.paid:
            schedule = plans[each.invoice]
            granted = sum(item.credits for item in schedule.installments)
            back = ReversalFacts("refund", "succeeded", self.refunded.get(each.invoice, 0))
            total += granted - claim(granted, each.money.total_minor, [back], schedule.offset).reversed
        return total

    @property
    def bound(self) -> Fraction:
        """docs/credits.md, "The most that a purchase can give"."""
        best = max(
            Fraction(plan.credits * price.interval.months, price.amount_minor)
            for plan in self.sold[0].plans
            for price in plan.prices
            if price.amount_minor
        )
        cash = self.bills.cash - sum(self.refunded.values())
        if self.half_off:
            cash = 2 * cash + sum(len(lines) for lines in self.bills.lines)  # each rounds by half a cent
        free = [line for lines in self.bills.lines for line in lines if self._may_be_free(line)]
        return best * cash + max(map(self._largest, free), default=0) * _separate(free)

    def _plan(self, line: LineFacts) -> Plan:
        return self.sold[0].plan(self.sold[1][str(line.price)].plan)

    def _may_be_free(self, line: LineFacts) -> bool:
        in_full = line.proration and self._plan(line).upgrade is Upgrade.FULL
        return line.amount_minor >= 0 and (line.amount_minor == line.discount_minor or in_full)

    def _largest(self, line: LineFacts) -> int:
        """What the line's plan gives for all months that its period touches, for as many as may be chosen."""
        plan, price = self._plan(line), self.sold[1][str(line.price)]
        trial = line.amount_minor == 0 < price.unit_amount_minor and not line.proration
        months = len(months_between(line.period_start, line.period_end))
        seat = plan.trial_credits if trial else plan.credits * months
        return seat * min(line.quantity, plan.quantity_limit)


def _separate(lines: list[LineFacts]) -> int:
    """How many of their periods there can be that do not overlap. A top-up's is a month."""
    number, over = 0, 0
    for start, end in sorted(map(_period, lines), key=lambda period: period[1]):
        if start >= over:
            number, over = number + 1, end
    return number


def _period(line: LineFacts) -> tuple[int, int]:
    lasts = line.period_end > line.period_start
    return line.period_start, line.period_end if lasts else add_months(line.period_start, 1)


@hypothesis_settings(max_examples=300)
@given(sold=shops(), steps=st.lists(ANY_STEP, max_size=14))
def test_no_path_gives_more_than_the_documented_bound_under_any_policy(
    sold: Sold, steps: list[tuple[Any, ...]]
) -> None:
    """Credits <= cash x the best rate, and one largest grant for each separate period that cost nothing."""
    lived = AnyLife(sold)
    for step in steps:
        lived.step(*step)
        assert lived.given <= lived.bound


def test_a_downgrade_in_full_does_not_hide_a_free_plan() -> None:
    """From a plan with upgrades in full to a free one: what is free counts as such, whatever goes back."""
    in_full = replace(SHOP[2], upgrade=Upgrade.FULL)
    bills = life(catalogue(in_full, FREE_PLAN))
    back = LineFacts("pro_month", -1, 1, True, bills.at, bills.at + 60)
    free = LineFacts("free_month", 0, 1, False, bills.at, add_months(bills.at, 1))
    quoted = bills.quote([back, free])
    assert quoted.credits == 50 - 2000
    assert quoted.free
    assert (quoted.free.credits, quoted.free.ceiling) == (50, 50)
