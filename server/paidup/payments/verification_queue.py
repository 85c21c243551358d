"""Orders the invoices that browsers wait for: which one is verified next, and when.

Newly confirmed payments come first, by arrival. An invoice that was verified before comes again after growing
pauses, and gets every fourth slot where slots are short. Retries of what bulk verification covers are rare.
Settled invoices are removed from the queue, so slots go to those whose webhook is late. An entry costs no
task, no query and no request: the queue is a data structure, and `VerificationWorker` works it off.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import random
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress

from paidup.domain.backoff import WATCHED_DEBIT_S, WATCHED_DELAYS_S, watched_delay_s
from paidup.payments.covered_retries import CoveredRetries
from paidup.payments.queue_entries import QueueEntry, Retry, State, is_valid, loop_time
from paidup.payments.settlements_under_way import SettlementsUnderWay

RETRY_SHARE = 4
"""One of so many slots is for a retry, while other invoices wait for their first check."""
BACKLOG = 20
"""So many first checks are the slots of a second."""
BULK_AFTER_S = 2.0
BULK_THRESHOLD = 20
"""So many invoices due, the first of them for `BULK_AFTER_S`: single checks do not keep up."""


class VerificationQueue:
    def __init__(self) -> None:
        self._entries: dict[str, QueueEntry] = {}
        self._first_checks: OrderedDict[str, QueueEntry] = OrderedDict()
        self._retries: list[Retry] = []
        """A heap by due time."""
        self._covered = CoveredRetries()
        self._turn = 0
        self._changed = asyncio.Event()
        self.settlements = SettlementsUnderWay()
        """By events. An invoice that is being settled is checked after that, unless it is settled then."""

    # For sessions

    def add(self, invoice: str, at_once: bool = True) -> None:
        """Watch an invoice: check it now, and again until it is settled or nobody watches it.

        Not `at_once`: after the longest pause, unless it is in the queue already.
        """
        entry = self._entries.get(invoice)
        if entry is not None:
            entry.watchers += 1
        else:
            entry = QueueEntry(invoice, loop_time())
            self._entries[invoice] = entry
            if not at_once:
                entry.attempt = len(WATCHED_DELAYS_S)
                self._schedule_retry(entry)
        if at_once:
            self._check_now(entry)

    def remove(self, invoice: str) -> None:
        """A watcher has left. A check under way goes on: the tab may be closed, but not the payment."""
        entry = self._entries[invoice]
        entry.watchers -= 1
        if entry.watchers == 0:
            del self._entries[invoice]
            self._first_checks.pop(invoice, None)
            entry.state = State.SETTLED
            if len(self._retries) > 100 + 2 * len(self._entries):
                self._retries = [item for item in self._retries if is_valid(item)]
                heapq.heapify(self._retries)

    def prioritize(self, invoice: str) -> None:
        """A watcher says that something may have happened: check now, and start with short pauses again."""
        entry = self._entries.get(invoice)
        if entry is not None:
            self._check_now(entry)

    def mark_settled(self, invoice: str) -> None:
        """Nothing is left to check."""
        entry = self._entries.get(invoice)
        if entry is not None:
            entry.state = State.SETTLED
            self._first_checks.pop(invoice, None)

    def is_checking(self, invoice: str) -> bool:
        """Whether the invoice is being checked or settled, or will be checked as soon as there is a slot."""
        if self.settlements.end_of(invoice) is not None:
            return True
        entry = self._entries.get(invoice)
        return entry is not None and entry.state in (State.QUEUED, State.CHECKING)

    # For webhooks

    async def give_way(self) -> None:
        """Wait, 20 ms at most, while events settle invoices that are watched."""
        await self.settlements.give_way(self._entries)

    # For the worker

    async def wait_until_due(self) -> None:
        """Wait until a check is due."""
        while not self._first_checks:
            self._changed.clear()
            due_at = self._next_retry_at()
            if due_at is not None and due_at <= loop_time():
                return
            try:
                async with asyncio.timeout_at(due_at):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def wait_for_first_check(self, within_s: float) -> None:
        """Wait until one more first check is due, so many seconds at most."""
        deadline, due = loop_time() + within_s, len(self._first_checks)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                while len(self._first_checks) <= due:
                    self._changed.clear()
                    await self._changed.wait()

    def due_together(self, at_most: int) -> int:
        """For how many checks, up to `at_most`, slots may be taken together.

        For retries that are due, or first checks that wait for a second in any case. Fewer take each slot as
        soon as it is free: 0.
        """
        if self._first_checks:
            return at_most if len(self._first_checks) >= BACKLOG else 0
        found, places, at = 0, [0], loop_time()
        while places and found < at_most:
            place = places.pop()
            if place < len(self._retries) and self._retries[place][0] <= at:
                entry = self._retries[place][1]
                found += is_valid(self._retries[place]) and not self._covered.covers(entry, at)
                places += (2 * place + 1, 2 * place + 2)  # where a heap keeps those that are due next
        return found

    def first(self) -> QueueEntry | None:
        """The first check that is due next. None where there are so many that slots are taken together."""
        return next(iter(self._first_checks.values()), None) if len(self._first_checks) < BACKLOG else None

    def take(self, entry: QueueEntry) -> bool:
        """Take this entry, as `next` does. False where it is not due any more: it is settled, or was left."""
        if entry.state is not State.QUEUED:
            return False
        del self._first_checks[entry.invoice]
        entry.state = State.CHECKING
        self._turn += 1
        return True

    def next(self) -> QueueEntry | None:
        """Take the entry whose check is due next; `finish` must follow. None where none is due."""
        self._turn += 1
        entry = self._take_retry() if not self._first_checks or self._turn % RETRY_SHARE == 0 else None
        if entry is None and self._first_checks:
            entry = self._first_checks.popitem(last=False)[1]
        if entry is not None:
            entry.state = State.CHECKING
        return entry

    def finish(
        self, entry: QueueEntry, settled: bool, takes_days: bool = False, awaits_payment: bool = False
    ) -> None:
        """A check has ended: it settled the invoice, or is retried after a pause."""
        if entry.state is not State.CHECKING:
            return
        entry.awaits_payment = awaits_payment
        if settled:
            entry.state = State.SETTLED
        else:
            self._schedule_retry(entry, takes_days)

    def begin_bulk(self) -> list[str]:
        """The invoices to verify in bulk, where more are due than single checks keep up with; else none.

        All whose check is due, and those that only await their payment.
        """
        before = loop_time() - BULK_AFTER_S
        self._next_retry_at()
        first, covered = list(self._first_checks.values())[:1], self._covered.due()
        times = [entry.due_at for entry in first] + [at for at, _ in (*self._retries[:1], *covered)]
        if min(times, default=math.inf) > before:
            return []
        paused = [retry for retry in self._retries if is_valid(retry)]
        due = [retry for retry in paused if retry[0] <= before]
        if len(self._first_checks) + len(due) + len(covered) < BULK_THRESHOLD:
            return []
        self._covered.begin_pass()
        awaiting = [retry for retry in paused if retry[0] > before and retry[1].awaits_payment]
        return [*self._first_checks, *(entry.invoice for _, entry in (*due, *covered, *awaiting))]

    def end_bulk(self, covered: Collection[str]) -> None:
        """A pass of bulk verification has covered these invoices: see `CoveredRetries`."""
        for retry in self._covered.end_pass(covered, loop_time()):
            self._retry_at(retry)

    def _check_now(self, entry: QueueEntry) -> None:
        self._covered.uncover(entry.invoice)
        entry.attempt = 0  # short pauses again for every new watcher, or many tabs would delay the next check
        if entry.state is not State.PAUSED:
            return
        if (settlement := self.settlements.end_of(entry.invoice)) is not None:
            settlement.add_done_callback(lambda _: self.prioritize(entry.invoice))
            self._schedule_retry(entry)  # in case it takes long
        else:
            entry.state = State.QUEUED
            entry.due_at = loop_time()
            self._first_checks[entry.invoice] = entry
            self._changed.set()

    def _schedule_retry(self, entry: QueueEntry, takes_days: bool = False) -> None:
        chance = random.random()  # noqa: S311
        delay_s = WATCHED_DEBIT_S * (1 + chance) if takes_days else watched_delay_s(entry.attempt, chance)
        entry.attempt += 1
        entry.state = State.PAUSED
        entry.due_at = loop_time() + delay_s
        self._retry_at((entry.due_at, entry))

    def _retry_at(self, retry: Retry) -> None:
        heapq.heappush(self._retries, retry)
        self._changed.set()

    def _take_retry(self) -> QueueEntry | None:
        """The entry whose retry is due next, if any."""
        self._next_retry_at()
        if self._retries and self._retries[0][0] <= loop_time():
            return heapq.heappop(self._retries)[1]
        return self._covered.take(loop_time())

    def _next_retry_at(self) -> float | None:
        """When a retry is due next. Those that are due and covered are made at their own pace."""
        at = loop_time()
        for retry in self._covered.expired(at):
            heapq.heappush(self._retries, retry)
        while self._retries:
            due_at, entry = self._retries[0]
            if is_valid(self._retries[0]):
                if due_at > at or not self._covered.covers(entry, at):
                    break
                self._covered.add(self._retries[0])
            heapq.heappop(self._retries)
        times = [self._retries[0][0]] if self._retries else []
        covered_at = self._covered.next_at()
        return min([*times, covered_at] if covered_at is not None else times, default=None)
