"""The hub: who waits here for which invoice or account, and the one Redis pub/sub connection of this process.

Owns the channels, their reference counts, and the order that closes the gap between reading
a row and hearing of its change: register, subscribe, await Redis's acknowledgement; only
then does the caller read the row. Refuses to know the database and to wait for a socket: a
message is offered to each line, and a line never blocks.

Redis is a hint, the row is the truth. A killed connection is restored by redis-py silently,
and the only trace is a second confirmation of a channel that was held already; a frozen
server looks like silence. Both are noticed here, and `gaps` asks the rereader
(`rereading.py`) to read the rows again.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.core.messages import (
    BalanceMessage,
    Stage,
    StatusMessage,
    decode_balance,
    decode_status,
    encode,
)

log = structlog.get_logger(__name__)

REDIS_ERRORS = (RedisError, OSError, TimeoutError)
CONNECTION_ERRORS = (*REDIS_ERRORS, RuntimeError)
"""A send that fails makes redis-py reconnect beside the listener; two who read at once get a RuntimeError."""
ACK_TIMEOUT_S = 2.0
PUBLISH_TIMEOUT_S = 1.0
LINGER_S = 1.0
PROBE_EVERY_S = 2.0
PROBES_MISSED = 2
RECONNECT_MAX_S = 2.0


Key = TypeVar("Key", str, int)
News = TypeVar("News", StatusMessage, BalanceMessage)
Heard_contra = TypeVar("Heard_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Topic(Generic[Key, News]):
    """What channels can be about. A channel's name is the topic's prefix and the row's key."""

    prefix: str
    decode: Callable[[bytes], News]

    def channel(self, key: Key) -> str:
        return f"{self.prefix}{key}"


INVOICES: Topic[str, StatusMessage] = Topic("paidup:invoice:", decode_status)
ACCOUNTS: Topic[int, BalanceMessage] = Topic("paidup:account:", decode_balance)


class Line(Protocol[Heard_contra]):
    """Somebody who waits, here, for one invoice or account. The call may neither block nor raise."""

    def offer(self, news: Heard_contra, frame: bytes, /) -> None:
        """A message, and its encoded frame; the line sends it if its version is news."""


class StagedLine(Line[StatusMessage], Protocol):
    """Every line on an invoice is one: Stripe may be asked meanwhile, and the screen shows that."""

    def offer_stage(self, stage: Stage) -> None:
        """The screen's stage within the status that it has."""


class _Channel:
    __slots__ = ("confirmed", "key", "lines", "topic")

    def __init__(self, topic: Topic[Any, Any], key: Any) -> None:
        self.topic = topic
        self.key = key
        self.lines: set[Any] = set()
        self.confirmed = asyncio.Event()

    def offer(self, news: StatusMessage | BalanceMessage, frame: bytes) -> None:
        for line in tuple(self.lines):
            line.offer(news, frame)


class Hub:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pubsub = redis.pubsub()
        self._channels: dict[str, _Channel] = {}
        self._commands = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._probe_channel = f"paidup:probe:{secrets.token_hex(8)}"
        self._probe_heard = asyncio.Event()
        self._probes_missed = 0
        self._probe_confirmed = False
        self._closed = False
        self.gaps = asyncio.Event()
        """Set when messages may have been missed; whoever re-reads clears it."""

    # Life

    async def open(self) -> None:
        """Subscribe the permanent channel and start listening. Works with Redis away, too."""
        with suppress(*CONNECTION_ERRORS):
            await self._connect()
        self._spawn(self._listen(), "hub-listen")
        self._spawn(self._probe(), "hub-probe")

    async def close(self) -> None:
        # redis-py may swallow a cancellation while it restores a connection: the loops look for themselves.
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(*REDIS_ERRORS):
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]

    @property
    def healthy(self) -> bool:
        """Whether a message published by this process was lately heard by it."""
        return self._probe_confirmed and self._probes_missed < PROBES_MISSED

    def waiting(self, topic: Topic[Key, Any]) -> list[Key]:
        """The invoices, or the accounts, that somebody here waits for."""
        return [
            channel.key for channel in self._channels.values() if channel.lines and channel.topic is topic
        ]

    def lines_of(self, topic: Topic[Key, Any], key: Key) -> int:
        channel = self._channels.get(topic.channel(key))
        return len(channel.lines) if channel else 0

    # Waiting

    async def join(self, topic: Topic[Key, News], key: Key, line: Line[News]) -> bool:
        """Register `line`, subscribe, and await Redis's acknowledgement.

        Afterwards every change is either in the row or offered to the line. False where Redis
        did not acknowledge in time: then the rereader is what tells the line.
        """
        name = topic.channel(key)
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = _Channel(topic, key)
            # A task of its own: should this joiner be cancelled, the others still need it.
            self._spawn(self._subscribe(name), "hub-subscribe")
        channel.lines.add(line)
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await channel.confirmed.wait()
        except TimeoutError:
            return False
        return True

    def leave(self, topic: Topic[Key, News], key: Key, line: Line[News]) -> None:
        """Forget `line`. The channel is given up a second later, unless somebody joins again."""
        channel = self._channels.get(topic.channel(key))
        if channel is None:
            return
        channel.lines.discard(line)
        if not channel.lines:
            loop = asyncio.get_running_loop()
            loop.call_later(LINGER_S, self._give_up_if_empty, channel)

    def _give_up_if_empty(self, channel: _Channel) -> None:
        name = channel.topic.channel(channel.key)
        if not channel.lines and self._channels.get(name) is channel:
            del self._channels[name]
            self._spawn(self._unsubscribe(name), "hub-unsubscribe")

    async def _subscribe(self, name: str) -> None:
        with suppress(*CONNECTION_ERRORS):
            await self._command(self._pubsub.subscribe, name)

    async def _unsubscribe(self, name: str) -> None:
        with suppress(*CONNECTION_ERRORS):
            await self._command(self._unsubscribe_unless_joined, name)

    async def _unsubscribe_unless_joined(self, name: str) -> None:
        if name not in self._channels:
            await self._pubsub.unsubscribe(name)

    # Telling

    def publish(self, status: StatusMessage) -> Coroutine[Any, Any, bool]:
        """Tell whoever watches this invoice: see `_publish`."""
        return self._publish(INVOICES.channel(status.invoice), status)

    def publish_balance(self, account_id: int, balance: BalanceMessage) -> Coroutine[Any, Any, bool]:
        """Tell whoever watches this account: see `_publish`."""
        return self._publish(ACCOUNTS.channel(account_id), balance)

    async def _publish(self, name: str, news: StatusMessage | BalanceMessage) -> bool:
        """Tell the lines here at once, and every other process through Redis.

        True once Redis has taken it. Never raises: the row is committed, and whoever missed
        the hint reads it again.
        """
        frame = encode(news)
        if channel := self._channels.get(name):
            channel.offer(news, frame)
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_S):
                await self._redis.publish(name, frame)
        except REDIS_ERRORS as error:
            log.warning("publish_failed", channel=name, error=str(error))
            return False
        return True

    def deliver(self, topic: Topic[Key, News], key: Key, news: News) -> None:
        """Offer `news` to the lines of this process; each drops what is no news to it."""
        if channel := self._channels.get(topic.channel(key)):
            channel.offer(news, encode(news))

    def tell_stage(self, invoice: str, stage: Stage) -> None:
        """Move the screens of this process on, within the status that they have."""
        channel = self._channels.get(INVOICES.channel(invoice))
        lines: tuple[StagedLine, ...] = tuple(channel.lines) if channel else ()
        for line in lines:
            line.offer_stage(stage)

    # Redis

    async def _connect(self) -> None:
        # Only before or by the task that listens: two tasks that restore one connection break it.
        async with self._commands, asyncio.timeout(ACK_TIMEOUT_S):
            await self._pubsub.subscribe(self._probe_channel)

    async def _command(self, command: Callable[[str], Awaitable[Any]], name: str) -> None:
        # One at a time: concurrent first subscribes on one PubSub lose subscriptions. Nothing while the
        # connection is down: once it is back, `_confirm` asks for what is missing and gives up the rest.
        async with self._commands, asyncio.timeout(ACK_TIMEOUT_S):
            connection: Any = self._pubsub.connection
            if connection is not None and connection.is_connected:
                await command(name)

    async def _listen(self) -> None:
        failures = 0
        while not self._closed:
            try:
                if not self._pubsub.subscribed:  # Redis was away when we opened
                    await self._connect()
                message = await self._pubsub.get_message(timeout=PROBE_EVERY_S)
                failures = 0
            except CONNECTION_ERRORS as error:
                failures += 1
                log.warning("redis_lost", error=str(error), failures=failures)
                delay = min(RECONNECT_MAX_S, 0.05 * 2**failures)
                await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311 - spreads, protects nothing
                continue
            if message is None:
                continue
            try:
                self._heard(message)
            except Exception:  # whatever one message does, the others are still listened to
                log.exception("message_failed", channel=message["channel"])

    def _heard(self, message: dict[str, Any]) -> None:
        name = _text(message["channel"])
        if message["type"] == "message":
            if name == self._probe_channel:
                self._probe_heard.set()
            else:
                self._forward(name, message["data"])
        elif message["type"] == "subscribe":
            self._confirm(name)

    def _confirm(self, name: str) -> None:
        if name == self._probe_channel:
            if self._probe_confirmed:
                log.warning("redis_reconnected", channels=len(self._channels))
                self.gaps.set()
            self._probe_confirmed = True
            self._spawn(self._subscribe_unconfirmed(), "hub-resubscribe")
            return
        channel = self._channels.get(name)
        if channel is None:  # restored by redis-py, though its last line left while Redis was away
            self._spawn(self._unsubscribe(name), "hub-unsubscribe")
            return
        if channel.confirmed.is_set():
            self.gaps.set()  # held already: the connection was replaced, and messages may be lost
        channel.confirmed.set()

    async def _subscribe_unconfirmed(self) -> None:
        """What was asked for while Redis was away: redis-py restores only what it once had."""
        for name, channel in tuple(self._channels.items()):
            if not channel.confirmed.is_set():
                await self._subscribe(name)

    def _forward(self, name: str, frame: bytes) -> None:
        channel = self._channels.get(name)
        if channel is None or not channel.lines:
            return
        try:
            news = channel.topic.decode(frame)
        except (msgspec.DecodeError, UnicodeDecodeError):
            log.error("message_malformed", channel=name)
            return
        channel.offer(news, frame)

    async def _probe(self) -> None:
        """Publish to ourselves; silence twice in a row means that the connection is dead."""
        while not self._closed:
            self._probe_heard.clear()
            try:
                async with asyncio.timeout(PROBE_EVERY_S):
                    await self._redis.publish(self._probe_channel, "probe")
                    await self._probe_heard.wait()
                self._probes_missed = 0
            except REDIS_ERRORS:
                self._probes_missed += 1
                if self._probes_missed % PROBES_MISSED == 0:
                    log.warning("redis_silent", probes_missed=self._probes_missed)
                    self.gaps.set()
                    await self._reconnect()
            await asyncio.sleep(PROBE_EVERY_S)

    async def _reconnect(self) -> None:
        connection: Any = self._pubsub.connection  # None before the first subscription
        if connection is not None:
            with suppress(*REDIS_ERRORS):
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    await connection.disconnect(nowait=True)

    def _spawn(self, coroutine: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _text(data: bytes | str) -> str:
    return data.decode() if isinstance(data, bytes) else data
