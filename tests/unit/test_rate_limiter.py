"""The budget of requests: shared by all processes, and never exceeded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar
from uuid import uuid4

import pytest

from paidup.errors import StripeUnavailable
from paidup.runtime.redis_client import RedisClient, connect_redis
from paidup.stripe_api import rate_limiter
from paidup.stripe_api.rate_limiter import TRIES_FOR_SEVERAL, Purpose, RateLimiter
from tests.support.processes import free_port
from tests.support.waiting import wait_until

T = TypeVar("T")

PER_SECOND = 10


class Counting(RateLimiter):
    """Remembers when each place was taken, by the clock that is compared in Redis: between two times."""

    def __init__(self, redis: RedisClient, per_second: int) -> None:
        super().__init__(redis, per_second)
        self.taken: list[float] = []
        self.known: list[float] = []
        self.asked = 0

    async def _hit(self, endpoint: str, purpose: Purpose = Purpose.CUSTOMER, slots: int = 1) -> bool:
        at = time.time()
        self.asked += 1
        free = await super()._hit(endpoint, purpose, slots)
        if free:
            self.taken += [at] * slots
            self.known += [time.time()] * slots
        return free


@pytest.fixture
def endpoint() -> str:
    """An endpoint's name that no other test has used up."""
    return f"invoices.retrieve.{uuid4().hex}"


async def within_a_second(hits: Callable[[str], Awaitable[T]]) -> T:
    """What `hits` returns, which is given another endpoint wherever it took more than a second."""
    while True:
        began = time.time()
        result = await hits(f"invoices.retrieve.{uuid4().hex}")
        if time.time() < began + 0.9:
            return result


@pytest.fixture
async def two_processes(
    valkey: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Counting, Counting]]:
    """Two budgets with connections of their own, as two processes have them. A slow Redis is not down."""
    monkeypatch.setattr(rate_limiter, "REDIS_TIMEOUT_S", 30.0)
    clients = [connect_redis(valkey) for _ in range(2)]
    first, second = (Counting(client, PER_SECOND) for client in clients)
    yield first, second
    for client in clients:
        await client.aclose()


async def test_two_processes_together_stay_within_the_limit_of_every_second(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """S34: in any second, and not just in each: a burst at the end of one may not meet one at the next."""
    first, second = two_processes
    await first.take(endpoint, 60)
    began = first.taken[0]
    await wait_until(lambda: time.time() > began + 0.85)  # almost the end of the first second
    await asyncio.gather(*(two_processes[number % 2].take(endpoint, 60) for number in range(22)))
    taken, known = [*first.taken, *second.taken], [*first.known, *second.known]
    assert len(taken) == 23
    for began in taken:
        within = [
            at for at, known_at in zip(taken, known, strict=True) if began <= at and known_at < began + 1
        ]
        assert len(within) <= PER_SECOND


async def test_endpoints_have_budgets_of_their_own(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """Stripe counts each endpoint by itself."""
    first, second = two_processes
    for name in (endpoint, endpoint + "2"):
        assert [await first._hit(name) for _ in range(PER_SECOND // 2)] == [True] * (PER_SECOND // 2)
        assert [await second._hit(name) for _ in range(PER_SECOND // 2)] == [True] * (PER_SECOND // 2)


async def test_a_slot_that_is_not_free_in_time_raises_unavailable(
    two_processes: tuple[Counting, Counting], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> bool:
        return False

    budget, _ = two_processes
    monkeypatch.setattr(budget, "_hit", never)
    with pytest.raises(StripeUnavailable, match="no slot"):
        await budget.take(endpoint, 0.05)


async def test_several_slots_are_taken_at_once_where_they_are_free(
    two_processes: tuple[Counting, Counting], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of a second's at most. Where others take them, one will do; after a 429, one tests it."""
    budget, _ = two_processes
    assert await budget.take(endpoint, 5, at_most=50) == len(budget.taken) == PER_SECOND // 5
    asked: list[int] = []

    async def one_is_free(_: str, purpose: Purpose, slots: int) -> bool:
        asked.append(slots)
        return slots == 1

    monkeypatch.setattr(budget, "_hit", one_is_free)
    assert await budget.take(endpoint, 60, at_most=50) == 1
    assert asked == [2] * TRIES_FOR_SEVERAL + [1]
    budget._endpoints[endpoint].pause_s = 0.01
    asked.clear()
    assert await budget.take(endpoint, 60, at_most=50) == 1
    assert asked == [1]


async def test_a_process_that_has_taken_a_whole_second_asks_for_no_more(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """It knows when the first of its slots is free again; meanwhile Redis is not asked for one."""
    budget, _ = two_processes
    for _ in range(2 * PER_SECOND):
        await budget.take(endpoint, 60)
    assert len(budget.taken) == 2 * PER_SECOND
    assert budget.asked < 2 * PER_SECOND + 5
    assert budget.taken[PER_SECOND] - budget.taken[0] >= 1
    budget.asked = 0
    assert await budget.take(endpoint, 60, at_most=50) == PER_SECOND // 5
    assert budget.asked <= 2, "nor for several while only one may be free"


async def test_with_redis_away_each_process_counts_by_itself(endpoint: str) -> None:
    """S34: neither a standstill nor a storm."""
    away = connect_redis(f"redis://127.0.0.1:{free_port()}")
    budget = RateLimiter(away, 3)
    answers = await asyncio.gather(*(budget.take(endpoint, 0.3) for _ in range(30)), return_exceptions=True)
    assert answers.count(1) >= 3
    assert sum(isinstance(answer, StripeUnavailable) for answer in answers) >= 3
    await away.aclose()


async def test_a_process_with_many_who_wait_leaves_another_its_part(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """A hundred wait in the one and five in the other: each process has the same chance of a place."""
    busy, quiet = two_processes
    waiters = [asyncio.create_task(busy.take(endpoint, 60)) for _ in range(100)]
    await wait_until(lambda: len(busy.taken) == PER_SECOND)
    before = len(busy.taken)
    await asyncio.gather(*(quiet.take(endpoint, 60) for _ in range(5)))
    assert len(busy.taken) - before < 2.8 * PER_SECOND
    for waiting in waiters:
        waiting.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)


async def test_the_background_leaves_half_while_nobody_waits_and_more_to_those_who_do(
    two_processes: tuple[Counting, Counting],
) -> None:
    """A sweep that would take everything gets most of a quiet second; the rest stays free for a customer."""
    first, second = two_processes

    async def hits(endpoint: str) -> tuple[int, bool]:
        took = [await first._hit(endpoint, Purpose.BACKGROUND) for _ in range(2 * PER_SECOND)]
        return took.count(True), await second._hit(endpoint)

    background, customer = await within_a_second(hits)
    assert PER_SECOND // 2 <= background <= PER_SECOND // 2 + PER_SECOND // 4
    assert customer


async def test_the_background_has_its_part_while_customers_use_up_the_rest(
    two_processes: tuple[Counting, Counting],
) -> None:
    first, second = two_processes

    async def hits(endpoint: str) -> list[bool]:
        for _ in range(PER_SECOND - 3):
            assert await first._hit(endpoint)
        return [await second._hit(endpoint, Purpose.BACKGROUND) for _ in range(5)]

    took = await within_a_second(hits)
    assert took == [True] * (PER_SECOND // 4) + [False] * (5 - PER_SECOND // 4)


async def test_what_customers_ask_for_uses_half_of_a_second_at_most(
    two_processes: tuple[Counting, Counting],
) -> None:
    """S64: in all processes together; the other half is free for payments on their way."""

    async def hits(endpoint: str) -> tuple[list[bool], list[bool]]:
        took = [
            await process._hit(endpoint, Purpose.REQUEST)
            for _ in range(PER_SECOND)
            for process in two_processes
        ]
        return took, [await two_processes[1]._hit(endpoint) for _ in range(PER_SECOND // 2)]

    took, others = await within_a_second(hits)
    assert took == [True] * (PER_SECOND // 2) + [False] * (len(took) - PER_SECOND // 2)
    assert others == [True] * (PER_SECOND // 2)


async def test_a_payment_on_its_way_waits_for_none_of_those_that_customers_ask_for(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """S64: forty adoptions wait when five verifications come: they have no more than their half meanwhile."""
    budget, _ = two_processes
    began = time.monotonic()
    asked = [asyncio.create_task(budget.take(endpoint, 60, Purpose.REQUEST)) for _ in range(40)]
    await wait_until(lambda: any(task.done() for task in asked))
    for _ in range(5):
        await budget.take(endpoint, 10)
    served = sum(task.done() for task in asked)
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert served <= PER_SECOND // 2 * (time.monotonic() - began + 1)
    assert served < 40, "those who came first do not go first"


async def test_after_a_429_one_request_shows_whether_it_is_over(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """S34: the process pauses as a whole, then sends one, and goes on with all once that succeeded."""
    first, second = two_processes
    loop = asyncio.get_running_loop()
    await first.take(endpoint, 1)
    paused_at = time.time()
    await asyncio.gather(*(first.refused(endpoint, loop.time(), 0) for _ in range(3)))
    assert not await second._hit(endpoint), "the other processes pause for a second, too"
    first.taken.clear()
    assert first._endpoints[endpoint].pause_s <= 1.2, "three refusals of one moment are one pause"
    takes = [asyncio.create_task(first.take(endpoint, 60)) for _ in range(5)]
    await wait_until(lambda: first.taken)
    assert first.taken[0] - paused_at >= 1
    assert [take.done() for take in takes].count(True) <= 1
    first.answered(endpoint)
    await asyncio.gather(*takes)
    assert first.taken[-1] - first.taken[0] < 4, "each waits for a pause of its own"


async def test_refusals_of_requests_under_way_together_are_one_pause(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """S34: six that were admitted before the first answer, and sent a moment after it: one second, not 20."""
    budget, _ = two_processes
    loop = asyncio.get_running_loop()
    for _ in range(6):
        await budget.refused(endpoint, loop.time(), 0)
    state = budget._endpoints[endpoint]
    assert state.resume_at - loop.time() <= 1.2
    assert state.pause_s <= 1.2
    await budget.refused(endpoint, state.resume_at, 0)
    assert state.pause_s >= 2, "the one that tested the pause was refused again"


async def test_who_cannot_wait_out_a_pause_is_told_at_once(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """S34: and when to come back, as Stripe asked."""
    budget, _ = two_processes
    await budget.refused(endpoint, asyncio.get_running_loop().time(), 20)
    with pytest.raises(StripeUnavailable, match="slow down") as told:
        await budget.take(endpoint, 10)
    assert 19 < told.value.retry_after_s < 25


async def test_with_redis_away_a_process_takes_its_part_alone(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """S34: ten processes that each counted all for themselves would be a storm."""
    first, second = two_processes
    await second._hit(endpoint)
    await first._hit(endpoint)
    first._windows.away_until = float("inf")

    async def ten_hits(endpoint: str) -> list[bool]:
        return [await first._hit(endpoint) for _ in range(PER_SECOND)]

    took = await within_a_second(ten_hits)
    # Other tests' processes may be counted, too: for half a minute they may ask again.
    assert 1 <= took.count(True) <= PER_SECOND // 2
