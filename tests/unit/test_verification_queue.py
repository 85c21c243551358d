"""The queue of those who wait: who is asked about next, and what waiting costs. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from paidup.domain.backoff import DELAYED_AFTER_S
from paidup.errors import StripeUnavailable
from paidup.payments import verification_queue as module
from paidup.payments.verification_queue import CheckResult, VerificationQueue
from tests.support.virtual_time import run


class Stripe:
    """Has a place every `every_s`, and notes who was asked about and when."""

    def __init__(self, every_s: float = 0.0) -> None:
        self.every_s = every_s
        self.asked: list[tuple[float, str]] = []
        self.told_late: list[tuple[float, str]] = []
        self.listed: list[list[str]] = []
        self.answer = CheckResult(over=False, asked=True)
        self.errors: list[Exception] = []
        self.watches = VerificationQueue(self)

    async def place(self, max_wait_s: float) -> None:
        await asyncio.sleep(self.every_s)
        if self.errors:
            raise self.errors.pop()

    async def ask(self, invoice: str) -> CheckResult:
        self.asked.append((_now(), invoice))
        return self.answer

    async def list_paid(self, invoices: list[str]) -> None:
        self.listed.append(invoices)

    async def late(self, invoices: list[str]) -> None:
        self.told_late += [(_now(), invoice) for invoice in invoices]


def _now() -> float:
    return asyncio.get_running_loop().time()


Play = Callable[[Stripe], Coroutine[Any, Any, None]]


def played(stripe: Callable[[], Stripe], play: Play) -> Stripe:
    """What happened by the end of `play`, in virtual time."""
    made: list[Stripe] = []

    async def main() -> None:
        made.append(stripe())
        await play(made[0])
        await made[0].watches.close()

    run(main())
    return made[0]


def test_a_single_customer_is_asked_about_at_once_and_then_more_rarely() -> None:
    """S01: the queue adds no delay; a pause follows each answer of "not yet"."""

    async def play(stripe: Stripe) -> None:
        stripe.watches.add("in_1")
        assert stripe.watches.asking("in_1")
        await asyncio.sleep(10)

    times = [at for at, _ in played(Stripe, play).asked]
    assert times[0] == 0
    assert len(times) == 5
    assert times[1:] == pytest.approx([0.5, 1.5, 3.5, 7.5], rel=0.11)


def test_a_storm_of_sockets_costs_no_task_and_no_question_each() -> None:
    async def play(stripe: Stripe) -> None:
        for number in range(5000):
            stripe.watches.add(f"in_{number}")
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) <= 3  # this one, who waits for a place, and who looks after them
        assert not stripe.asked

    played(lambda: Stripe(every_s=1.0), play)


def test_first_questions_go_by_arrival() -> None:
    async def play(stripe: Stripe) -> None:
        for number in range(20):
            stripe.watches.add(f"in_{number}")
        await asyncio.sleep(0.41)

    asked = played(lambda: Stripe(every_s=0.05), play).asked
    assert [invoice for _, invoice in asked] == [f"in_{number}" for number in range(8)]


def test_in_a_crowd_those_asked_before_yield_but_do_not_starve() -> None:
    """More first questions come than there are places: of four places one is for those who ask again."""

    async def play(stripe: Stripe) -> None:
        for number in range(10):
            stripe.watches.add(f"in_early_{number}")
        await asyncio.sleep(1)
        for number in range(300):
            stripe.watches.add(f"in_new_{number}")
            await asyncio.sleep(0.025)

    asked = [invoice for _, invoice in played(lambda: Stripe(every_s=0.05), play).asked]
    crowded = range(asked.index("in_new_10"), len(asked))
    again = [asked[place] for place in crowded if asked[place] in asked[:place]]
    assert len(crowded) / 5 < len(again) < len(crowded) / 3
    assert any(invoice.startswith("in_early") for invoice in again)


def test_who_hurries_goes_before_those_asked_again() -> None:
    async def play(stripe: Stripe) -> None:
        for number in range(8):
            stripe.watches.add(f"in_{number}")
        await asyncio.sleep(3)
        stripe.every_s = 1.0
        await asyncio.sleep(12)  # now the questions of all are overdue
        stripe.watches.prioritize("in_5")
        stripe.asked.clear()
        await asyncio.sleep(2.1)

    assert "in_5" in {invoice for _, invoice in played(Stripe, play).asked[:2]}


def test_who_was_settled_or_left_takes_no_place() -> None:
    """The webhook was sooner: the place goes to somebody whose webhook is late."""

    async def play(stripe: Stripe) -> None:
        for number in range(10):
            stripe.watches.add(f"in_{number}")
        for number in range(5):
            stripe.watches.over(f"in_{number}")
        for number in range(5, 9):
            stripe.watches.remove(f"in_{number}")
        await asyncio.sleep(0.15)

    assert [invoice for _, invoice in played(lambda: Stripe(every_s=0.1), play).asked] == ["in_9"]


def test_a_question_that_is_not_needed_leaves_its_place_to_the_next() -> None:
    """Another process is asking, or the row is over: one place serves whoever needs it."""

    async def play(stripe: Stripe) -> None:
        stripe.answer = CheckResult(over=True, asked=False)
        for number in range(10):
            stripe.watches.add(f"in_{number}")
        await asyncio.sleep(0.15)
        assert not stripe.watches.asking("in_1")

    assert len(played(lambda: Stripe(every_s=0.1), play).asked) == 10


def test_with_no_place_to_be_had_it_goes_on_trying() -> None:
    """S34: a budget used up, or a bug: neither ends the watching."""

    async def play(stripe: Stripe) -> None:
        stripe.errors = [RuntimeError("a bug"), StripeUnavailable("used up")]
        stripe.watches.add("in_1")
        await asyncio.sleep(3)

    assert played(Stripe, play).asked


def test_after_half_a_minute_a_wait_is_late_once() -> None:
    """S06: told whether or not there was a place to ask."""

    async def play(stripe: Stripe) -> None:
        stripe.watches.add("in_left")
        stripe.watches.add("in_settled")
        stripe.watches.add("in_1")
        await asyncio.sleep(DELAYED_AFTER_S / 2)
        assert not stripe.watches.is_late("in_1")
        stripe.watches.over("in_settled")
        stripe.watches.remove("in_left")
        await asyncio.sleep(DELAYED_AFTER_S)
        assert stripe.watches.is_late("in_1")

    late = played(lambda: Stripe(every_s=1000.0), play).told_late
    assert [invoice for _, invoice in late] == ["in_1"]
    assert late[0][0] == pytest.approx(DELAYED_AFTER_S, abs=1.1)


def test_a_crowd_is_answered_by_list_and_a_few_are_not() -> None:
    """Twenty who wait for two seconds: by list. Nineteen are asked one by one, however slowly."""
    counts = {}
    for many in (module.BULK_THRESHOLD - 1, module.BULK_THRESHOLD):

        async def play(stripe: Stripe, many: int = many) -> None:
            for number in range(many):
                stripe.watches.add(f"in_{number}")
            await asyncio.sleep(module.BULK_AFTER_S - 0.1)
            assert not stripe.listed
            await asyncio.sleep(2)

        stripe = played(lambda: Stripe(every_s=100.0), play)
        counts[many] = stripe.listed and len(stripe.listed[0])
    assert counts == {module.BULK_THRESHOLD - 1: [], module.BULK_THRESHOLD: module.BULK_THRESHOLD}


def test_watches_that_come_and_go_leave_nothing_behind() -> None:
    async def play(stripe: Stripe) -> None:
        for number in range(1000):
            stripe.watches.add(f"in_{number}")
            await asyncio.sleep(0.001)
            stripe.watches.remove(f"in_{number}")
        assert len(stripe.watches._again) <= 101

    assert len(played(Stripe, play).asked) == 1000


def test_a_watch_that_is_not_to_hurry_is_asked_about_after_the_longest_pause() -> None:
    """S64: opening sockets one after another gains nothing; who is watched already keeps the pace."""

    async def play(stripe: Stripe) -> None:
        stripe.watches.add("in_limited", at_once=False)
        stripe.watches.add("in_watched")
        await asyncio.sleep(0.1)
        stripe.watches.add("in_watched", at_once=False)
        await asyncio.sleep(25)
        assert {invoice for _, invoice in stripe.asked} == {"in_watched"}
        assert len(stripe.asked) > 3
        await asyncio.sleep(10)
        assert "in_limited" in {invoice for _, invoice in stripe.asked}

    played(Stripe, play)
