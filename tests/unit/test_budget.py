"""The budget of requests: shared by all processes, and never exceeded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from server.budget import Budget
from server.errors import StripeUnavailable
from server.services import connect_redis
from server.wires import RedisClient
from tests.support.processes import free_port
from tests.support.waiting import wait_until

PER_SECOND = 10


class Counting(Budget):
    """Remembers when each place was taken, by the clock that is compared in Redis."""

    def __init__(self, redis: RedisClient, per_second: int) -> None:
        super().__init__(redis, per_second)
        self.taken: list[float] = []

    async def _hit(self, endpoint: str) -> bool:
        at = time.time()
        free = await super()._hit(endpoint)
        if free:
            self.taken.append(at)
        return free


@pytest.fixture
def endpoint() -> str:
    """An endpoint's name that no other test has used up."""
    return f"invoices.retrieve.{uuid4().hex}"


@pytest.fixture
async def two_processes(valkey: str) -> AsyncIterator[tuple[Counting, Counting]]:
    """Two budgets with connections of their own, as two processes have them."""
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
    await first.take(endpoint, 5)
    began = first.taken[0]
    await wait_until(lambda: time.time() > began + 0.85)  # almost the end of the first second
    await asyncio.gather(*(two_processes[number % 2].take(endpoint, 10) for number in range(22)))
    taken = [*first.taken, *second.taken]
    assert len(taken) == 23
    assert max(sum(at <= other < at + 0.99 for other in taken) for at in taken) <= PER_SECOND


async def test_endpoints_have_budgets_of_their_own(
    two_processes: tuple[Counting, Counting], endpoint: str
) -> None:
    """Stripe counts each endpoint by itself."""
    first, second = two_processes
    for name in (endpoint, endpoint + "2"):
        assert [await first._hit(name) for _ in range(PER_SECOND // 2)] == [True] * (PER_SECOND // 2)
        assert [await second._hit(name) for _ in range(PER_SECOND // 2)] == [True] * (PER_SECOND // 2)


async def test_whoever_waits_too_long_for_a_place_is_told_to_try_again(
    two_processes: tuple[Counting, Counting], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_: str) -> bool:
        return False

    budget, _ = two_processes
    monkeypatch.setattr(budget, "_hit", never)
    with pytest.raises(StripeUnavailable, match="used up"):
        await budget.take(endpoint, 0.05)


async def test_with_redis_away_each_process_counts_by_itself(endpoint: str) -> None:
    """S34: neither a standstill nor a storm."""
    away = connect_redis(f"redis://127.0.0.1:{free_port()}")
    budget = Budget(away, 3)
    answers = await asyncio.gather(*(budget.take(endpoint, 0.3) for _ in range(30)), return_exceptions=True)
    assert sum(answer is None for answer in answers) >= 3
    assert sum(isinstance(answer, StripeUnavailable) for answer in answers) >= 3
    await away.aclose()
