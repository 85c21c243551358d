"""The verification queue and its worker: which invoice is checked next. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from paidup.domain.backoff import WATCHED_DEBIT_S, WATCHED_DELAYS_S
from paidup.errors import StripeUnavailable
from paidup.payments import covered_retries
from paidup.payments import verification_queue as module
from paidup.payments.settlements_under_way import GIVE_WAY_S
from paidup.payments.verification_queue import VerificationQueue
from paidup.payments.verification_worker import (
    MAX_CONCURRENT_CHECKS,
    CheckResult,
    Checks,
    Slot,
    VerificationWorker,
)
from tests.support.virtual_time import run


class Stripe:
    """Has a slot every `every_s`, `at_once` together, and records which invoices were checked, and when."""

    def __init__(self, every_s: float = 0.0, at_once: int = 1) -> None:
        self.every_s = every_s
        self.at_once = at_once
        self.acquired: list[tuple[float, int]] = []
        self.checked: list[tuple[float, str]] = []
        self.begun: list[tuple[float, str]] = []
        self.bulk: list[list[str]] = []
        self.covers = False
        self.bulk_is_due = True
        self.result = CheckResult(settled=False, used_slot=True)
        self.errors: list[Exception] = []
        self.queue = VerificationQueue()
        self.worker = VerificationWorker(
            self.queue,
            Checks(self.acquire_slots, self.check, self.check_in_bulk, lambda: self.bulk_is_due),
        )
        self.worker.start()

    async def acquire_slots(self, max_wait_s: float, at_most: int) -> int:
        slots = max(1, min(at_most, self.at_once))
        await asyncio.sleep(self.every_s * slots)
        if self.errors:
            raise self.errors.pop()
        self.acquired.append((_now(), slots))
        return slots

    async def check(self, invoice: str, slot: Slot) -> CheckResult:
        self.begun.append((_now(), invoice))
        if not await slot():
            return CheckResult(settled=False, used_slot=False)
        self.checked.append((_now(), invoice))
        return self.result

    async def check_in_bulk(self, invoices: list[str]) -> list[str]:
        self.bulk.append(invoices)
        return invoices if self.covers else []


def _now() -> float:
    return asyncio.get_running_loop().time()


Play = Callable[[Stripe], Coroutine[Any, Any, None]]


def played(stripe: Callable[[], Stripe], play: Play) -> Stripe:
    """What has happened by the end of `play`, in virtual time."""
    made: list[Stripe] = []

    async def main() -> None:
        made.append(stripe())
        await play(made[0])
        await made[0].worker.close()

    run(main())
    return made[0]


def test_a_single_invoice_is_checked_at_once_and_then_after_growing_pauses() -> None:
    """S01: the queue adds no delay; a pause follows each answer "not yet"."""

    async def play(stripe: Stripe) -> None:
        stripe.queue.add("in_1")
        assert stripe.queue.is_checking("in_1")
        await asyncio.sleep(10)

    times = [at for at, _ in played(Stripe, play).checked]
    assert times[0] == 0
    assert len(times) == 5
    assert times[1:] == pytest.approx([0.5, 1.5, 3.5, 7.5], rel=0.11)


@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize("opened", ["before", "meanwhile"])
def test_an_invoice_that_an_event_settles_is_checked_only_if_need_be(opened: str, settled: bool) -> None:
    """Once the settlement has ended. Until then it takes no slot, and its page shows it as being checked."""

    async def play(stripe: Stripe) -> None:
        if opened == "before":
            stripe.queue.add("in_1", at_once=False)
        with stripe.queue.settlements.settling("in_1"):
            if opened == "before":
                stripe.queue.prioritize("in_1")
            else:
                stripe.queue.add("in_1")
            assert stripe.queue.is_checking("in_1")
            await asyncio.sleep(0.1)
            assert not stripe.acquired
        if settled:
            stripe.queue.mark_settled("in_1")
        await asyncio.sleep(0.1)

    times = [at for at, _ in played(Stripe, play).checked]
    assert times == ([] if settled else [pytest.approx(0.1)])


def test_an_invoice_whose_settlement_takes_long_is_checked_all_the_same() -> None:
    async def play(stripe: Stripe) -> None:
        with stripe.queue.settlements.settling("in_1"):
            stripe.queue.add("in_1")
            await asyncio.sleep(0.6)
            assert [at for at, _ in stripe.checked] == [pytest.approx(0.5, rel=0.11)]

    played(Stripe, play)


def test_only_a_settlement_that_a_customer_waits_for_is_given_way_to() -> None:
    async def play(stripe: Stripe) -> None:
        stripe.queue.add("in_watched")
        with stripe.queue.settlements.settling("in_other"):
            await stripe.queue.give_way()
            assert _now() == 0
            with stripe.queue.settlements.settling("in_watched"):
                await stripe.queue.give_way()
        assert GIVE_WAY_S <= _now() < 2 * GIVE_WAY_S

    played(Stripe, play)


def test_a_bank_debit_is_checked_every_ten_to_twenty_minutes_while_a_page_is_open() -> None:
    """S44: its outcome comes days later, by webhook; a customer who asks is answered at once all the same."""

    def debit() -> Stripe:
        stripe = Stripe()
        stripe.result = CheckResult(settled=False, used_slot=True, takes_days=True)
        return stripe

    async def play(stripe: Stripe) -> None:
        stripe.queue.add("in_1")
        await asyncio.sleep(3600)
        assert 4 <= len(stripe.checked) <= 7
        stripe.checked.clear()
        stripe.queue.prioritize("in_1")
        await asyncio.sleep(0.1)

    assert len(played(debit, play).checked) == 1


def test_thousands_of_sessions_cost_no_task_and_no_check_each() -> None:
    async def play(stripe: Stripe) -> None:
        for number in range(5000):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) <= 3  # this one, and the two of the worker
        assert not stripe.checked

    played(lambda: Stripe(every_s=1.0), play)


def test_a_stripe_that_does_not_answer_is_asked_for_so_many_at_a_time() -> None:
    class SilentStripe(Stripe):
        async def check(self, invoice: str, slot: Slot) -> CheckResult:
            await super().check(invoice, slot)
            return await asyncio.Future()

    async def play(stripe: Stripe) -> None:
        for number in range(200):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(10)

    assert len(played(SilentStripe, play).begun) == MAX_CONCURRENT_CHECKS


def test_first_checks_go_by_arrival() -> None:
    async def play(stripe: Stripe) -> None:
        for number in range(20):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(0.41)

    checked = played(lambda: Stripe(every_s=0.05), play).checked
    assert [invoice for _, invoice in checked] == [f"in_{number}" for number in range(8)]


def test_many_retries_that_are_due_share_the_way_to_redis_and_are_spread() -> None:
    """Where slots are short: four at once, used one after another over the time that they stand for."""

    async def play(stripe: Stripe) -> None:
        for number in range(200):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(30)

    stripe = played(lambda: Stripe(every_s=0.05, at_once=4), play)
    together = [at for at, slots in stripe.acquired if slots == 4]
    assert len(together) > 20
    first = together[10]
    used = [at - first for at, _ in stripe.checked if first <= at < first + 0.2]
    assert used == pytest.approx([0, 0.05, 0.1, 0.15], abs=0.001)


def test_first_checks_that_wait_for_a_second_share_the_way_to_redis() -> None:
    """Those of the last second take each slot as soon as it is free."""

    async def play(stripe: Stripe) -> None:
        stripe.result = CheckResult(settled=True, used_slot=True)
        for number in range(60):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(10)

    stripe = played(lambda: Stripe(every_s=0.05, at_once=4), play)
    assert [slots for _, slots in stripe.acquired] == [4] * 11 + [1] * 16
    assert [invoice for _, invoice in stripe.checked] == [f"in_{number}" for number in range(60)]
    used = [at - stripe.acquired[1][0] for at, _ in stripe.checked[4:8]]
    assert used == pytest.approx([0, 0.05, 0.1, 0.15], abs=0.001)


def test_a_first_check_uses_a_slot_that_was_taken_for_a_retry() -> None:
    """It waits for none of those that slots were taken with."""

    async def play(stripe: Stripe) -> None:
        for number in range(200):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(30)
        taken = len(stripe.acquired)
        while len(stripe.acquired) == taken:
            await asyncio.sleep(0.001)
        assert stripe.acquired[-1][1] == 4
        await asyncio.sleep(0.01)  # the first of the four is used
        stripe.queue.add("in_new")
        began = _now()
        await asyncio.sleep(0.1)
        assert [at - began for at, invoice in stripe.checked if invoice == "in_new"] == [0]

    played(lambda: Stripe(every_s=0.05, at_once=4), play)


def test_retries_that_find_free_slots_are_not_spread() -> None:
    """Where slots are not short, none waits for another."""

    async def play(stripe: Stripe) -> None:
        for number in range(8):
            stripe.queue.add(f"in_{number}", at_once=False)
        for _, entry in stripe.queue._retries:
            entry.due_at = 1.0
        stripe.queue._retries = [(1.0, entry) for _, entry in stripe.queue._retries]
        stripe.queue._changed.set()
        await asyncio.sleep(2)

    stripe = played(lambda: Stripe(at_once=4), play)
    assert [at for at, _ in stripe.checked] == pytest.approx([1.0] * 8)
    assert [slots for _, slots in stripe.acquired] == [4, 4]


def test_under_load_retries_get_every_fourth_slot() -> None:
    """More first checks arrive than there are slots: retries are slower, and do not starve."""

    async def play(stripe: Stripe) -> None:
        for number in range(10):
            stripe.queue.add(f"in_early_{number}")
        await asyncio.sleep(1)
        for number in range(300):
            stripe.queue.add(f"in_new_{number}")
            await asyncio.sleep(0.025)

    checked = [invoice for _, invoice in played(lambda: Stripe(every_s=0.05), play).checked]
    loaded = range(checked.index("in_new_10"), len(checked))
    retries = [checked[index] for index in loaded if checked[index] in checked[:index]]
    assert len(loaded) / 5 < len(retries) < len(loaded) / 3
    assert any(invoice.startswith("in_early") for invoice in retries)


def test_a_prioritized_invoice_goes_before_retries() -> None:
    async def play(stripe: Stripe) -> None:
        for number in range(8):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(3)
        stripe.every_s = 1.0
        await asyncio.sleep(12)  # now all checks are overdue
        stripe.queue.prioritize("in_5")
        stripe.checked.clear()
        await asyncio.sleep(2.1)

    assert "in_5" in {invoice for _, invoice in played(Stripe, play).checked[:2]}


def test_settled_invoices_leave_the_queue() -> None:
    """The slot goes to an invoice whose webhook is late. The same where the customer has left."""

    async def play(stripe: Stripe) -> None:
        for number in range(10):
            stripe.queue.add(f"in_{number}")
        for number in range(5):
            stripe.queue.mark_settled(f"in_{number}")
        for number in range(5, 9):
            stripe.queue.remove(f"in_{number}")
        await asyncio.sleep(0.15)

    assert [invoice for _, invoice in played(lambda: Stripe(every_s=0.1), play).checked] == ["in_9"]


def test_skipped_checks_pass_their_slot_on() -> None:
    """Another process is verifying the invoice, or it is settled: the next invoice gets the slot."""

    async def play(stripe: Stripe) -> None:
        stripe.result = CheckResult(settled=True, used_slot=False)
        for number in range(10):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(0.15)
        assert not stripe.queue.is_checking("in_1")

    assert len(played(lambda: Stripe(every_s=0.1), play).checked) == 10


def test_the_worker_goes_on_after_a_failure_to_get_a_slot() -> None:
    """S34: no slot in time, or a bug: neither ends verification."""

    async def play(stripe: Stripe) -> None:
        stripe.errors = [RuntimeError("a bug"), StripeUnavailable("used up")]
        stripe.queue.add("in_1")
        await asyncio.sleep(3)

    stripe = played(Stripe, play)
    assert 1 <= len(stripe.checked) <= len(stripe.acquired)


def test_a_check_begins_while_its_slot_is_awaited() -> None:
    """Not where slots are short: the invoice's lease would keep other processes from verifying it."""

    async def play(stripe: Stripe) -> None:
        stripe.queue.add("in_1")
        stripe.queue.add("in_2")
        await asyncio.sleep(0.25)

    stripe = played(lambda: Stripe(every_s=0.1), play)
    assert [at for at, _ in stripe.begun] == pytest.approx([0, 0.2])
    assert [at for at, _ in stripe.checked] == pytest.approx([0.1, 0.2])


def test_a_check_that_is_not_needed_any_more_passes_its_slot_on() -> None:
    """It is settled, or its tab is closed, while the slot is awaited."""

    async def play(stripe: Stripe) -> None:
        for number in range(3):
            stripe.queue.add(f"in_{number}")
        await asyncio.sleep(0.05)
        stripe.queue.remove("in_0")
        stripe.queue.mark_settled("in_1")
        await asyncio.sleep(0.1)

    stripe = played(lambda: Stripe(every_s=0.1), play)
    assert [invoice for _, invoice in stripe.begun] == ["in_0", "in_2"]
    assert [invoice for _, invoice in stripe.checked] == ["in_2"]


def test_a_check_without_a_slot_is_made_later() -> None:
    """No slot in time: what was begun is given up, and comes again."""

    async def play(stripe: Stripe) -> None:
        stripe.errors = [StripeUnavailable("used up")]
        stripe.queue.add("in_1")
        await asyncio.sleep(0.15)
        assert stripe.begun
        assert not stripe.checked
        await asyncio.sleep(1)

    assert played(lambda: Stripe(every_s=0.1), play).checked


@pytest.mark.parametrize("end", [CheckResult(settled=False, used_slot=True), RuntimeError("a bug")])
def test_a_check_that_ends_before_its_slot_is_there_is_made_with_it(end: CheckResult | Exception) -> None:
    """The database failed, or there is a bug: the invoice stays in the queue."""

    class Ending(Stripe):
        async def check(self, invoice: str, slot: Slot) -> CheckResult:
            if self.begun:
                return await super().check(invoice, slot)
            self.begun.append((_now(), invoice))
            if isinstance(end, Exception):
                raise end
            return end

    async def play(stripe: Stripe) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        stripe.queue.add("in_1")
        await asyncio.sleep(0.15)

    checked = played(lambda: Ending(every_s=0.1), play).checked
    assert [at for at, _ in checked] == pytest.approx([0.1])


def test_a_check_that_was_given_up_does_not_end_the_next_one() -> None:
    """Its lease comes late. The next check of the invoice finds that a bank debit is under way."""

    class Slow(Stripe):
        async def check(self, invoice: str, slot: Slot) -> CheckResult:
            await asyncio.sleep(0 if self.begun else 0.1)
            checked = await super().check(invoice, slot)
            await asyncio.sleep(0.2)
            return checked

    async def play(stripe: Stripe) -> None:
        stripe.result = CheckResult(settled=False, used_slot=True, takes_days=True)
        stripe.errors = [StripeUnavailable("used up")]
        stripe.queue.add("in_1")
        await asyncio.sleep(WATCHED_DEBIT_S / 2)

    assert len(played(lambda: Slow(every_s=0.05), play).checked) == 1


def test_bulk_verification_starts_at_its_threshold() -> None:
    """Twenty invoices that wait for two seconds. Nineteen are checked one by one, however slowly."""
    counts = {}
    for many in (module.BULK_THRESHOLD - 1, module.BULK_THRESHOLD):

        async def play(stripe: Stripe, many: int = many) -> None:
            for number in range(many):
                stripe.queue.add(f"in_{number}")
            await asyncio.sleep(module.BULK_AFTER_S - 0.1)
            assert not stripe.bulk
            await asyncio.sleep(2)

        stripe = played(lambda: Stripe(every_s=100.0), play)
        counts[many] = stripe.bulk and len(stripe.bulk[0])
    assert counts == {module.BULK_THRESHOLD - 1: [], module.BULK_THRESHOLD: module.BULK_THRESHOLD}


def test_what_is_settled_or_left_while_it_pauses_is_not_verified_in_bulk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its place among those that are due stays until it is the first."""
    monkeypatch.setattr(module, "watched_delay_s", lambda attempt, chance: WATCHED_DELAYS_S[-1])

    async def play(stripe: Stripe) -> None:
        for number in range(module.BULK_THRESHOLD + 1):
            stripe.queue.add(f"in_{number}", at_once=False)
        stripe.queue.mark_settled("in_5")
        stripe.queue.remove("in_6")
        await asyncio.sleep(WATCHED_DELAYS_S[-1] * 2)
        assert len(stripe.queue._retries) > module.BULK_THRESHOLD

    assert not played(lambda: Stripe(every_s=1000.0), play).bulk


def test_sessions_that_come_and_go_leave_no_entries_behind() -> None:
    async def play(stripe: Stripe) -> None:
        for number in range(1000):
            stripe.queue.add(f"in_{number}")
            await asyncio.sleep(0.001)
            stripe.queue.remove(f"in_{number}")
        assert len(stripe.queue._retries) <= 101

    assert len(played(Stripe, play).checked) == 1000


def test_an_invoice_not_added_at_once_is_checked_after_the_longest_pause() -> None:
    """S64: opening sockets one after another gains nothing; an invoice in the queue keeps its pauses."""

    async def play(stripe: Stripe) -> None:
        stripe.queue.add("in_limited", at_once=False)
        stripe.queue.add("in_watched")
        await asyncio.sleep(0.1)
        stripe.queue.add("in_watched", at_once=False)
        await asyncio.sleep(25)
        assert {invoice for _, invoice in stripe.checked} == {"in_watched"}
        assert len(stripe.checked) > 3
        await asyncio.sleep(10)
        assert "in_limited" in {invoice for _, invoice in stripe.checked}

    played(Stripe, play)


# Retries of what bulk verification covers

WAITING = 200
AWAITS_PAYMENT = CheckResult(settled=False, used_slot=True, awaits_payment=True)


def covering() -> Stripe:
    """Twenty slots a second, and each pass of bulk verification finds that nobody has paid."""
    stripe = Stripe(every_s=0.05, at_once=4)
    stripe.result = AWAITS_PAYMENT
    stripe.covers = True
    return stripe


async def a_covered_backlog(stripe: Stripe) -> None:
    """All are checked, and then retried at the slow pace. What was checked until then is forgotten."""
    for number in range(WAITING):
        stripe.queue.add(f"in_{number}")
    await asyncio.sleep(60)
    stripe.checked.clear()
    stripe.bulk.clear()


def a_second(stripe: Stripe, begun: float) -> float:
    """Checks a second since then."""
    return len([at for at, _ in stripe.checked if at >= begun]) / (_now() - begun)


def test_retries_of_what_bulk_verification_covers_are_rare_and_go_round() -> None:
    """Each comes once, in order, before one comes again; and passes are still made for them all."""

    async def play(stripe: Stripe) -> None:
        await a_covered_backlog(stripe)
        began = _now()
        await asyncio.sleep(40)
        assert 3 < a_second(stripe, began) <= 1 / covered_retries.CHECK_EVERY_S
        invoices = [invoice for _, invoice in stripe.checked]
        assert len(set(invoices)) == len(invoices) < WAITING
        assert len(stripe.bulk) > 30
        assert {len(invoices) for invoices in stripe.bulk} == {WAITING}

    played(covering, play)


def test_while_no_pass_is_due_nothing_is_gathered_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All processes pause between two passes."""

    async def play(stripe: Stripe) -> None:
        await a_covered_backlog(stripe)
        stripe.bulk_is_due = False
        monkeypatch.setattr(stripe.queue, "begin_bulk", None)
        await asyncio.sleep(3)
        monkeypatch.undo()
        assert not stripe.bulk
        stripe.bulk_is_due = True
        await asyncio.sleep(1.1)
        assert stripe.bulk

    played(covering, play)


def test_without_bulk_verification_retries_use_all_slots() -> None:
    async def play(stripe: Stripe) -> None:
        stripe.covers = False
        await a_covered_backlog(stripe)
        began = _now()
        await asyncio.sleep(20)
        assert a_second(stripe, began) > 5, "as many as are due"

    played(covering, play)


@pytest.mark.parametrize("slow_s", [covered_retries.CHECK_EVERY_S, 1000.0])
def test_where_passes_cover_nothing_any_more_retries_use_all_slots_again(
    monkeypatch: pytest.MonkeyPatch, slow_s: float
) -> None:
    """Stripe's list fails, or has more pages than are read, or another process makes the passes."""
    monkeypatch.setattr(covered_retries, "CHECK_EVERY_S", slow_s)

    async def play(stripe: Stripe) -> None:
        await a_covered_backlog(stripe)
        stripe.covers = False
        await asyncio.sleep(covered_retries.COVERED_S + 1)
        began = _now()
        await asyncio.sleep(5)
        assert a_second(stripe, began) > 10

    played(covering, play)


def test_what_the_list_cannot_show_is_retried_as_ever() -> None:
    """A payment that is under way or has failed: its invoice is retried after each pause."""

    class Mixed(Stripe):
        async def check(self, invoice: str, slot: Slot) -> CheckResult:
            result = await super().check(invoice, slot)
            return result._replace(awaits_payment=False) if invoice == "in_0" else result

        async def check_in_bulk(self, invoices: list[str]) -> list[str]:
            return [f"in_{number}" for number in range(WAITING)]

    def mixed() -> Stripe:
        stripe = Mixed(every_s=0.05, at_once=4)
        stripe.result, stripe.covers = AWAITS_PAYMENT, True
        return stripe

    async def play(stripe: Stripe) -> None:
        await a_covered_backlog(stripe)
        await asyncio.sleep(5 * WATCHED_DELAYS_S[-1])
        assert [invoice for _, invoice in stripe.checked].count("in_0") >= 4

    played(mixed, play)


def test_what_a_pass_has_not_looked_for_is_retried_at_once() -> None:
    """It has become too old for the list meanwhile."""

    async def play(stripe: Stripe) -> None:
        await a_covered_backlog(stripe)
        stripe.worker._bulk = asyncio.ensure_future(asyncio.sleep(60))  # no other pass meanwhile
        last, others = "in_199", [f"in_{number}" for number in range(WAITING - 1)]
        stripe.queue.prioritize(last)
        await asyncio.sleep(1)
        stripe.queue.end_bulk([*others, last])
        await asyncio.sleep(10)
        stripe.queue.end_bulk(others)
        stripe.checked.clear()
        await asyncio.sleep(1)
        assert last in {invoice for _, invoice in stripe.checked}

    played(covering, play)


@pytest.mark.parametrize("during_a_pass", [False, True])
def test_a_customer_who_asks_is_checked_and_retried_as_ever(during_a_pass: bool) -> None:
    """At once, and after short pauses until the next pass: the last one may not have seen their payment."""

    async def play(stripe: Stripe) -> None:
        await a_covered_backlog(stripe)
        stripe.worker._bulk = asyncio.ensure_future(asyncio.sleep(60))  # no other pass meanwhile
        if during_a_pass:
            everyone = stripe.queue.begin_bulk()
            stripe.queue.prioritize("in_7")
            stripe.queue.end_bulk(everyone)
        else:
            stripe.queue.prioritize("in_7")
        began = _now()
        await asyncio.sleep(5)
        times = [at - began for at, invoice in stripe.checked if invoice == "in_7"]
        assert len(times) >= 3, "and not only one, at the slow pace"
        assert times[0] <= 0.5
        assert times[1] <= 1.5

    played(covering, play)


def checked_once(queue: VerificationQueue, invoice: str, awaits_payment: bool = True) -> None:
    """Its first check is over, and its retry is due half a second later."""
    queue.add(invoice)
    entry = queue.next()
    assert entry is not None
    queue.finish(entry, settled=False, awaits_payment=awaits_payment)


def test_no_slots_are_taken_for_retries_that_are_not_made() -> None:
    """Else each retry of another invoice would take three more slots, which customers wait for."""

    async def main() -> None:
        queue = VerificationQueue()
        for number in range(4):
            checked_once(queue, f"in_{number}", awaits_payment=number > 0)
        queue.end_bulk([f"in_{number}" for number in range(4)])
        await asyncio.sleep(1)
        assert queue.due_together(4) == 1

    run(main())


def test_a_pass_for_first_checks_looks_for_what_is_covered_too() -> None:
    """Though its retry is not due for long. Else it would be covered no more."""

    async def main() -> None:
        queue = VerificationQueue()
        await asyncio.sleep(1)
        checked_once(queue, "in_covered")
        queue.end_bulk(["in_covered"])
        first = [f"in_{number}" for number in range(module.BULK_THRESHOLD)]
        for invoice in first:
            queue.add(invoice)
        await asyncio.sleep(module.BULK_AFTER_S)
        assert queue.begin_bulk() == [*first, "in_covered"]

    run(main())
