"""A burst: 10,000 payments confirmed within a minute, while Stripe takes 25 requests a second per endpoint.

`python -m tests.bench.burst`. The product's own verification queue, rate limiter and bulk verification (of
`paidup.payments` and `paidup.stripe_api`) run in several simulated processes, on an event loop whose
time is virtual, so that ten minutes take seconds. Simulated are Stripe, the webhooks, the customers,
the rows and Redis's window. In the same run: without bulk verification, and two naive ways for comparison.
Each customer's wait is counted from the confirmed payment (a socket opens 50 ms later) until told.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import math
import random
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from paidup.errors import StripeUnavailable
from paidup.payments import bulk_verification
from paidup.payments.bulk_verification import MAX_CONCURRENT_SETTLEMENTS, TimeWindow
from paidup.payments.verification_queue import VerificationQueue
from paidup.payments.verification_worker import CheckResult, Checks, Slot, VerificationWorker
from paidup.stripe_api.rate_limiter import Purpose, RateLimiter, admitted
from tests.bench.burst_picture import Panel, draw
from tests.support.virtual_time import run

console = Console(width=130)
BURST_S = 60.0
STRIPE_ALLOWS = 25
BUDGET = 20
PICTURE = Path("docs/images/burst.svg")
SETTLE_S = 0.005
GIVE_UP_S = 3600.0


class Webhooks(NamedTuple):
    """How late they come: a lognormal delay (median, sigma) after `later_s`; `lost` never come."""

    name: str
    median_s: float
    sigma: float
    later_s: float
    lost: float


SCENARIOS = [
    Webhooks("webhooks healthy", 2.0, 1.0, 0.0, 0.02),
    Webhooks("webhooks a minute late", 2.0, 1.0, 60.0, 0.02),
    Webhooks("webhooks dead", 0.0, 0.0, 0.0, 1.0),
]


class Payment(NamedTuple):
    """Seconds since the burst began; the invoice was `made` before. `webhook` is inf where it is lost."""

    invoice: str
    made: float
    paid: float
    webhook: float


def payments(count: int, webhooks: Webhooks) -> list[Payment]:
    """The same customers for every way: the chance has a seed."""
    chance = random.Random(5)
    found = []
    for number in range(count):
        paid = chance.uniform(0, BURST_S)
        made = paid - chance.uniform(15, 90)  # the card form, and the bank's check
        late = webhooks.later_s + webhooks.median_s * math.exp(chance.gauss(0, webhooks.sigma))
        lost = chance.random() < webhooks.lost
        found.append(Payment(f"in_{number}", made, paid, math.inf if lost else paid + late))
    return sorted(found, key=lambda payment: payment.paid)


class Result:
    def __init__(self) -> None:
        self.waits: dict[str, list[float]] = {}
        self.requests: Counter[str] = Counter()

    def told(self, source: str, wait_s: float) -> None:
        self.waits.setdefault(source, []).append(wait_s)


# The world around the product


class Stripe:
    """Answers after a while, and refuses what is above its limit, in any second of each endpoint."""

    def __init__(self, burst: list[Payment], result: Result) -> None:
        self._paid = {payment.invoice: payment.paid for payment in burst}
        self._by_creation = sorted(burst, key=lambda payment: payment.made)
        self._made = [payment.made for payment in self._by_creation]
        self._recent: dict[str, deque[float]] = {"retrieve": deque(), "list": deque()}
        self._requests = result.requests

    def takes(self, endpoint: str, at: float) -> bool:
        recent = self._recent[endpoint]
        while recent and recent[0] <= at - 1:
            recent.popleft()
        self._requests[endpoint] += 1
        if len(recent) >= STRIPE_ALLOWS:
            self._requests["429"] += 1
            return False
        recent.append(at)
        return True

    def paid(self, invoice: str, at: float) -> bool:
        return at >= self._paid[invoice]

    def page(self, window: TimeWindow, after: int | None, at: float) -> tuple[list[str], int | None]:
        """Paid invoices of the part, newest first, a hundred; and where the next page begins."""
        begin = bisect_left(self._made, window.since)
        end = len(self._made) if window.until is None else bisect_left(self._made, window.until)
        found: list[str] = []
        for index in range((end if after is None else after) - 1, begin - 1, -1):
            payment = self._by_creation[index]
            if payment.paid <= at:
                found.append(payment.invoice)
                if len(found) == bulk_verification.PAGE_SIZE:
                    return found, index
        return found, None


class Window:
    """The exact window that Redis keeps for all processes, by virtual time."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, ...], deque[float]] = {}

    async def test(self, limit: Any, *names: str, cost: int = 1) -> bool:
        at = asyncio.get_running_loop().time()
        taken = self._taken.setdefault((*names, str(limit.amount)), deque())
        while taken and taken[0] < at - 1:
            taken.popleft()
        return len(taken) + cost <= int(limit.amount)

    async def hit(self, limit: Any, *names: str, cost: int = 1) -> bool:
        await asyncio.sleep(0.0003)  # the way to Redis and back
        if not await self.test(limit, *names, cost=cost):
            return False
        self._taken[(*names, str(limit.amount))].extend([asyncio.get_running_loop().time()] * cost)
        return True


class SharedBudget(RateLimiter):
    """The product's budget, with that window in place of Redis's."""

    def __init__(self, window: Window) -> None:
        super().__init__(Redis(), BUDGET)
        self._window = cast(MovingWindowRateLimiter, window)

    async def _hit(self, endpoint: str, purpose: Purpose = Purpose.CUSTOMER, slots: int = 1) -> bool:
        return await admitted(self._window, self._limit, endpoint, purpose, slots)


class World:
    """What the processes share: Stripe, the rows, and who is watched where."""

    def __init__(self, burst: list[Payment], result: Result, with_list: bool) -> None:
        self.stripe = Stripe(burst, result)
        self.window = Window()
        self.result = result
        self.with_list = with_list
        self.left = len(burst)
        self.all_told = asyncio.Event()
        self.payments = {payment.invoice: payment for payment in burst}
        self.settled: dict[str, float] = {}
        self.watched: dict[str, Process] = {}
        self.listing_until = 0.0

    def settle(self, invoice: str, source: str) -> None:
        """Commit, publish, and the socket is told: the process that holds it forgets the watch."""
        if invoice in self.settled:
            return
        at = asyncio.get_running_loop().time()
        self.settled[invoice] = at
        self.left -= 1
        if self.left == 0:
            self.all_told.set()
        if process := self.watched.pop(invoice, None):
            process.queue.remove(invoice)
        self.result.told(source, at - self.payments[invoice].paid)


class Process:
    """One server process: the product's queue and budget, and questions to the simulated Stripe."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._budget = SharedBudget(world.window)
        self._settling = asyncio.Semaphore(MAX_CONCURRENT_SETTLEMENTS)
        self.queue = VerificationQueue()
        self.worker = VerificationWorker(
            self.queue, Checks(self.acquire_slots, self.check, self.check_in_bulk)
        )
        self.worker.start()

    def opened(self, invoice: str) -> None:
        if invoice not in self._world.settled:
            self._world.watched[invoice] = self
            self.queue.add(invoice)

    async def acquire_slots(self, max_wait_s: float, at_most: int) -> int:
        return await self._budget.take("retrieve", max_wait_s, at_most=at_most)

    async def check(self, invoice: str, slot: Slot) -> CheckResult:
        if not await slot():
            return CheckResult(settled=False, used_slot=False)
        if invoice in self._world.settled:
            return CheckResult(settled=True, used_slot=False)
        if not await self._request("retrieve", 0.15):
            return CheckResult(settled=False, used_slot=True)
        if self._world.stripe.paid(invoice, asyncio.get_running_loop().time()):
            await asyncio.sleep(SETTLE_S)
            self._world.settle(invoice, "verification")
            return CheckResult(settled=True, used_slot=True)
        return CheckResult(settled=False, used_slot=True)

    async def check_in_bulk(self, invoices: list[str]) -> list[str]:
        """None is covered: each of them has paid, or a webhook has settled it."""
        loop, world = asyncio.get_running_loop(), self._world
        if not world.with_list or loop.time() < world.listing_until:
            return []
        world.listing_until = math.inf
        made = [int(world.payments[each].made) for each in invoices if each not in world.settled]
        settled = await bulk_verification.read_windows(
            bulk_verification.split_into_windows(made), self._read_window
        )
        rest = bulk_verification.PAUSE if settled else bulk_verification.LONG_PAUSE
        world.listing_until = loop.time() + rest.total_seconds()
        return []

    async def _read_window(self, window: TimeWindow) -> int:
        settled, after = 0, None
        for _ in range(bulk_verification.MAX_PAGES_PER_WINDOW):
            await self._budget.take("list", 10.0)
            if not await self._request("list", 0.5):
                raise StripeUnavailable("429")
            at = asyncio.get_running_loop().time()
            found, after = self._world.stripe.page(window, after, at)
            for invoice in found:
                if invoice not in self._world.settled:
                    async with self._settling:
                        await asyncio.sleep(SETTLE_S)
                    self._world.settle(invoice, "bulk verification")
                    settled += 1
            if after is None:
                break
        return settled

    async def _request(self, endpoint: str, median_s: float) -> bool:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        if not self._world.stripe.takes(endpoint, asked_at):
            await self._budget.refused(endpoint, asked_at, 0.0)
            return False
        await asyncio.sleep(median_s * math.exp(random.gauss(0, 0.4)))
        self._budget.answered(endpoint)
        return True


def product(burst: list[Payment], processes: int, with_list: bool) -> Result:
    result = Result()

    async def main() -> None:
        world = World(burst, result, with_list)
        servers = [Process(world) for _ in range(processes)]
        loop = asyncio.get_running_loop()
        began = loop.time()
        for payment in burst:
            server = random.choice(servers)
            loop.call_at(began + payment.paid + 0.05, server.opened, payment.invoice)
            if payment.webhook < math.inf:
                loop.call_at(began + payment.webhook, world.settle, payment.invoice, "webhook")
        await world.all_told.wait()
        for server in servers:
            await server.worker.close()

    run(main())
    return result


def naive(burst: list[Payment], pause_s: Callable[[int], float]) -> Result:
    """Each socket asks by itself: at once, and after `pause_s(attempt)` as long as there is no answer."""
    result = Result()
    stripe = Stripe(burst, result)
    agenda = [(payment.paid + 0.05, 0, payment) for payment in burst]
    heapq.heapify(agenda)
    while agenda:
        at, attempt, payment = heapq.heappop(agenda)
        if payment.webhook <= at:
            result.told("webhook", payment.webhook - payment.paid)
        elif stripe.takes("retrieve", at):
            answered = at + 0.15 * math.exp(random.gauss(0, 0.4))
            result.told("verification", answered - payment.paid)
        elif at > payment.paid + GIVE_UP_S:
            result.told("never", at - payment.paid)
        else:
            heapq.heappush(agenda, (at + pause_s(attempt), attempt + 1, payment))
    return result


def backing_off(attempt: int) -> float:
    """Full jitter, from 0.5 s to 20 s."""
    return random.uniform(0, min(20.0, 0.5 * 2**attempt)) + 0.05


def polling(_: int) -> float:
    return 2.0


# What is shown


def quantile(waits: list[float], share: float) -> float:
    return waits[min(len(waits) - 1, int(len(waits) * share))]


def rows(table: Table, scenario: str, way: str, result: Result) -> None:
    every = sorted(wait for waits in result.waits.values() for wait in waits)
    asked = f"{result.requests['retrieve']:,} + {result.requests['list']:,}"
    for index, (source, waits) in enumerate([("all", every), *sorted(result.waits.items())]):
        waits.sort()
        numbers = [quantile(waits, share) for share in (0.5, 0.9, 0.99)]
        table.add_row(
            scenario if index == 0 else "",
            way if index == 0 else "",
            source,
            f"{100 * len(waits) / len(every):.1f} %",
            *(f"{number:,.2f}" for number in (*numbers, waits[-1])),
            asked if index == 0 else "",
            f"{result.requests['429']:,}" if index == 0 else "",
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="A burst of payments, simulated.")
    parser.add_argument("--payments", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=4)
    given = parser.parse_args()
    random.seed(7)
    console.print(
        f"{given.payments:,} payments within {BURST_S:.0f} s, {given.processes} processes, budget {BUDGET}/s "
        f"per endpoint of Stripe's {STRIPE_ALLOWS}/s. Waits in seconds."
    )
    table = Table("webhooks", "way", "told by", "share", "p50", "p90", "p99", "max", "asked + lists", "429")
    panels = []
    began = time.perf_counter()
    for webhooks in SCENARIOS:
        burst = payments(given.payments, webhooks)
        ways = {
            "Paidup": product(burst, given.processes, with_list=True),
            "without bulk verification": product(burst, given.processes, with_list=False),
            "each socket asks Stripe, backs off": naive(burst, backing_off),
            "each socket polls Stripe, 2 s": naive(burst, polling),
        }
        for way, result in ways.items():
            rows(table, webhooks.name if way == "Paidup" else "", way, result)
        table.add_section()
        panels.append(
            Panel(webhooks.name, ways["Paidup"].waits, ways["each socket asks Stripe, backs off"].waits)
        )
    console.print(table)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(panels, given.payments))
    console.print(f"Simulated in {time.perf_counter() - began:.0f} s. The picture: {PICTURE}")


if __name__ == "__main__":
    main()
