"""The listeners: connections on which a process listens to Redis, one to each node that carries channels.

Owns what differs between one Redis (SUBSCRIBE) and a cluster (SSUBSCRIBE, slots that move), and the
reading of messages. A listener never reconnects: it ends with an error, and whoever holds it opens
another, so that no interruption goes unnoticed. Refuses to know what a channel is about.

redis-py makes the connection (addresses, TLS, passwords), and its PubSub is not used:
- It reconnects within any call and says nothing; what was published meanwhile is gone. It restores
  all channels in one command at once, in every process at the same moment.
- It costs some ten times what the parser costs for each message.
- `ClusterPubSub.get_sharded_message` waits for one node after the other: with three, and a timeout of
  0.5 s, a message took 1.0 s because two were quiet; and a dead node raises for all. After a takeover
  it was deaf for good: the channels stay with the dead node until some *other* command of the same
  client meets an error and refreshes the table of slots.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from contextlib import suppress
from typing import Any, Protocol

import hiredis
from redis.asyncio import ConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import SlotNotCoveredError

from paidup.batching import BatchExecutor
from paidup.redis_client import REDIS_ERRORS, RedisClient

ACK_TIMEOUT_S = 2.0
READ_AT_MOST = 1 << 20
"""More than asyncio buffers: each read empties the buffer, and the next one lets others run."""
PROBES_TRIED = 200_000
PUBLISHES_AT_ONCE = 40

_MORE = object()


class PubSubTransport(Protocol):
    """One Redis, or a cluster of them. A node is known by its name."""

    subscribe: bytes
    unsubscribe: bytes
    message: bytes
    """The kind of push that carries a message."""

    def nodes(self) -> Collection[str]:
        """The nodes that carry channels, as far as is known."""

    def node_of(self, channel: bytes) -> str | None:
        """The node that carries `channel`; None while none does."""

    def connection_to(self, node: str) -> AbstractConnection:
        """A connection of our own, not open yet. Raises RedisError where the node is gone."""

    def commands(self, verb: bytes, channels: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        """What says `verb` of all these channels of one node."""

    def publish(self, channel: bytes, data: bytes) -> Awaitable[Any]: ...

    def probe_on(self, node: str, token: str) -> bytes:
        """A channel that this node carries, and that nobody else uses."""

    async def refresh(self) -> None:
        """Learn which node carries what. Raises one of REDIS_ERRORS."""

    async def close(self) -> None:
        """Publish nothing more, before the client is closed: it would connect once more."""


class StandaloneTransport:
    """One Redis: a single node, and one command for many channels."""

    subscribe, unsubscribe, message = b"SUBSCRIBE", b"UNSUBSCRIBE", b"message"

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._published = BatchExecutor(self._publish)  # what is published at one moment goes in one pipeline

    def nodes(self) -> Collection[str]:
        return ("redis",)

    def node_of(self, channel: bytes) -> str | None:
        return "redis"

    def connection_to(self, node: str) -> AbstractConnection:
        pool: ConnectionPool = self._redis.connection_pool
        return pool.make_connection()  # type: ignore[no-any-return, no-untyped-call]

    def commands(self, verb: bytes, channels: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        return [(verb, *channels)]

    def publish(self, channel: bytes, data: bytes) -> Awaitable[Any]:
        return self._published((channel, data))

    async def _publish(self, messages: Sequence[tuple[bytes, bytes]]) -> Sequence[Any]:
        if len(messages) == 1:
            return [await self._redis.publish(*messages[0])]
        pipeline = self._redis.pipeline(transaction=False)
        for channel, data in messages:
            pipeline.publish(channel, data)
        return await pipeline.execute()

    def probe_on(self, node: str, token: str) -> bytes:
        return f"paidup:probe:{token}".encode()

    async def refresh(self) -> None:
        """There is nothing to learn."""

    async def close(self) -> None:
        await self._published.close()


class ClusterTransport:
    """A cluster: each channel lives on the node that holds its slot, and slots move."""

    subscribe, unsubscribe, message = b"SSUBSCRIBE", b"SUNSUBSCRIBE", b"smessage"

    def __init__(self, redis: RedisCluster) -> None:
        self._redis = redis
        # Where one more would be refused: a cluster's client has no pool that lets callers wait.
        self._turns = asyncio.Semaphore(PUBLISHES_AT_ONCE)

    def nodes(self) -> Collection[str]:
        slots = self._redis.nodes_manager.slots_cache.values()
        return {holders[0].name for holders in {id(holders): holders for holders in slots}.values()}

    def node_of(self, channel: bytes) -> str | None:
        try:
            node = self._redis.get_node_from_key(channel)  # type: ignore[arg-type]
        except SlotNotCoveredError:
            return None
        return node.name if node else None

    def connection_to(self, node: str) -> AbstractConnection:
        found = self._redis.get_node(node_name=node)
        if found is None:
            raise RedisConnectionError(f"{node} has left the cluster")
        # Not one of the client's own: it closes those of all nodes whenever its table of slots is stale.
        return found.connection_class(**found.connection_kwargs)

    def commands(self, verb: bytes, channels: Sequence[bytes]) -> list[tuple[bytes, ...]]:
        return [(verb, channel) for channel in channels]  # of two slots in one command: CROSSSLOT

    async def publish(self, channel: bytes, data: bytes) -> Any:
        async with self._turns:
            return await self._redis.spublish(channel, data)

    def probe_on(self, node: str, token: str) -> bytes:
        for number in range(PROBES_TRIED):
            channel = f"paidup:probe:{token}:{number}".encode()
            if self.node_of(channel) == node:
                return channel
        raise RedisConnectionError(f"{node} carries no slot")

    async def refresh(self) -> None:
        # The first asks only once and after a command has failed, and a listener sends none; without it,
        # the second leaves a client that has nodes and knows no commands (AttributeError).
        await self._redis.initialize()
        await self._redis.nodes_manager.initialize()

    async def close(self) -> None:
        """Whoever publishes does so by himself."""


def transport_of(redis: RedisClient) -> PubSubTransport:
    return ClusterTransport(redis) if isinstance(redis, RedisCluster) else StandaloneTransport(redis)


class PubSubHandler(Protocol):
    """Whoever is told what a listener hears. No call may raise or block."""

    def heard(self, channel: bytes, data: bytes, /) -> None:
        """A message."""

    def confirmed(self, channel: bytes, listener: PubSubConnection, /) -> None:
        """From now on, what is published on the channel is heard."""

    def on_unsubscribed(self, channel: bytes, listener: PubSubConnection, /) -> None:
        """It is no longer heard: we asked for that, or its slot has moved to another node."""

    def refused(self, error: Exception, /) -> None:
        """Redis refused a command of ours; it does not say which."""


class PubSubConnection:
    """One connection, subscribed to channels of one node. Ends with an error, and stays ended."""

    def __init__(self, connection: AbstractConnection, transport: PubSubTransport) -> None:
        self._connection = connection
        self._transport = transport
        self._asking = asyncio.Lock()
        self._awaited: set[bytes] = set()
        self._answered = asyncio.Event()
        self.alive = False
        """Whether what it has confirmed is still heard."""

    async def open(self) -> None:
        """Raises one of REDIS_ERRORS."""
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await self._connection.connect()  # type: ignore[no-untyped-call]
        self.alive = True

    async def close(self) -> None:
        self.alive = False
        self._answered.set()
        with suppress(*REDIS_ERRORS):
            await self._connection.disconnect(nowait=True)

    async def subscribe(self, channels: Sequence[bytes]) -> None:
        """Until Redis has confirmed or refused them. Raises TimeoutError, or one of REDIS_ERRORS."""
        async with self._asking, asyncio.timeout(ACK_TIMEOUT_S):
            self._awaited = set(channels)
            self._answered.clear()
            await self._send(self._transport.commands(self._transport.subscribe, channels))
            await self._answered.wait()

    async def unsubscribe(self, channels: Sequence[bytes]) -> None:
        async with self._asking, asyncio.timeout(ACK_TIMEOUT_S):
            await self._send(self._transport.commands(self._transport.unsubscribe, channels))

    async def _send(self, commands: list[tuple[bytes, ...]]) -> None:
        if not self._connection.is_connected:  # or sending would connect it, without its channels
            raise RedisConnectionError("the listener has ended")
        packed = self._connection.pack_commands(commands)
        await self._connection.send_packed_command(packed, check_health=False)

    async def listen(self, ears: PubSubHandler) -> None:
        """Tell `ears` what comes. Raises one of REDIS_ERRORS when the connection has ended."""
        # Read past redis-py: several hundred messages for each await, instead of several awaits for each.
        stream = self._connection._reader
        parser = hiredis.Reader(notEnoughData=_MORE)
        message, heard = self._transport.message, ears.heard
        while stream is not None and (data := await stream.read(READ_AT_MOST)):
            parser.feed(data)
            while (reply := parser.gets()) is not _MORE:
                if isinstance(reply, list) and reply[0] == message:
                    heard(reply[1], reply[2])
                else:
                    self._notice(reply, ears)
        raise RedisConnectionError("Redis has closed the connection")

    def _notice(self, reply: Any, ears: PubSubHandler) -> None:
        if isinstance(reply, Exception):
            ears.refused(reply)
            self._answered.set()
        elif reply[0] == self._transport.subscribe.lower():
            ears.confirmed(reply[1], self)
            self._awaited.discard(reply[1])
            if not self._awaited:
                self._answered.set()
        elif reply[0] == self._transport.unsubscribe.lower():
            ears.on_unsubscribed(reply[1], self)
