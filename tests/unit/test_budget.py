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
from tests.support.processes import free_port
from tests.support.waiting import wait_until

PER_SECOND = 10


@pytest.fixture
def endpoint() -> str:
    """An endpoint's name that no other test has used up."""
    return f"invoices.retrieve.{uuid4().hex}"


@pytest.fixture
async def two_processes(valkey: str) -> AsyncIterator[tuple[Budget, Budget]]:
    """Two budgets with connections of their own, as two processes have them."""
    clients = [connect_redis(valkey) for _ in range(2)]
    first, second = (Budget(client, PER_SECOND) for client in clients)
    yield first, second
    for client in clients:
        await client.aclose()


async def test_two_processes_together_stay_within_the_limit_of_every_second(
    two_processes: tuple[Budget, Budget], endpoint: str
) -> None:
    """S34: in any second, and not just in each: a burst at the end of one may not meet one at the next."""
    taken: list[float] = []

    async def take(number: int) -> None:
        await two_processes[number % 2].take(endpoint, 5)
        taken.append(time.monotonic())

    await take(0)
    began = taken[0]
    await wait_until(lambda: time.monotonic() > began + 0.85)  # almost the end of the first second
    await asyncio.gather(*(take(number) for number in range(22)))
    # A tenth of the second is left out: between the count in Redis and our reading of the clock.
    assert max(sum(at <= other < at + 0.9 for other in taken) for at in taken) <= PER_SECOND
    assert max(taken) - began >= 1.8


async def test_endpoints_have_budgets_of_their_own(
    two_processes: tuple[Budget, Budget], endpoint: str
) -> None:
    """Stripe counts each endpoint by itself."""
    began = time.monotonic()
    for name in (endpoint, endpoint + "2"):
        await asyncio.gather(*(two_processes[0].take(name, 0.5) for _ in range(PER_SECOND)))
    assert time.monotonic() - began < 0.9


async def test_whoever_waits_too_long_for_a_place_is_told_to_try_again(
    two_processes: tuple[Budget, Budget], endpoint: str
) -> None:
    first, second = two_processes
    await asyncio.gather(*(first.take(endpoint, 1) for _ in range(PER_SECOND)))
    with pytest.raises(StripeUnavailable, match="used up"):
        await second.take(endpoint, 0.05)


async def test_with_redis_away_each_process_counts_by_itself(endpoint: str) -> None:
    """S34: neither a standstill nor a storm."""
    away = connect_redis(f"redis://127.0.0.1:{free_port()}")
    budget = Budget(away, 3)
    for _ in range(3):
        await budget.take(endpoint, 0.5)
    with pytest.raises(StripeUnavailable):
        await budget.take(endpoint, 0.1)
    await away.aclose()
