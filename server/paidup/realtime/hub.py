"""The hub: who waits here for which invoice or account, and what they are told.

Owns the channels, and the order that closes the gap between reading a row and hearing of its
change: register, subscribe, await Redis's acknowledgement; only then does the caller read the
row. Refuses to know the database and to wait for a socket: a message is offered to each line,
and a line never blocks.

Redis is a hint, the row is the truth. What was published while a connection was killed, frozen
or away is gone; the keepers notice (`keepers.py`), and `gaps` asks the rereader (`rereading.py`)
to read the rows again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog

from paidup.domain.messages import BalanceMessage, Stage, StatusMessage, decode_balance, decode_status, encode
from paidup.metrics import Metrics
from paidup.realtime.redis_connection import ACK_TIMEOUT_S, PubSubConnection, transport_of
from paidup.realtime.subscriber import RECONNECT_MAX_S, RedisSubscriber, end
from paidup.redis_client import REDIS_ERRORS, RedisClient

log = structlog.get_logger(__name__)

PUBLISH_TIMEOUT_S = 1.0
UNSUBSCRIBE_DELAY_S = 1.0


Key = TypeVar("Key", str, int)
News = TypeVar("News", StatusMessage, BalanceMessage)
Heard_contra = TypeVar("Heard_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Topic(Generic[Key, News]):
    """What channels can be about. A channel's name is the topic's prefix and the row's key."""

    prefix: str
    decode: Callable[[bytes], News]

    def channel(self, key: Key) -> bytes:
        return f"{self.prefix}{key}".encode()


INVOICES: Topic[str, StatusMessage] = Topic("paidup:invoice:", decode_status)
ACCOUNTS: Topic[int, BalanceMessage] = Topic("paidup:account:", decode_balance)


class Subscriber(Protocol[Heard_contra]):
    """Somebody who waits, here, for one invoice or account. The call may neither block nor raise."""

    def offer(self, news: Heard_contra, frame: bytes, /) -> bool:
        """A message, and its encoded frame; the line sends it if its version is news. Whether it is."""


class StageSubscriber(Subscriber[StatusMessage], Protocol):
    """Every line on an invoice is one: Stripe may be asked meanwhile, and the screen shows that."""

    def offer_stage(self, stage: Stage) -> None:
        """The screen's stage within the status that it has."""


class _Channel:
    """Ten thousand of these may wait: a tuple, not a set; the listener that confirmed it, not an event."""

    __slots__ = ("answer", "key", "lines", "listener", "parting", "topic")

    def __init__(self, topic: Topic[Any, Any], key: Any) -> None:
        self.topic = topic
        self.key = key
        self.lines: tuple[Any, ...] = ()
        self.listener: PubSubConnection | None = None
        self.answer: asyncio.Future[None] | None = None
        """Redis's answer to the first subscription, while it is awaited."""
        self.parting: asyncio.TimerHandle | None = None
        """When it is given up, where nobody waits any more."""

    @property
    def confirmed(self) -> bool:
        return self.listener is not None and self.listener.alive

    def offer(self, news: StatusMessage | BalanceMessage, frame: bytes) -> bool:
        """Whether it was news to any line."""
        told = False
        for line in self.lines:
            if line.offer(news, frame):
                told = True
        return told


class Hub:
    def __init__(self, redis: RedisClient, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._transport = transport_of(redis)
        self._channels: dict[bytes, _Channel] = {}
        self._keepers: dict[str, RedisSubscriber] = {}
        self._doubts = asyncio.Event()
        self._aligning: asyncio.Task[None] | None = None
        self.gaps = asyncio.Event()
        """Set when messages may have been missed; whoever re-reads clears it."""

    # Life

    async def open(self) -> None:
        """Connect, and start listening. Works with Redis away, too."""
        await self._sync_nodes()
        self._aligning = asyncio.create_task(self._align_forever(), name="hub-align")
        tried = [asyncio.ensure_future(keeper.tried.wait()) for keeper in self._keepers.values()]
        if tried:
            _, pending = await asyncio.wait(tried, timeout=ACK_TIMEOUT_S)
            for waiting in pending:
                waiting.cancel()

    async def close(self) -> None:
        if self._aligning is not None:
            await end(self._aligning)
        await asyncio.gather(*(keeper.stop() for keeper in self._keepers.values()))
        self._keepers.clear()
        await self._transport.close()

    @property
    def healthy(self) -> bool:
        """Whether a message published by this process was lately heard, from every node with channels."""
        keepers = self._keepers.values()
        return bool(keepers) and all(keeper.healthy for keeper in keepers)

    def subscribed_keys(self, topic: Topic[Key, Any]) -> list[Key]:
        """The invoices, or the accounts, that somebody here waits for."""
        return [
            channel.key for channel in self._channels.values() if channel.lines and channel.topic is topic
        ]

    def subscriber_count(self, topic: Topic[Key, Any], key: Key) -> int:
        channel = self._channels.get(topic.channel(key))
        return len(channel.lines) if channel else 0

    # Waiting

    async def subscribe(self, topic: Topic[Key, News], key: Key, line: Subscriber[News]) -> bool:
        """Register `line`, subscribe, and await Redis's acknowledgement.

        Afterwards every change is either in the row or offered to the line. False where Redis
        did not acknowledge in time, or is known to be away: then the rereader is what tells the line.
        """
        name = topic.channel(key)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(topic, key)
        if channel.parting is not None:
            channel.parting.cancel()
            channel.parting = None
        channel.lines += (line,)
        if channel.confirmed:
            return True
        if channel.answer is None or channel.answer.done():
            channel.answer = self._ask(name)
        if (answer := channel.answer) is None:
            return False
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await asyncio.shield(answer)  # others wait for it, too
        except TimeoutError:
            answer.add_done_callback(lambda _: self.mark_gap())  # heard from then on, and read before
        return channel.confirmed

    def unsubscribe(self, topic: Topic[Key, News], key: Key, line: Subscriber[News]) -> None:
        """Forget `line`. The channel is given up a second later, unless somebody joins again."""
        channel = self._channels.get(topic.channel(key))
        if channel is None:
            return
        channel.lines = tuple(other for other in channel.lines if other is not line)
        if not channel.lines and channel.parting is None:
            loop = asyncio.get_running_loop()
            channel.parting = loop.call_later(UNSUBSCRIBE_DELAY_S, self._give_up, channel)

    def _give_up(self, channel: _Channel) -> None:
        name = channel.topic.channel(channel.key)
        del self._channels[name]
        self._ask(name)

    def _ask(self, name: bytes) -> asyncio.Future[None] | None:
        keeper = self._keepers.get(self._transport.node_of(name) or "")
        return keeper.ask(name) if keeper else None

    # Telling

    def publish(self, status: StatusMessage) -> Coroutine[Any, Any, bool]:
        """Tell whoever watches this invoice: see `_publish`."""
        return self._publish(INVOICES.channel(status.invoice), status)

    def publish_balance(self, account_id: int, balance: BalanceMessage) -> Coroutine[Any, Any, bool]:
        """Tell whoever watches this account: see `_publish`."""
        return self._publish(ACCOUNTS.channel(account_id), balance)

    async def _publish(self, name: bytes, news: StatusMessage | BalanceMessage) -> bool:
        """Tell the lines here at once, and every other process through Redis.

        True once Redis has taken it. Never raises: the row is committed, and whoever missed
        the hint reads it again.
        """
        frame = encode(news)
        if channel := self._channels.get(name):
            channel.offer(news, frame)
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await self._transport.publish(name, frame)
        except REDIS_ERRORS as error:
            log.warning("publish_failed", channel=name.decode(), error=str(error))
            return False
        return True

    def publish_local(self, topic: Topic[Key, News], key: Key, news: News) -> bool:
        """Offer `news` to the lines of this process; who has it already drops it. Whether any took it."""
        channel = self._channels.get(topic.channel(key))
        return channel is not None and channel.offer(news, encode(news))

    def publish_stage(self, invoice: str, stage: Stage) -> None:
        """Move the screens of this process on, within the status that they have."""
        channel = self._channels.get(INVOICES.channel(invoice))
        lines: tuple[StageSubscriber, ...] = channel.lines if channel else ()
        for line in lines:
            line.offer_stage(stage)

    # What the keepers hear

    def heard(self, name: bytes, data: bytes) -> None:
        channel = self._channels.get(name)
        if channel is None or not channel.lines:
            self._heard_a_probe(name)
            return
        try:
            channel.offer(channel.topic.decode(data), data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.error("message_malformed", channel=name.decode())
        except Exception:  # whatever one message does, the others are still listened to
            log.exception("message_failed", channel=name.decode())

    def _heard_a_probe(self, name: bytes) -> None:
        for keeper in self._keepers.values():
            if keeper.probe == name:
                keeper.probe_heard()

    def confirmed(self, name: bytes, listener: PubSubConnection) -> None:
        channel = self._channels.get(name)
        if channel is not None:
            channel.listener = listener
            channel.answer = None

    def on_unsubscribed(self, name: bytes, listener: PubSubConnection) -> None:
        channel = self._channels.get(name)
        if channel is not None and channel.listener is listener:
            channel.listener = None
            self.request_rebalance()  # not asked for: its slot has moved

    def refused(self, error: Exception) -> None:
        log.warning("redis_refused", error=str(error))
        self.request_rebalance()

    def wants(self, name: bytes) -> bool:
        return name in self._channels

    def missing(self, node: str, listener: PubSubConnection) -> list[bytes]:
        node_of = self._transport.node_of
        return [
            name
            for name, channel in self._channels.items()
            if (channel.listener is not listener or not channel.confirmed)
            and (channel.answer is None or channel.answer.done())
            and node_of(name) == node
        ]

    def mark_gap(self) -> None:
        if not self.gaps.is_set():
            self.metrics.gaps.inc()
            self.gaps.set()

    def request_rebalance(self) -> None:
        self._doubts.set()

    # Which nodes there are

    async def _align_forever(self) -> None:
        """Whenever channels may have moved, learn where to, and have them asked for there."""
        while True:
            await self._doubts.wait()
            await self._sync_nodes()
            await asyncio.sleep(RECONNECT_MAX_S / 4)

    async def _sync_nodes(self) -> None:
        self._doubts.clear()
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await self._transport.refresh()
        except REDIS_ERRORS as error:
            log.warning("nodes_unknown", error=str(error))
            self.request_rebalance()
        nodes = self._transport.nodes()
        for node in self._keepers.keys() - nodes:
            await self._keepers.pop(node).stop()
        for node in nodes:
            if node not in self._keepers:
                self._keepers[node] = RedisSubscriber(node, self._transport, self, self.metrics)
        for keeper in self._keepers.values():
            keeper.restore()
