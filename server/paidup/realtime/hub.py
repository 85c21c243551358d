"""The hub delivers status and balance messages to the subscribers of this process.

Subscribing closes the gap between reading a row and missing its next change: register the
subscriber, subscribe at Redis, await the acknowledgement; only then does the caller read the row.
The hub does not know the database. It never waits for a socket: messages are offered to
subscribers, and no subscriber may block.

Redis is a hint, the row is the truth. A message published while a connection was lost or frozen
is gone. `subscriber.py` detects that and sets `gaps`, upon which `resync.py` reads the rows again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog

from paidup.domain.messages import (
    BalanceMessage,
    CheckoutMessage,
    StatusMessage,
    decode_balance,
    decode_checkout,
    decode_status,
    encode,
)
from paidup.domain.stages import Stage
from paidup.realtime.redis_connection import ACK_TIMEOUT_S, PubSubConnection, transport_for
from paidup.realtime.subscriber import RECONNECT_MAX_S, RedisSubscriber
from paidup.runtime.metrics import Metrics
from paidup.runtime.redis_client import REDIS_ERRORS, RedisClient
from paidup.runtime.tasks import cancel_tasks

log = structlog.get_logger(__name__)

PUBLISH_TIMEOUT_S = 1.0
UNSUBSCRIBE_DELAY_S = 1.0


Key = TypeVar("Key", str, int)
Message = TypeVar("Message", StatusMessage, CheckoutMessage, BalanceMessage)
Message_contra = TypeVar("Message_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Topic(Generic[Key, Message]):
    """A kind of channel. A channel's name is the topic's prefix followed by the row's key."""

    prefix: str
    decode: Callable[[bytes], Message]

    def channel(self, key: Key) -> bytes:
        return f"{self.prefix}{key}".encode()


INVOICES: Topic[str, StatusMessage] = Topic("paidup:invoice:", decode_status)
CHECKOUTS: Topic[str, CheckoutMessage] = Topic("paidup:checkout:", decode_checkout)
ACCOUNTS: Topic[int, BalanceMessage] = Topic("paidup:account:", decode_balance)
AnyMessage = StatusMessage | CheckoutMessage | BalanceMessage


class Subscriber(Protocol[Message_contra]):
    """Receives the messages of one invoice, Checkout Session or account. No method may block or raise."""

    @property
    def known_version(self) -> int:
        """Versions up to this one are not new to it."""

    def offer(self, message: Message_contra, frame: bytes, /) -> bool:
        """Send `frame`, the encoded message, if its version is new. Returns whether it was new."""


class StageSubscriber(Protocol):
    """A subscriber that is also told the stage that Stripe's answer leads to."""

    @property
    def known_version(self) -> int:
        """See `Subscriber`."""

    def offer_stage(self, stage: Stage) -> None:
        """Change the stage shown within the current status."""


class _Channel:
    """The subscribers of one key. Kept small, since a process may have ten thousand of these."""

    __slots__ = ("ack", "connection", "key", "removal", "subscribers", "topic")

    def __init__(self, topic: Topic[Any, Any], key: Any) -> None:
        self.topic = topic
        self.key = key
        self.subscribers: tuple[Any, ...] = ()
        self.connection: PubSubConnection | None = None
        """The connection that confirmed the subscription."""
        self.ack: asyncio.Future[None] | None = None
        """Done once Redis has answered the subscribe command; None when none is pending."""
        self.removal: asyncio.TimerHandle | None = None
        """Scheduled when the last subscriber leaves."""

    @property
    def confirmed(self) -> bool:
        return self.connection is not None and self.connection.alive

    def offer(self, message: AnyMessage, frame: bytes) -> bool:
        """Offer to every subscriber. Returns whether the message was new to any of them."""
        delivered = False
        for subscriber in self.subscribers:
            if subscriber.offer(message, frame):
                delivered = True
        return delivered


class Hub:
    """The channels that this process is subscribed to, and their subscribers."""

    def __init__(self, redis: RedisClient, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._transport = transport_for(redis)
        self._channels: dict[bytes, _Channel] = {}
        self._node_subscribers: dict[str, RedisSubscriber] = {}
        self._rebalance_requested = asyncio.Event()
        self._sync_task: asyncio.Task[None] | None = None
        self.on_publish: Callable[[], None] = lambda: None
        """Called with each message that is published, so after a commit. Never waits, never raises."""
        self.gaps = asyncio.Event()
        """Set when messages may have been missed; the resync clears it."""

    async def open(self) -> None:
        """Connect and start receiving. Succeeds while Redis is down, too."""
        await self._sync_nodes()
        self._sync_task = asyncio.create_task(self._sync_nodes_forever(), name="hub-sync-nodes")
        attempts = [
            asyncio.ensure_future(node_subscriber.first_attempt_done.wait())
            for node_subscriber in self._node_subscribers.values()
        ]
        if attempts:
            _, pending = await asyncio.wait(attempts, timeout=ACK_TIMEOUT_S)
            for attempt in pending:
                attempt.cancel()

    async def close(self) -> None:
        if self._sync_task is not None:
            await cancel_tasks(self._sync_task, again_after_s=0.1)
        await asyncio.gather(*(subscriber.stop() for subscriber in self._node_subscribers.values()))
        self._node_subscribers.clear()
        await self._transport.close()

    @property
    def healthy(self) -> bool:
        """Whether this process's probe messages come back from every Redis node with channels."""
        node_subscribers = self._node_subscribers.values()
        return bool(node_subscribers) and all(subscriber.healthy for subscriber in node_subscribers)

    @property
    def error(self) -> str | None:
        """Why a node of Redis cannot be reached."""
        return next((each.error for each in self._node_subscribers.values() if each.error), None)

    def subscribed_keys(self, topic: Topic[Key, Any]) -> list[Key]:
        """The keys of this topic that have subscribers in this process."""
        return [
            channel.key
            for channel in self._channels.values()
            if channel.subscribers and channel.topic is topic
        ]

    def known_versions(self, topic: Topic[Key, Any], keys: Iterable[Key]) -> dict[Key, int]:
        """Those of the keys that have subscribers in this process, with what all of them know at least."""
        found: dict[Key, int] = {}
        for key in keys:
            channel = self._channels.get(topic.channel(key))
            if channel is not None and channel.subscribers:
                found[key] = min([subscriber.known_version for subscriber in channel.subscribers])
        return found

    def subscriber_count(self, topic: Topic[Key, Any], key: Key) -> int:
        channel = self._channels.get(topic.channel(key))
        return len(channel.subscribers) if channel else 0

    # Subscribing

    async def subscribe(self, topic: Topic[Key, Message], key: Key, subscriber: Subscriber[Message]) -> bool:
        """Register `subscriber`, subscribe at Redis, and await the acknowledgement.

        Afterwards every change is either in the row or offered to the subscriber. Returns False if
        Redis did not acknowledge in time or is known to be down; the resync then delivers changes.
        """
        if (ack := self.register(topic, key, subscriber)) is not None:
            await self.acknowledged(ack)
        channel = self._channels.get(topic.channel(key))
        return channel is not None and channel.confirmed

    def register(
        self, topic: Topic[Key, Message], key: Key, subscriber: Subscriber[Message]
    ) -> asyncio.Future[None] | None:
        """The first half of `subscribe`. Returns what to await with `acknowledged` before the row is read.

        Subscribers that come together share it. None: there is nothing to await, since Redis has confirmed
        the channel or is down.
        """
        name = topic.channel(key)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(topic, key)
        if channel.removal is not None:
            channel.removal.cancel()
            channel.removal = None
        channel.subscribers += (subscriber,)
        if channel.confirmed:
            return None
        if channel.ack is None or channel.ack.done():
            channel.ack = self._sync_channel(name)
        return channel.ack

    async def acknowledged(self, ack: asyncio.Future[None]) -> None:
        """Wait until Redis has answered, for ACK_TIMEOUT_S at most."""
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await asyncio.shield(ack)  # shared with other subscribers
        except TimeoutError:
            ack.add_done_callback(lambda _: self.mark_gap())  # the caller reads the row before the ack

    def unsubscribe(self, topic: Topic[Key, Message], key: Key, subscriber: Subscriber[Message]) -> None:
        """Remove `subscriber`. An unused channel is dropped after UNSUBSCRIBE_DELAY_S."""
        channel = self._channels.get(topic.channel(key))
        if channel is None:
            return
        channel.subscribers = tuple(other for other in channel.subscribers if other is not subscriber)
        if not channel.subscribers and channel.removal is None:
            loop = asyncio.get_running_loop()
            channel.removal = loop.call_later(UNSUBSCRIBE_DELAY_S, self._remove, channel)

    def _remove(self, channel: _Channel) -> None:
        name = channel.topic.channel(channel.key)
        del self._channels[name]
        self._sync_channel(name)

    def _sync_channel(self, name: bytes) -> asyncio.Future[None] | None:
        node_subscriber = self._node_subscribers.get(self._transport.node_of(name) or "")
        return node_subscriber.sync_channel(name) if node_subscriber else None

    # Publishing

    def publish(self, status: StatusMessage) -> Coroutine[Any, Any, bool]:
        """Publish to the invoice's subscribers: see `_publish`."""
        return self._publish(INVOICES.channel(status.invoice), status)

    def publish_checkout(self, message: CheckoutMessage) -> Coroutine[Any, Any, bool]:
        """Publish to the Checkout Session's subscribers: see `_publish`."""
        return self._publish(CHECKOUTS.channel(message.checkout), message)

    def publish_balance(self, account_id: int, balance: BalanceMessage) -> Coroutine[Any, Any, bool]:
        """Publish to the account's subscribers: see `_publish`."""
        return self._publish(ACCOUNTS.channel(account_id), balance)

    async def _publish(self, name: bytes, message: AnyMessage) -> bool:
        """Deliver to this process's subscribers at once, and to other processes through Redis.

        Returns whether Redis accepted it. Never raises: the row is committed, and a subscriber
        that missed the message gets it from the resync.
        """
        self.on_publish()
        frame = encode(message)
        if channel := self._channels.get(name):
            channel.offer(message, frame)
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await self._transport.publish(name, frame)
        except REDIS_ERRORS as error:
            log.warning("publish_failed", channel=name.decode(), error=str(error))
            return False
        return True

    def publish_local(self, topic: Topic[Key, Message], key: Key, message: Message) -> bool:
        """Deliver to this process's subscribers only. Returns whether it was new to any of them."""
        channel = self._channels.get(topic.channel(key))
        return channel is not None and channel.offer(message, encode(message))

    def publish_stage(self, key: str, stage: Stage, version: int, topic: Topic[str, Any] = INVOICES) -> None:
        """Change the stage that this process's subscribers show within their current status.

        `stage` is that of `version`: those who know a later one keep theirs.
        """
        channel = self._channels.get(topic.channel(key))
        subscribers: tuple[StageSubscriber, ...] = channel.subscribers if channel else ()
        for subscriber in subscribers:
            if subscriber.known_version <= version:
                subscriber.offer_stage(stage)

    # Called by the Redis subscribers and their connections

    def on_message(self, name: bytes, data: bytes) -> None:
        channel = self._channels.get(name)
        if channel is None or not channel.subscribers:
            self._on_probe(name)
            return
        try:
            channel.offer(channel.topic.decode(data), data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.error("message_malformed", channel=name.decode())
        except Exception:  # one message must not end the connection that carries all of them
            log.exception("message_failed", channel=name.decode())

    def _on_probe(self, name: bytes) -> None:
        for node_subscriber in self._node_subscribers.values():
            if node_subscriber.probe == name:
                node_subscriber.on_probe()

    def on_subscribed(self, name: bytes, connection: PubSubConnection) -> None:
        channel = self._channels.get(name)
        if channel is not None:
            channel.connection = connection
            channel.ack = None

    def on_unsubscribed(self, name: bytes, connection: PubSubConnection) -> None:
        channel = self._channels.get(name)
        if channel is not None and channel.connection is connection:
            channel.connection = None
            self.request_rebalance()  # we did not ask for this: the slot has moved

    def on_error(self, error: Exception) -> None:
        log.warning("redis_refused", error=str(error))
        self.request_rebalance()

    def has_channel(self, name: bytes) -> bool:
        return name in self._channels

    def unconfirmed_channels(self, node: str, connection: PubSubConnection) -> list[bytes]:
        node_of = self._transport.node_of
        return [
            name
            for name, channel in self._channels.items()
            if (channel.connection is not connection or not channel.confirmed)
            and (channel.ack is None or channel.ack.done())
            and node_of(name) == node
        ]

    def mark_gap(self) -> None:
        if not self.gaps.is_set():
            self.metrics.gaps.inc()
            self.gaps.set()

    def request_rebalance(self) -> None:
        self._rebalance_requested.set()

    # Cluster nodes

    async def _sync_nodes_forever(self) -> None:
        """Whenever channels may have moved, reload the nodes and resubscribe where needed."""
        while True:
            await self._rebalance_requested.wait()
            await self._sync_nodes()
            await asyncio.sleep(RECONNECT_MAX_S / 4)

    async def _sync_nodes(self) -> None:
        self._rebalance_requested.clear()
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await self._transport.refresh()
        except REDIS_ERRORS as error:
            log.warning("nodes_unknown", error=str(error))
            self.request_rebalance()
        nodes = self._transport.nodes()
        for node in self._node_subscribers.keys() - nodes:
            await self._node_subscribers.pop(node).stop()
        for node in nodes:
            if node not in self._node_subscribers:
                self._node_subscribers[node] = RedisSubscriber(node, self._transport, self, self.metrics)
        for node_subscriber in self._node_subscribers.values():
            node_subscriber.restore()
