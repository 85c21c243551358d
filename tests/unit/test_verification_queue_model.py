"""Random schedules of the verification queue, against a slow model of it. Time is virtual."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random

import pytest

from paidup.payments import covered_retries
from paidup.payments import verification_queue as module
from paidup.payments.queue_entries import QueueEntry, State, is_valid
from paidup.payments.verification_queue import VerificationQueue
from tests.support.virtual_time import run

INVOICES = [f"in_{number}" for number in range(8)]


@dataclass
class Modeled:
    """What the model knows of an invoice. `entry` is the queue's, which draws the pauses by chance."""

    entry: QueueEntry
    watchers: int = 1
    state: State = State.PAUSED
    awaits_payment: bool = False


class Model:
    """Looks at all invoices for each answer, where the queue keeps them in order."""

    def __init__(self) -> None:
        self.known: dict[str, Modeled] = {}
        self.first: list[str] = []
        self.covered: set[str] = set()
        self.asked: set[str] | None = None
        self.settling: dict[str, ExitStack] = {}
        self.asked_meanwhile: set[str] = set()
        """While they were being settled."""
        self.slow_until = self.slow_at = float("-inf")
        self.turn = 0

    def check_now(self, invoice: str) -> None:
        self.covered.discard(invoice)
        if self.asked is not None:
            self.asked.add(invoice)
        if self.known[invoice].state is not State.PAUSED:
            return
        if invoice in self.settling:
            self.asked_meanwhile.add(invoice)
        else:
            self.known[invoice].state = State.QUEUED
            self.first.append(invoice)

    def paused(self) -> list[str]:
        return [invoice for invoice, each in self.known.items() if each.state is State.PAUSED]

    def due_at(self, invoice: str) -> float:
        return self.known[invoice].entry.due_at

    def is_slow(self, invoice: str) -> bool:
        """Whether its retry is due, and made at the slow pace."""
        waits = self.known[invoice].awaits_payment and invoice in self.covered
        return waits and self.due_at(invoice) <= _now() < self.slow_until

    def due(self, before: float) -> list[str]:
        """The invoices of retries that are due by then and not slow, the first one first."""
        found = [each for each in self.paused() if not self.is_slow(each) and self.due_at(each) <= before]
        return sorted(found, key=self.due_at)

    def slow(self) -> list[str]:
        return [each for each in self.paused() if self.is_slow(each)]

    def next_retry_at(self) -> float | None:
        times = [self.due_at(each) for each in self.paused() if not self.is_slow(each)]
        if self.slow():
            times.append(min(self.slow_at, self.slow_until))
        return min(times, default=None)

    def next(self) -> list[str]:
        """Those of which one is to be checked next."""
        self.turn += 1
        if not self.first or self.turn % module.RETRY_SHARE == 0:
            if due := self.due(_now()):
                return due[:1]
            if _now() >= self.slow_at and (slow := self.slow()):
                self.slow_at = _now() + covered_retries.CHECK_EVERY_S
                return slow
        return self.first[:1]

    def bulk(self) -> tuple[bool, bool, set[str]]:
        """Whether a pass of bulk verification must begin, and may; and for which invoices."""
        before = _now() - module.BULK_AFTER_S
        due = [each for each in self.paused() if self.due_at(each) <= before]
        overdue = bool(due) or any(self.due_at(each) <= before for each in self.first[:1])
        slow = set(self.slow())
        awaiting = {each for each in self.paused() if self.known[each].awaits_payment}
        enough = len(self.first) + len(due) >= module.BULK_THRESHOLD
        may_be = len(self.first) + len({*due, *slow}) >= module.BULK_THRESHOLD
        return overdue and enough, overdue and may_be, {*self.first, *due, *awaiting}


class Schedule:
    """Does the same to the queue and to the model, and compares what they say."""

    def __init__(self) -> None:
        self.queue, self.model = VerificationQueue(), Model()
        self.checking: list[QueueEntry] = []
        self.covers: list[str] | None = None
        """What the pass of bulk verification that is under way looks for."""

    async def do(self, step: str, invoice: str, flag: bool, wait_s: float) -> None:
        await asyncio.sleep(wait_s)
        await getattr(self, step)(invoice, flag)
        await asyncio.sleep(0)  # the end of a settlement is told
        self.compare()

    def compare(self) -> None:
        queue, model = self.queue, self.model
        assert list(queue._first_checks) == model.first
        next_at, expected = queue._next_retry_at(), model.next_retry_at()
        assert next_at == expected or max(next_at or 0, expected or 0) <= _now()
        assert (next_at is None) == (expected is None)
        many = min(3, len(model.due(_now())))
        if model.first:
            many = 3 if len(model.first) >= module.BACKLOG else 0
        assert queue.due_together(3) == many
        for invoice in INVOICES:
            busy = invoice in model.known and model.known[invoice].state in (State.QUEUED, State.CHECKING)
            assert queue.is_checking(invoice) == (busy or invoice in model.settling)
        retries = [each[1] for each in (*queue._retries, *queue._covered._retries) if is_valid(each)]
        assert sorted(entry.invoice for entry in retries) == sorted(model.paused()), "none lost, none twice"
        assert len(queue._retries) + len(queue._covered._retries) <= 100 + 4 * len(INVOICES)

    async def add(self, invoice: str, at_once: bool) -> None:
        self.queue.add(invoice, at_once)
        entry = self.queue._entries[invoice]
        if each := self.model.known.get(invoice):
            assert each.entry is entry
            each.watchers += 1
        else:
            self.model.known[invoice] = Modeled(entry)
        if at_once:
            self.model.check_now(invoice)

    async def remove(self, invoice: str, _: bool) -> None:
        if each := self.model.known.get(invoice):
            self.queue.remove(invoice)
            each.watchers -= 1
            if not each.watchers:
                del self.model.known[invoice]
                self.model.first = [other for other in self.model.first if other != invoice]

    async def prioritize(self, invoice: str, _: bool) -> None:
        self.queue.prioritize(invoice)
        if invoice in self.model.known:
            self.model.check_now(invoice)

    async def settle(self, invoice: str, settled: bool) -> None:
        """An event's settlement of this invoice begins, or ends."""
        if begun := self.model.settling.pop(invoice, None):
            if settled:
                await self.mark_settled(invoice, True)
            begun.close()
            asked = invoice in self.model.asked_meanwhile
            self.model.asked_meanwhile.discard(invoice)
            if asked and invoice in self.model.known:
                self.model.check_now(invoice)
        else:
            stack = self.model.settling[invoice] = ExitStack()
            stack.enter_context(self.queue.settlements.settling(invoice))

    async def mark_settled(self, invoice: str, _: bool) -> None:
        self.queue.mark_settled(invoice)
        if each := self.model.known.get(invoice):
            each.state = State.SETTLED
            self.model.first = [other for other in self.model.first if other != invoice]

    async def next(self, _: str, __: bool) -> None:
        entry, expected = self.queue.next(), self.model.next()
        assert entry.invoice in expected if entry else not expected
        if entry:
            self.check(entry)

    async def take(self, _: str, __: bool) -> None:
        """The first check is made, whose slot was awaited."""
        entry, first = self.queue.first(), self.model.first
        expected = first[0] if first and len(first) < module.BACKLOG else None
        assert (entry.invoice if entry else None) == expected
        if entry and self.queue.take(entry):
            self.model.turn += 1
            self.check(entry)

    def check(self, entry: QueueEntry) -> None:
        self.model.known[entry.invoice].state = State.CHECKING
        self.model.first = [other for other in self.model.first if other != entry.invoice]
        self.checking.append(entry)

    async def finish(self, _: str, awaits_payment: bool) -> None:
        if not self.checking:
            return
        entry = self.checking.pop(0)
        self.queue.finish(entry, False, awaits_payment=awaits_payment)
        each = self.model.known.get(entry.invoice)
        if each and each.entry is entry and each.state is State.CHECKING:
            each.state, each.awaits_payment = State.PAUSED, awaits_payment
            assert entry.due_at > _now()

    async def bulk(self, invoice: str, covers: bool) -> None:
        """A pass begins, or ends: it has covered all that it looked for but one, or nothing."""
        if self.covers is None:
            must, may, expected = self.model.bulk()
            found = self.queue.begin_bulk()
            assert must <= bool(found) <= may
            if found:
                assert sorted(found) == sorted(expected)
                self.covers, self.model.asked = found, set()
            return
        covered = [each for each in self.covers if each != invoice] if covers else []
        self.queue.end_bulk(covered)
        if covered:
            assert self.model.asked is not None
            self.model.covered = set(covered) - self.model.asked
            self.model.slow_until = _now() + covered_retries.COVERED_S
        self.covers = self.model.asked = None


def _now() -> float:
    return asyncio.get_running_loop().time()


STEPS = {
    "add": 4,
    "remove": 1,
    "prioritize": 2,
    "settle": 2,
    "mark_settled": 1,
    "next": 12,
    "take": 4,
    "finish": 12,
    "bulk": 6,
}
"""How often each is made."""
LENGTH = 400


@pytest.mark.parametrize("seed", range(20))
def test_the_queue_says_what_a_model_of_it_says(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Which check is next, when, and for whom bulk verification is made: no invoice is ever lost."""
    chance = Random(seed)
    monkeypatch.setattr(module, "BULK_THRESHOLD", 3)
    monkeypatch.setattr(module, "BACKLOG", 4)
    monkeypatch.setattr(random, "random", chance.random)

    async def main() -> None:
        schedule = Schedule()
        for step in chance.choices(list(STEPS), list(STEPS.values()), k=LENGTH):
            wait_s = chance.choice([0.0, 0.0, 0.1, 0.3, 1.0, 3.0])
            await schedule.do(step, chance.choice(INVOICES), chance.random() < 0.8, wait_s)
        for begun in schedule.model.settling.values():
            begun.close()

    run(main())
