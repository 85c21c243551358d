"""REDIS_CLUSTER=1: the hub on a real cluster of three nodes, also when one of them fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

from paidup.db.models import Invoice
from paidup.realtime import hub as module
from paidup.realtime import redis_connection
from paidup.realtime import subscriber as redis_subscriber
from paidup.realtime.hub import INVOICES, Hub
from paidup.realtime.resync import resync_forever
from paidup.runtime.redis_client import RedisClient, connect_redis
from paidup.stripe_api.rate_limiter import RateLimiter
from tests.conftest import World
from tests.support.factories import an_account, an_invoice
from tests.support.paidup import next_balance, status_with
from tests.support.processes import free_port
from tests.support.valkey_cluster import ValkeyCluster
from tests.support.valkeys import frozen
from tests.support.waiting import wait_until
from tests.unit.test_hub import StatusRecorder, a_status

pytestmark = pytest.mark.xdist_group("valkey-cluster")  # one cluster for all of them

INVOICES_OF_ALL_NODES = [f"in_cluster{number}" for number in range(60)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """Shared by the tests that do not change it."""
    started = ValkeyCluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.stop()


@pytest.fixture
def cluster_of_mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyCluster]:
    """A cluster whose nodes may be killed."""
    started = ValkeyCluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedule, some ten times as fast."""
    monkeypatch.setattr(redis_subscriber, "PROBE_INTERVAL_S", 0.2)
    monkeypatch.setattr(redis_subscriber, "RESTORE_MAX_DELAY_S", 0.01)
    for owner in (module, redis_subscriber):
        monkeypatch.setattr(owner, "RECONNECT_MAX_S", 0.2)
    for owner in (module, redis_connection):
        monkeypatch.setattr(owner, "ACK_TIMEOUT_S", 1.0)
    monkeypatch.setattr(module, "UNSUBSCRIBE_DELAY_S", 0.05)


class Process:
    """What one process has: a client, a hub, and a subscriber for each invoice."""

    def __init__(self, url: str) -> None:
        self.redis: RedisClient = connect_redis(url, cluster=True)
        self.hub = Hub(self.redis)
        self.recorders = {invoice: StatusRecorder() for invoice in INVOICES_OF_ALL_NODES}

    async def join_all(self) -> None:
        """On a machine that stands still for two probes, Redis may be lost and found again meanwhile."""
        joins = (
            self.hub.subscribe(INVOICES, invoice, recorder) for invoice, recorder in self.recorders.items()
        )
        await asyncio.gather(*joins)
        await wait_until(lambda: all(channel.confirmed for channel in self.hub._channels.values()))

    def have_heard(self, version: int) -> bool:
        return all(version in recorder.versions for recorder in self.recorders.values())


async def processes(stack: AsyncExitStack, url: str) -> tuple[Process, Process]:
    opened = []
    for _ in range(2):
        process = Process(url)
        stack.push_async_callback(process.redis.aclose)
        await process.hub.open()
        stack.push_async_callback(process.hub.close)
        opened.append(process)
    return opened[0], opened[1]


@pytest.fixture
async def pair(cluster: ValkeyCluster) -> AsyncIterator[tuple[Process, Process]]:
    async with AsyncExitStack() as stack:
        yield await processes(stack, cluster.url)


async def publish_until_heard(there: Process, here: Process, version: int) -> None:
    """Commits continue, and each is published once possible."""

    async def heard() -> bool:
        missing = [
            invoice for invoice, recorder in here.recorders.items() if version not in recorder.versions
        ]
        await asyncio.gather(*(there.hub.publish(a_status(invoice, version)) for invoice in missing))
        return not missing

    await wait_until(heard)


async def test_statuses_reach_other_processes_on_every_node(
    pair: tuple[Process, Process], cluster: ValkeyCluster
) -> None:
    here, there = pair
    await here.join_all()
    for node in cluster.nodes:
        assert len(node.client.pubsub_shardchannels("paidup:invoice:*")) > 5, "each node carries its share"
    told = [there.hub.publish(a_status(invoice)) for invoice in INVOICES_OF_ALL_NODES]
    assert all(await asyncio.gather(*told))
    await wait_until(lambda: here.have_heard(1))
    assert {tuple(recorder.versions) for recorder in here.recorders.values()} == {(1,)}, "each once"
    await wait_until(lambda: here.hub.healthy)


async def test_channels_are_dropped_on_a_cluster_too(
    pair: tuple[Process, Process], cluster: ValkeyCluster
) -> None:
    here, _ = pair
    await here.join_all()
    for invoice, recorder in here.recorders.items():
        here.hub.unsubscribe(INVOICES, invoice, recorder)
    await wait_until(
        lambda: not any(node.client.pubsub_shardchannels("paidup:invoice:*") for node in cluster.nodes)
    )


async def test_one_frozen_node_of_three_is_detected(
    pair: tuple[Process, Process], cluster: ValkeyCluster
) -> None:
    """S29: probes still come back through the other two, but the hub is not healthy."""
    here, there = pair
    await here.join_all()
    await wait_until(lambda: here.hub.healthy)
    here.hub.gaps.clear()
    with frozen(cluster.nodes[1].server):
        await wait_until(lambda: not here.hub.healthy)
        await wait_until(here.hub.gaps.is_set)
    await wait_until(lambda: here.hub.healthy and there.hub.healthy)
    await publish_until_heard(there, here, 2)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.usefixtures("database")
async def test_no_status_is_lost_when_a_node_is_killed_and_fails_over(
    cluster_of_mine: ValkeyCluster,
) -> None:
    """S29: changes meanwhile are read from the rows; afterwards the channels are on the replica."""
    account = await an_account()
    for invoice in INVOICES_OF_ALL_NODES:
        await an_invoice(account, id=invoice)
    async with AsyncExitStack() as stack:
        here, there = await processes(stack, cluster_of_mine.url)
        await here.join_all()
        resync_task = asyncio.create_task(resync_forever(here.hub, interval_s=600))
        stack.callback(resync_task.cancel)
        cluster_of_mine.nodes[0].kill()
        for invoice in INVOICES_OF_ALL_NODES:
            await Invoice.filter(id=invoice).update(version=2)
            await there.hub.publish(a_status(invoice, 2))
        await wait_until(lambda: here.have_heard(2))
        await wait_until(lambda: here.hub.healthy and there.hub.healthy)
        assert cluster_of_mine.spare.client.pubsub_shardchannels("paidup:invoice:*")

        async def taken() -> bool:
            told = [there.hub.publish(a_status(invoice, 3)) for invoice in INVOICES_OF_ALL_NODES]
            return all(await asyncio.gather(*told))

        await wait_until(taken)
        await wait_until(lambda: here.have_heard(3))


async def test_channels_follow_a_slot_that_moves(
    pair: tuple[Process, Process], cluster: ValkeyCluster
) -> None:
    """The old node drops its channels by itself; they are resubscribed at the new one."""
    here, there = pair
    await here.join_all()
    here.hub.gaps.clear()
    first, giver, taker = cluster.nodes
    channel = next(iter(giver.client.pubsub_shardchannels("paidup:invoice:*")))
    for node in (taker, giver, first):
        node.cluster("SETSLOT", node.cluster("KEYSLOT", channel), "NODE", taker.cluster("MYID"))
    await wait_until(lambda: channel in taker.client.pubsub_shardchannels("paidup:invoice:*"))
    await wait_until(here.hub.gaps.is_set)
    await publish_until_heard(there, here, 2)


async def test_with_the_whole_cluster_down_nothing_raises_or_blocks() -> None:
    """S29: the resync delivers changes; the process's own commits are delivered at once."""
    away = Process(f"redis://127.0.0.1:{free_port()}")
    recorder = StatusRecorder()
    await away.hub.open()
    try:
        assert not await away.hub.subscribe(INVOICES, "in_away", recorder)
        assert not await away.hub.publish(a_status("in_away"))
        assert (recorder.versions, away.hub.healthy) == ([1], False)
        assert await RateLimiter(away.redis, 1)._hit("invoices.retrieve"), "counted by this process alone"
    finally:
        await away.hub.close()
        await away.redis.aclose()


async def test_the_rate_limit_is_shared_on_a_cluster(pair: tuple[Process, Process]) -> None:
    budgets = [RateLimiter(process.redis, 10) for process in pair]
    taken = [await budgets[number % 2]._hit("invoices.retrieve") for number in range(12)]
    assert taken == [True] * 10 + [False] * 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_server_on_a_cluster_serves_a_purchase(world: World, cluster: ValkeyCluster) -> None:
    """REDIS_CLUSTER=1 in the settings: buying, verification within the rate limit, and delivery work."""
    paidup = await world.server(
        webhooks=False, redis_url=cluster.url, redis_cluster=True, resync_interval_s=600
    )
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as screen, ada.watch_balance() as balance:
        await world.stripe_side.confirm(purchase["client_secret"])
        await screen.send_json({"type": "verify"})
        assert (await status_with(screen, status="active"))["balance"] == 2000
        while (await next_balance(balance))["balance"] != 2000:
            pass
    await wait_until(lambda: paidup.services.hub.healthy)
    assert (await paidup.get("/readyz"))[0] == 200
