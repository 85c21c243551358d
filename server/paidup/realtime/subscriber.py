"""Keeps one pub/sub connection to a Redis node open, and reconnects when it fails.

Subscriptions are sent in batches. A probe message detects a connection that is open but dead.
Delays before reconnecting and resubscribing are randomized, so that many processes do not come
back at the same moment.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Collection, Sequence
from typing import Protocol

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from paidup.realtime.redis_connection import PubSubConnection, PubSubHandler, PubSubTransport
from paidup.runtime.metrics import Metrics
from paidup.runtime.redis_client import REDIS_ERRORS
from paidup.runtime.tasks import cancel_tasks, until_one_ends

log = structlog.get_logger(__name__)

PROBE_INTERVAL_S = 2.0
MAX_MISSED_PROBES = 2
RECONNECT_MAX_S = 2.0
SUBSCRIBE_BATCH_SIZE = 500
GATHER_S, GATHER_MAX_S = 0.005, 0.02
"""Delay after each command, so that channels of browsers that connect meanwhile share the next one."""
GATHER_PER_CHANNEL_S = 0.001
"""The more channels are subscribed to, the longer the next command waits: many browsers connect at once."""
RESTORE_MAX_DELAY_S = 0.1
"""Upper bound of the random delay before each batch of channels is resubscribed."""


class SubscriptionRegistry(PubSubHandler, Protocol):
    """The channels that this process needs: what to subscribe to, and who handles the messages."""

    def has_channel(self, channel: bytes) -> bool:
        """Whether the channel is still needed."""

    def unconfirmed_channels(self, node: str, connection: PubSubConnection) -> list[bytes]:
        """The node's channels that `connection` has not confirmed and no pending command covers."""

    def mark_gap(self) -> None:
        """Record that messages may have been missed."""

    def request_rebalance(self) -> None:
        """Report that channels may have moved to other nodes."""


class _Batch:
    """Channels that share one command, and the future that is done when Redis has answered it."""

    def __init__(self) -> None:
        self.channels: dict[bytes, None] = {}
        self.ack: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def resolve(self) -> None:
        if not self.ack.done():
            self.ack.set_result(None)


class RedisSubscriber:
    """Keeps a pub/sub connection to `node` open until it is stopped."""

    def __init__(
        self, node: str, transport: PubSubTransport, registry: SubscriptionRegistry, metrics: Metrics
    ) -> None:
        self.node = node
        self.connection: PubSubConnection | None = None
        """The open connection; None while Redis is down."""
        self.error: str | None = None
        """Why the last attempt to connect failed."""
        self.first_attempt_done = asyncio.Event()
        """Set when the first attempt to connect has succeeded or failed."""
        self._transport = transport
        self._registry = registry
        self._metrics = metrics
        self._queue: deque[_Batch] = deque()
        self._queue_changed = asyncio.Event()
        self._restore_requested = asyncio.Event()
        self._token = secrets.token_hex(8)
        self._probe_received = asyncio.Event()
        self._missed_probes = 0
        self._failures = 0
        """In a row, of the attempts to connect."""
        self.probe: bytes | None = None
        self._task = asyncio.create_task(self._run(), name=f"redis-subscriber-{node}")

    async def stop(self) -> None:
        await cancel_tasks(self._task, again_after_s=0.1)

    @property
    def healthy(self) -> bool:
        """Whether this process's probe messages come back from this node."""
        return self.connection is not None and self._missed_probes < MAX_MISSED_PROBES

    def sync_channel(self, channel: bytes) -> asyncio.Future[None] | None:
        """Subscribe or unsubscribe, depending on whether the registry has the channel when it is sent.

        Calls within one iteration of the event loop, or while an earlier command is pending, share
        one command and one future, which is done when Redis has answered. None if not connected.
        """
        if self.connection is None:
            return None
        if not self._queue or len(self._queue[-1].channels) >= SUBSCRIBE_BATCH_SIZE:
            self._queue.append(_Batch())
        batch = self._queue[-1]
        batch.channels[channel] = None
        self._queue_changed.set()
        return batch.ack

    def restore(self) -> None:
        """Resubscribe the node's channels that the connection has not confirmed."""
        self._restore_requested.set()

    def on_probe(self) -> None:
        self._probe_received.set()

    async def _run(self) -> None:
        while True:
            try:
                connection = PubSubConnection(self._transport.make_connection(self.node), self._transport)
                try:
                    await connection.open()
                    await until_one_ends(connection.listen(self._registry), self._use(connection))
                finally:
                    await self._on_disconnected(connection)
            except REDIS_ERRORS as error:
                self.error = str(error)
                log.warning("redis_lost", node=self.node, error=repr(error), failures=self._failures)
            except Exception:
                log.exception("redis_subscriber_failed", node=self.node)
            self.first_attempt_done.set()
            self._registry.request_rebalance()
            await asyncio.sleep(reconnect_delay_s(self._failures))
            self._failures += 1

    async def _use(self, connection: PubSubConnection) -> None:
        """While the connection is listened to: subscribe, and probe whether messages come."""
        await self._on_connected(connection)
        self._failures = 0
        await until_one_ends(
            self._process_queue(connection),
            self._restore_forever(connection),
            self._probe_forever(connection),
        )

    async def _on_connected(self, connection: PubSubConnection) -> None:
        self.probe = self._transport.probe_channel(self.node, self._token)
        await connection.subscribe([self.probe])
        self.connection = connection
        self.error = None
        self.first_attempt_done.set()
        self._restore_requested.set()

    async def _on_disconnected(self, connection: PubSubConnection) -> None:
        was_connected = self.connection is not None
        self.connection = None
        await connection.close()
        for batch in self._queue:
            batch.resolve()
        self._queue.clear()
        if was_connected:
            self._registry.mark_gap()

    async def _process_queue(self, connection: PubSubConnection) -> None:
        """Send the queued batches: see `sync_channel`."""
        while True:
            await self._queue_changed.wait()
            self._queue_changed.clear()
            while self._queue:
                batch, wanted = self._queue.popleft(), 0
                try:
                    wanted = await self._sync(connection, batch.channels)
                except TimeoutError:
                    self._restore_requested.set()
                finally:
                    batch.resolve()
                await asyncio.sleep(_gather_s(wanted))

    async def _sync(self, connection: PubSubConnection, channels: Collection[bytes]) -> int:
        """How many were subscribed to; those of browsers that have left are unsubscribed."""
        wanted = [channel for channel in channels if self._registry.has_channel(channel)]
        unwanted = [channel for channel in channels if not self._registry.has_channel(channel)]
        if wanted:
            await connection.subscribe(wanted)
        if unwanted:
            await connection.unsubscribe(unwanted)
        return len(wanted)

    async def _restore_forever(self, connection: PubSubConnection) -> None:
        """Resubscribe channels from before this connection, and those that moved to this node."""
        while True:
            await self._restore_requested.wait()
            self._restore_requested.clear()
            missing = self._registry.unconfirmed_channels(self.node, connection)
            for batch in _batches(missing):
                await asyncio.sleep(random.random() * RESTORE_MAX_DELAY_S)  # noqa: S311
                wanted = [channel for channel in batch if self._registry.has_channel(channel)]
                try:
                    if wanted:
                        await connection.subscribe(wanted)
                except TimeoutError:
                    self._restore_requested.set()
            if missing:
                self._metrics.channels_restored.inc(len(missing))
                log.info("channels_restored", node=self.node, channels=len(missing))
                self._registry.mark_gap()  # after confirmation: rows read before it may be stale

    async def _probe_forever(self, connection: PubSubConnection) -> None:
        """Publish probe messages to this process. Raises after MAX_MISSED_PROBES missed in a row."""
        loop = asyncio.get_running_loop()
        while True:
            if self.probe is None or self._transport.node_of(self.probe) != self.node:  # the slot has moved
                self.probe = self._transport.probe_channel(self.node, self._token)
                await connection.subscribe([self.probe])
            began = loop.time()
            self._probe_received.clear()
            try:
                async with asyncio.timeout(PROBE_INTERVAL_S):
                    await self._transport.publish(self.probe, b"probe")
                    await self._probe_received.wait()
                self._missed_probes = 0
                await asyncio.sleep(PROBE_INTERVAL_S)
            except REDIS_ERRORS:
                self._missed_probes += 1
                self._metrics.probes_missed.inc()
                if self._missed_probes % MAX_MISSED_PROBES == 0:
                    raise RedisConnectionError("no response: probe messages do not come back") from None
                self._registry.request_rebalance()
                await asyncio.sleep(max(0.0, began + PROBE_INTERVAL_S - loop.time()))


def reconnect_delay_s(failures: int) -> float:
    """Seconds until the next attempt, after `failures` in a row. Exponential, with jitter."""
    delay: float = min(RECONNECT_MAX_S, 0.05 * 2 ** min(failures, 10))  # bounded: outages last hours
    return delay * (0.5 + random.random())  # noqa: S311 - jitter only


def _gather_s(channels: int) -> float:
    """The delay after so many channels were subscribed to."""
    return max(GATHER_S, min(GATHER_MAX_S, channels * GATHER_PER_CHANNEL_S))


def _batches(channels: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [
        channels[start : start + SUBSCRIBE_BATCH_SIZE]
        for start in range(0, len(channels), SUBSCRIBE_BATCH_SIZE)
    ]
