"""The keepers: each holds a listener to one Redis node, and begins again when it has ended.

Owns the batches in which channels are asked for, the probe that tells silence from death, and
the random pauses that keep a thousand processes from coming back at the same moment. Refuses to
know who waits for a channel.
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

from paidup.metrics import Metrics
from paidup.realtime.redis_connection import PubSubConnection, PubSubHandler, PubSubTransport
from paidup.redis_client import REDIS_ERRORS

log = structlog.get_logger(__name__)

PROBE_EVERY_S = 2.0
PROBES_MISSED = 2
RECONNECT_MAX_S = 2.0
SUBSCRIBE_AT_ONCE = 500
RESTORE_PAUSE_S = 0.1
"""The longest pause before each batch of channels that are restored; half of it on average."""


class SubscriptionRegistry(PubSubHandler, Protocol):
    """Whoever holds the channels."""

    def wants(self, channel: bytes) -> bool:
        """Whether somebody still waits on it."""

    def missing(self, node: str, listener: PubSubConnection) -> list[bytes]:
        """The channels of this node that its listener has not confirmed, but for those it is asked about."""

    def mark_gap(self) -> None:
        """Messages may have been missed."""

    def request_rebalance(self) -> None:
        """Which node carries what may have changed."""


async def end(task: asyncio.Task[None]) -> None:
    """Cancel `task` until it has ended: redis-py swallows a cancellation that meets a failing connection."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)


class _Batch:
    """Channels that share one command, and the future that is done once Redis has answered it."""

    def __init__(self) -> None:
        self.channels: dict[bytes, None] = {}
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)


class RedisSubscriber:
    """Keeps a listener to `node` until it is stopped."""

    def __init__(
        self, node: str, transport: PubSubTransport, holder: SubscriptionRegistry, metrics: Metrics
    ) -> None:
        self.node = node
        self.listener: PubSubConnection | None = None
        """The listener that channels can be asked on; None while Redis is away."""
        self.tried = asyncio.Event()
        """Set once the first attempt to connect has ended, well or not."""
        self._transport = transport
        self._holder = holder
        self._metrics = metrics
        self._asked: deque[_Batch] = deque()
        self._wake = asyncio.Event()
        self._restore = asyncio.Event()
        self._token = secrets.token_hex(8)
        self._heard = asyncio.Event()
        self._missed = 0
        self.probe: bytes | None = None
        self._task = asyncio.create_task(self._run(), name=f"keeper-{node}")

    async def stop(self) -> None:
        await end(self._task)

    @property
    def healthy(self) -> bool:
        """Whether a message published by this process was lately heard from this node."""
        return self.listener is not None and self._missed < PROBES_MISSED

    def ask(self, channel: bytes) -> asyncio.Future[None] | None:
        """Subscribe, or unsubscribe, whichever is right by then. None while there is no listener.

        What is asked within one turn of the event loop, or while Redis answers what was asked
        before, shares one command and the one future, which is done when Redis has answered it.
        """
        if self.listener is None:
            return None
        if not self._asked or len(self._asked[-1].channels) >= SUBSCRIBE_AT_ONCE:
            self._asked.append(_Batch())
        batch = self._asked[-1]
        batch.channels[channel] = None
        self._wake.set()
        return batch.answer

    def restore(self) -> None:
        """Look again for what this node carries and its listener has not confirmed."""
        self._restore.set()

    def probe_heard(self) -> None:
        self._heard.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                listener = PubSubConnection(self._transport.connection_to(self.node), self._transport)
                try:
                    await listener.open()
                    async with asyncio.TaskGroup() as group:
                        group.create_task(listener.listen(self._holder))
                        await self._begin(listener)
                        failures = 0
                        group.create_task(self._answer_joins(listener))
                        group.create_task(self._restore_all(listener))
                        group.create_task(self._probe(listener))
                finally:
                    await self._end(listener)
            except* REDIS_ERRORS as error:
                log.warning("redis_lost", node=self.node, error=repr(error.exceptions[0]), failures=failures)
            except* Exception:
                log.exception("listener_failed", node=self.node)
            self.tried.set()
            self._holder.request_rebalance()
            await asyncio.sleep(pause_after(failures))
            failures += 1

    async def _begin(self, listener: PubSubConnection) -> None:
        self.probe = self._transport.probe_on(self.node, self._token)
        await listener.subscribe([self.probe])
        self.listener = listener
        self.tried.set()
        self._restore.set()

    async def _end(self, listener: PubSubConnection) -> None:
        held, self.listener = self.listener, None
        await listener.close()
        for batch in self._asked:
            batch.release()
        self._asked.clear()
        if held is not None:
            self._holder.mark_gap()

    async def _answer_joins(self, listener: PubSubConnection) -> None:
        """Ask for what joins, and give up what was left: see `ask`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._asked:
                batch = self._asked.popleft()
                try:
                    await self._send(listener, batch.channels)
                except TimeoutError:
                    self._restore.set()
                finally:
                    batch.release()

    async def _send(self, listener: PubSubConnection, asked: Collection[bytes]) -> None:
        wanted = [channel for channel in asked if self._holder.wants(channel)]
        left = [channel for channel in asked if not self._holder.wants(channel)]
        if wanted:
            await listener.subscribe(wanted)
        if left:
            await listener.unsubscribe(left)

    async def _restore_all(self, listener: PubSubConnection) -> None:
        """What was held before this listener, or joined while there was none, or has moved here."""
        while True:
            await self._restore.wait()
            self._restore.clear()
            missing = self._holder.missing(self.node, listener)
            for batch in _batches(missing):
                await asyncio.sleep(random.random() * RESTORE_PAUSE_S)  # noqa: S311
                wanted = [channel for channel in batch if self._holder.wants(channel)]
                try:
                    if wanted:
                        await listener.subscribe(wanted)
                except TimeoutError:
                    self._restore.set()
            if missing:
                self._metrics.channels_restored.inc(len(missing))
                log.info("channels_restored", node=self.node, channels=len(missing))
                self._holder.mark_gap()  # now: what is read before a channel is confirmed may be stale

    async def _probe(self, listener: PubSubConnection) -> None:
        """Publish to ourselves; silence twice in a row means that the listener is dead."""
        loop = asyncio.get_running_loop()
        while True:
            if self.probe is None or self._transport.node_of(self.probe) != self.node:  # its slot has moved
                self.probe = self._transport.probe_on(self.node, self._token)
                await listener.subscribe([self.probe])
            began = loop.time()
            self._heard.clear()
            try:
                async with asyncio.timeout(PROBE_EVERY_S):
                    await self._transport.publish(self.probe, b"probe")
                    await self._heard.wait()
                self._missed = 0
                await asyncio.sleep(PROBE_EVERY_S)
            except REDIS_ERRORS:
                self._missed += 1
                self._metrics.probes_missed.inc()
                if self._missed % PROBES_MISSED == 0:
                    raise RedisConnectionError("silent: our own probe does not come back") from None
                self._holder.request_rebalance()
                await asyncio.sleep(max(0.0, began + PROBE_EVERY_S - loop.time()))


def pause_after(failures: int) -> float:
    """Seconds until the next attempt, after so many in a row have failed before."""
    delay: float = min(
        RECONNECT_MAX_S, 0.05 * 2 ** min(failures, 10)
    )  # an outage of an hour is 1,800 attempts
    return delay * (0.5 + random.random())  # noqa: S311 - spreads, protects nothing


def _batches(channels: Sequence[bytes]) -> list[Sequence[bytes]]:
    return [
        channels[start : start + SUBSCRIBE_AT_ONCE] for start in range(0, len(channels), SUBSCRIBE_AT_ONCE)
    ]
