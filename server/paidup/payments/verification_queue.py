"""The watches: which invoices somebody here waits for, and whose question to Stripe comes next.

Owns the queue: whoever just confirmed goes first, by arrival; those asked before come again
after growing pauses, and get every fourth place where the places are short. An entry costs no
task, no query and no request; a place in the budget is waited for by one task, and only then
is chosen whom it is for. Whoever was told meanwhile has left the queue, so that where webhooks
come the places go to those whose webhook is late. Refuses to know what a question is: `Verifier` does.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

import structlog

from paidup.domain.backoff import DELAYED_AFTER_S, WATCHED_DELAYS_S, watched_delay_s
from paidup.errors import StripeUnavailable

log = structlog.get_logger(__name__)

AT_ONCE = 50
"""Questions under way in one process."""
SLOT_TIMEOUT_S = 60.0
RETRY_SHARE = 4
"""Of so many places one is for those asked before, while others wait for their first."""
LOOK_EVERY_S = 1.0
BULK_AFTER_S = 2.0
BULK_THRESHOLD = 20
"""So many waiting, the first of them so long: asking one by one does not keep up."""


class CheckResult(NamedTuple):
    """`over`: nothing is left to ask. `asked`: the place in the budget was used."""

    over: bool
    asked: bool


class Verifier(Protocol):
    """Who asks. None of these may raise but `place`, StripeUnavailable."""

    async def place(self, max_wait_s: float) -> None:
        """Wait for a place in the budget."""

    async def ask(self, invoice: str) -> CheckResult:
        """Ask about one invoice, with a place that was waited for."""

    async def list_paid(self, invoices: list[str]) -> None:
        """Settle of these, and of whatever else waits, what a list shows as paid."""

    async def late(self, invoices: list[str]) -> None:
        """Tell who waits for these that it takes long."""


class _State(IntEnum):
    QUEUED = 0
    ASKING = 1
    RESTING = 2
    OVER = 3


class _QueueEntry:
    """`due` is when its question is, or was, to be asked; `since` when it was first watched (loop's time)."""

    __slots__ = ("attempt", "due", "invoice", "since", "state", "watchers")

    def __init__(self, invoice: str, at: float) -> None:
        self.invoice = invoice
        self.watchers = 1
        self.attempt = 0
        self.state = _State.RESTING
        self.due = self.since = at

    def __lt__(self, other: _QueueEntry) -> bool:
        return self.since < other.since


class VerificationQueue:
    def __init__(self, asker: Verifier) -> None:
        self._asker = asker
        self._watches: dict[str, _QueueEntry] = {}
        self._first: OrderedDict[str, _QueueEntry] = OrderedDict()
        self._again: list[tuple[float, _QueueEntry]] = []
        """A heap by the time that is due. An entry holds while its watch rests until that very time."""
        self._young: deque[_QueueEntry] = deque()
        self._turn = 0
        self._work = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._asking: set[asyncio.Task[None]] = set()
        self._listing: asyncio.Task[None] | None = None

    def add(self, invoice: str, at_once: bool = True) -> None:
        """Somebody watches: ask now, and again until it is over or nobody does.

        Not `at_once`: its turn comes after the longest pause, unless it has one already.
        """
        watch = self._watches.get(invoice)
        if watch is not None:
            watch.watchers += 1
        else:
            watch = _QueueEntry(invoice, asyncio.get_running_loop().time())
            self._watches[invoice] = watch
            self._young.append(watch)
            if not at_once:
                watch.attempt = len(WATCHED_DELAYS_S)
                self._rest(watch)
        if at_once:
            self._hasten(watch)
        self._start()

    def remove(self, invoice: str) -> None:
        """A watcher left. A question under way is let run: the tab may be closed, not the payment."""
        watch = self._watches[invoice]
        watch.watchers -= 1
        if watch.watchers == 0:
            del self._watches[invoice]
            self._first.pop(invoice, None)
            watch.state = _State.OVER
            if len(self._again) > 100 + 2 * len(self._watches):
                self._again = [entry for entry in self._again if _holds(entry)]
                heapq.heapify(self._again)

    def prioritize(self, invoice: str) -> None:
        """A watcher says that something may have happened: ask now, and pace anew."""
        watch = self._watches.get(invoice)
        if watch is not None:
            self._hasten(watch)

    def over(self, invoice: str) -> None:
        """Somebody settled it: nothing is left to ask."""
        watch = self._watches.get(invoice)
        if watch is not None:
            watch.state = _State.OVER
            self._first.pop(invoice, None)

    def asking(self, invoice: str) -> bool:
        """Whether Stripe is being asked, or will be as soon as there is a place."""
        watch = self._watches.get(invoice)
        return watch is not None and watch.state in (_State.QUEUED, _State.ASKING)

    async def close(self) -> None:
        """Give up what is under way."""
        tasks = [*self._loops, *self._asking, *([self._listing] if self._listing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        if not self._loops:
            self._loops = [
                asyncio.create_task(self._dispatch(), name="watches-dispatch"),
                asyncio.create_task(self._look_after(), name="watches-look-after"),
            ]

    # The queue

    def _hasten(self, watch: _QueueEntry) -> None:
        watch.attempt = 0  # paced anew for whoever comes, or many tabs would put off the next question
        if watch.state is _State.RESTING:
            watch.state = _State.QUEUED
            watch.due = asyncio.get_running_loop().time()
            self._first[watch.invoice] = watch
            self._work.set()

    def _rest(self, watch: _QueueEntry) -> None:
        delay = watched_delay_s(watch.attempt, random.random())  # noqa: S311
        watch.attempt += 1
        watch.state = _State.RESTING
        watch.due = asyncio.get_running_loop().time() + delay
        heapq.heappush(self._again, (watch.due, watch))
        self._work.set()

    def _next_retry_at(self) -> float | None:
        """When the next of those asked before is due."""
        while self._again and not _holds(self._again[0]):
            heapq.heappop(self._again)
        return self._again[0][0] if self._again else None

    def _next(self) -> _QueueEntry | None:
        """Whose turn it is; it is taken out of the queue."""
        due = self._next_retry_at()
        again = due is not None and due <= asyncio.get_running_loop().time()
        self._turn += 1
        if self._first and not (again and self._turn % RETRY_SHARE == 0):
            watch = self._first.popitem(last=False)[1]
        elif again:
            watch = heapq.heappop(self._again)[1]
        else:
            return None
        watch.state = _State.ASKING
        return watch

    # Asking

    async def _dispatch(self) -> None:
        while True:
            await self._until_due()
            try:
                await self._asker.place(SLOT_TIMEOUT_S)
            except StripeUnavailable as error:
                log.info("verification_postponed", error=str(error))
                continue
            except Exception:
                log.exception("place_failed")  # whatever it was, the customers still wait
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            self._spawn(self._use_place())
            while len(self._asking) >= AT_ONCE:
                await asyncio.wait(self._asking, return_when=asyncio.FIRST_COMPLETED)

    async def _until_due(self) -> None:
        while not self._first:
            self._work.clear()
            loop = asyncio.get_running_loop()
            due = self._next_retry_at()
            if due is not None and due <= loop.time():
                return
            try:
                async with asyncio.timeout_at(due):
                    await self._work.wait()
            except TimeoutError:
                return

    async def _use_place(self) -> None:
        """Ask for whoever is first now; a question that was not needed leaves its place to the next."""
        while (watch := self._next()) is not None:
            answer = CheckResult(over=False, asked=True)
            try:
                answer = await self._asker.ask(watch.invoice)
            finally:
                if watch.state is _State.ASKING:
                    if answer.over:
                        watch.state = _State.OVER
                    else:
                        self._rest(watch)
            if answer.asked:
                return

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine, name="watches-ask")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    # Looking after those who wait

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if late := self._newly_late():
                self._spawn(self._asker.late(late))
            if (self._listing is None or self._listing.done()) and (waiting := self._backlog()):
                self._listing = asyncio.create_task(self._asker.list_paid(waiting), name="watches-list")

    def _newly_late(self) -> list[str]:
        late, at = [], asyncio.get_running_loop().time()
        while self._young and self._young[0].since <= at - DELAYED_AFTER_S:
            watch = self._young.popleft()
            if self._watches.get(watch.invoice) is watch and watch.state is not _State.OVER:
                late.append(watch.invoice)
        return late

    def is_late(self, invoice: str) -> bool:
        """Whether its wait is long."""
        watch = self._watches.get(invoice)
        at = asyncio.get_running_loop().time()
        return watch is not None and watch.since <= at - DELAYED_AFTER_S

    def _backlog(self) -> list[str]:
        """All whose question is due, where they are too many to be asked one by one; else nobody."""
        longest = asyncio.get_running_loop().time() - BULK_AFTER_S
        first = next(iter(self._first.values()), None)
        again = self._next_retry_at()
        if not ((first and first.due <= longest) or (again is not None and again <= longest)):
            return []
        due = [entry[1].invoice for entry in self._again if entry[0] <= longest and _holds(entry)]
        waiting = [*self._first, *due]
        return waiting if len(waiting) >= BULK_THRESHOLD else []


def _holds(entry: tuple[float, _QueueEntry]) -> bool:
    due, watch = entry
    return watch.state is _State.RESTING and watch.due == due
