"""Pub/sub connections to Redis, one for each node that carries channels.

Covers the differences between a single Redis (SUBSCRIBE) and a cluster (SSUBSCRIBE, slots that
move), and reads the messages. A connection never reconnects: it ends with an error, and its owner
opens another, so that no interruption goes unnoticed.

redis-py makes the connection (addresses, TLS, passwords). Its PubSub is not used:
- It reconnects silently within any call; messages published meanwhile are lost. It resubscribes
  all channels in one command, in every process at the same moment.
- It costs about ten times as much as the parser for each message.
- `ClusterPubSub.get_sharded_message` polls one node after the other: with three nodes and a timeout
  of 0.5 s, a message took 1.0 s because two were idle; and a dead node raises for all. After a
  failover it received nothing: the channels stay with the dead node until some *other* command of the
  same client fails and refreshes the slot table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any, Protocol

import hiredis
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import SlotNotCoveredError

from paidup.runtime.batching import BatchExecutor
from paidup.runtime.redis_client import REDIS_ERRORS, RedisClient

ACK_TIMEOUT_S = 2.0
READ_BYTES = 1 << 20
"""More than asyncio buffers: each read empties the buffer, and the next one yields to the event loop."""
MAX_PROBE_CANDIDATES = 200_000
MAX_CONCURRENT_PUBLISHES = 40

_MORE = object()


class PubSubTransport(Protocol):
    """A single Redis or a cluster. Nodes are identified by name."""

    subscribe: bytes
    unsubscribe: bytes
    message: bytes
    """The type of reply that carries a message."""

    def nodes(self) -> Collection[str]:
        """The known nodes that carry channels."""

    def node_of(self, channel: bytes) -> str | None:
        """The node that carries `channel`, or None if no node does."""

    def make_connection(self, node: str) -> AbstractConnection:
        """A new connection outside the client's pool, not open yet. Raises RedisError for an unknown node."""

    def commands(self, verb: bytes, channels: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """The commands that apply `verb` to `channels`, all of one node."""

    def publish(self, channel: bytes, data: bytes) -> Awaitable[Any]: ...

    def probe_channel(self, node: str, token: str) -> bytes:
        """A channel on this node that no other process uses."""

    async def refresh(self) -> None:
        """Reload which node carries which slots. Raises one of REDIS_ERRORS."""

    async def close(self) -> None:
        """Stop publishing. Call before closing the client, which would otherwise reconnect."""


class StandaloneTransport:
    """One Redis: a single node, and one command for many channels."""

    subscribe, unsubscribe, message = b"SUBSCRIBE", b"UNSUBSCRIBE", b"message"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._publish_batched = BatchExecutor(self._publish)  # concurrent publishes share a pipeline

    def nodes(self) -> Collection[str]:
        return ("redis",)

    def node_of(self, channel: bytes) -> str | None:
        return "redis"

    def make_connection(self, node: str) -> AbstractConnection:
        pool: ConnectionPool = self._redis.connection_pool
        return pool.make_connection()  # type: ignore[no-any-return, no-untyped-call]

    def commands(self, verb: bytes, channels: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        return [(verb, *channels)]

    def publish(self, channel: bytes, data: bytes) -> Awaitable[Any]:
        return self._publish_batched((channel, data))

    async def _publish(self, messages: Sequence[tuple[bytes, bytes]]) -> Sequence[Any]:
        if len(messages) == 1:
            return [await self._redis.publish(*messages[0])]
        pipeline = self._redis.pipeline(transaction=False)
        for channel, data in messages:
            pipeline.publish(channel, data)
        return await pipeline.execute()

    def probe_channel(self, node: str, token: str) -> bytes:
        return f"paidup:probe:{token}".encode()

    async def refresh(self) -> None:
        """Nothing to reload."""

    async def close(self) -> None:
        await self._publish_batched.close()


class ClusterTransport:
    """A cluster: each channel belongs to the node that holds its slot, and slots can move."""

    subscribe, unsubscribe, message = b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"smessage"

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis
        # The cluster client has no blocking pool: beyond its limit it raises instead of waiting.
        self._publish_slots = asyncio.Semaphore(MAX_CONCURRENT_PUBLISHES)

    def nodes(self) -> Collection[str]:
        slots = self._redis.nodes_manager.slots_cache.values()
        shards = {id(shard): shard for shard in slots}.values()  # 16,384 slots share a few lists
        return {shard[0].name for shard in shards}  # the primary comes first

    def node_of(self, channel: bytes) -> str | None:
        try:
            node = self._redis.get_node_from_key(channel)  # type: ignore[arg-type]
        except SlotNotCoveredError:
            return None
        return node.name if node else None

    def make_connection(self, node: str) -> AbstractConnection:
        found = self._redis.get_node(node_name=node)
        if found is None:
            raise RedisConnectionError(f"{node} has left the cluster")
        # Not from the client's pool: the client closes all nodes' connections when its slot table is stale.
        return found.connection_class(**found.connection_kwargs)

    def commands(self, verb: bytes, channels: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        return [(verb, channel) for channel in channels]  # two slots in one command: CROSSSLOT

    async def publish(self, channel: bytes, data: bytes) -> Any:
        async with self._publish_slots:
            return await self._redis.spublish(channel, data)

    def probe_channel(self, node: str, token: str) -> bytes:
        for number in range(MAX_PROBE_CANDIDATES):
            channel = f"paidup:probe:{token}:{number}".encode()
            if self.node_of(channel) == node:
                return channel
        raise RedisConnectionError(f"{node} carries no slot")

    async def refresh(self) -> None:
        # The first call does nothing once initialized, unless a command has failed, and a pub/sub
        # connection sends none. Without it, the second leaves a client without commands (AttributeError).
        await self._redis.initialize()
        await self._redis.nodes_manager.initialize()

    async def close(self) -> None:
        """Nothing to close: each publish awaits its own command."""


def transport_for(redis: RedisClient) -> PubSubTransport:
    return ClusterTransport(redis) if isinstance(redis, RedisCluster) else StandaloneTransport(redis)


class PubSubHandler(Protocol):
    """Handles what a pub/sub connection receives. No method may raise or block."""

    def on_message(self, channel: bytes, data: bytes, /) -> None:
        """A message was published on `channel`."""

    def on_subscribed(self, channel: bytes, connection: PubSubConnection, /) -> None:
        """Redis has confirmed the subscription."""

    def on_unsubscribed(self, channel: bytes, connection: PubSubConnection, /) -> None:
        """The subscription has ended: we unsubscribed, or the slot has moved to another node."""

    def on_error(self, error: Exception, /) -> None:
        """Redis refused a command; the reply does not say which."""


class PubSubConnection:
    """A connection subscribed to channels of one node. Never reconnects."""

    def __init__(self, connection: AbstractConnection, transport: PubSubTransport) -> None:
        self._connection = connection
        self._transport = transport
        self._command_lock = asyncio.Lock()
        self._unacknowledged: set[bytes] = set()
        self._acknowledged = asyncio.Event()
        self.alive = False
        """Whether the confirmed subscriptions are still in effect."""

    async def open(self) -> None:
        """Connect. Raises one of REDIS_ERRORS."""
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await self._connection.connect()  # type: ignore[no-untyped-call]
        self.alive = True

    async def close(self) -> None:
        self.alive = False
        self._acknowledged.set()
        with suppress(*REDIS_ERRORS):
            await self._connection.disconnect(nowait=True)

    async def subscribe(self, channels: Sequence[bytes]) -> None:
        """Returns once Redis has confirmed or refused them. Raises TimeoutError or one of REDIS_ERRORS."""
        async with self._command_lock, asyncio.timeout(ACK_TIMEOUT_S):
            self._unacknowledged = set(channels)
            self._acknowledged.clear()
            await self._send(self._transport.commands(self._transport.subscribe, channels))
            await self._acknowledged.wait()

    async def unsubscribe(self, channels: Sequence[bytes]) -> None:
        async with self._command_lock, asyncio.timeout(ACK_TIMEOUT_S):
            await self._send(self._transport.commands(self._transport.unsubscribe, channels))

    async def _send(self, commands: list[tuple[bytes, ...]]) -> None:
        if not self._connection.is_connected:  # sending would reconnect it, without its channels
            raise RedisConnectionError("the pub/sub connection has ended")
        packed = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed, check_health=False)

    async def listen(self, handler: PubSubHandler) -> None:
        """Pass replies to `handler`. Raises one of REDIS_ERRORS when the connection has ended."""
        # Bypasses redis-py's reads: hundreds of messages for each call, instead of several awaits each.
        stream = self._connection._reader
        receive = self._receiver(stream, handler)
        if stream is not None:
            # Messages are passed on when they are read, ahead of the tasks that are ready to run, instead of
            # by a task that takes its turn after them.
            setattr(stream, "feed_data", receive)  # noqa: B010
            while data := await stream.read(READ_BYTES):  # what came before, and then the connection's end
                receive(data)
        raise RedisConnectionError("Redis has closed the connection")

    def _receiver(self, stream: Any, handler: PubSubHandler) -> Callable[[bytes], None]:
        parser = hiredis.Reader(notEnoughData=_MORE)
        message, on_message = self._transport.message, handler.on_message

        def receive(data: bytes) -> None:
            try:
                parser.feed(data)
                while (reply := parser.gets()) is not _MORE:
                    if isinstance(reply, list) and reply[0] == message:
                        on_message(reply[1], reply[2])
                    else:
                        self._handle_reply(reply, handler)
            except Exception as error:  # what is not Redis's protocol: `listen` raises it
                stream.set_exception(error)

        return receive

    def _handle_reply(self, reply: Any, handler: PubSubHandler) -> None:
        if isinstance(reply, Exception):
            handler.on_error(reply)
            self._acknowledged.set()
        elif reply[0] == self._transport.subscribe.lower():
            handler.on_subscribed(reply[1], self)
            self._unacknowledged.discard(reply[1])
            if not self._unacknowledged:
                self._acknowledged.set()
        elif reply[0] == self._transport.unsubscribe.lower():
            handler.on_unsubscribed(reply[1], self)
