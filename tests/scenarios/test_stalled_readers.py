"""Clients that stop reading or vanish: they delay nobody, and their memory is released."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from websockets.protocol import Protocol

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import StatusMessage
from paidup.domain.stages import Stage
from paidup.realtime.hub import INVOICES
from paidup.web.websocket.lightweight_protocol import LightweightTransport
from paidup.web.websocket.session import WebSocketSession
from tests.conftest import World
from tests.support.paidup import Paidup
from tests.support.session_clock import HEARTBEAT_S, LIFETIME_S, SessionClock
from tests.support.socket_load import CLOSE, Connection, connect, handshake
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

READERS = 200
ROUNDS = 15
HEARTBEAT = b'{"type":"heartbeat"}'

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_one_stalled_reader_does_not_delay_two_hundred(
    world: World, stripe_side: StripeSide, session_clock: SessionClock
) -> None:
    """S32: the others get every message while it stalls; it is cut off at its deadline and frees its slot."""
    limit = READERS + 1
    paidup = await world.server(
        webhooks=False,
        resync_interval_s=LIFETIME_S,
        heartbeat_s=LIFETIME_S,
        socket_max_lifetime_s=LIFETIME_S,
        socket_send_timeout_s=HEARTBEAT_S,
        max_sockets=limit,
        max_sockets_per_invoice=limit,
        max_sockets_per_address=limit,
        max_sockets_per_account=limit + 1,
    )
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(api_down=True)
    request = handshake(purchase["invoice"], purchase["ticket"])
    async with _readers(paidup, request) as readers, _stalled(paidup, request) as stalled:
        for _ in range(ROUNDS):
            await readers.receive_next_version()
        # A send that waited for the stalled client could not have ended: its deadline has not passed.
        assert stalled.transport.blocked_at is not None
        assert not stalled.ended
        assert await _handshake_status(readers.port, request) == 503
        session_clock.offset_s += HEARTBEAT_S + 1
        await wait_until(lambda: stalled.ended)
        await wait_until(lambda: _count(paidup, purchase["invoice"]) == READERS)
        assert await _handshake_status(readers.port, request) == 101
        await readers.receive_next_version()


async def test_a_heartbeat_is_late_for_a_client_that_stalls_and_not_left_out(
    world: World, session_clock: SessionClock
) -> None:
    """It stays due while a frame waits to be sent; else a proxy would close the connection as idle."""
    paidup = await world.server(
        webhooks=False,
        heartbeat_s=HEARTBEAT_S,
        socket_max_lifetime_s=LIFETIME_S,
        socket_send_timeout_s=LIFETIME_S,
    )
    purchase = await paidup.customer("ada").buy("pro")
    async with _stalled(paidup, handshake(purchase["invoice"], purchase["ticket"])) as stalled:
        session_clock.offset_s += HEARTBEAT_S
        paidup.sockets._enforce_deadlines(stalled, session_clock.monotonic())
        assert stalled.next_heartbeat_at <= session_clock.monotonic()
        assert not stalled.ended


async def test_a_client_that_vanished_is_disconnected(world: World, session_clock: SessionClock) -> None:
    """S32: after two and a half heartbeats without a pong, without a close frame; others stay connected."""
    paidup = await world.server(webhooks=False, heartbeat_s=HEARTBEAT_S, socket_max_lifetime_s=LIFETIME_S)
    purchase = await paidup.customer("ada").buy("pro")
    request = handshake(purchase["invoice"], purchase["ticket"])
    received: list[bytes] = []
    vanished, _ = await _connect(paidup, request, polite=False)
    polite, polite_session = await _connect(paidup, request, received.append)
    for heartbeats in (1, 2):
        session_clock.offset_s += HEARTBEAT_S
        await _answers_heartbeat(polite_session, received, heartbeats, session_clock.monotonic())
        assert not vanished.ended.done()
    session_clock.offset_s += HEARTBEAT_S
    assert await asyncio.wait_for(vanished.ended, 60) == 1006
    await wait_until(lambda: _count(paidup, purchase["invoice"]) == 1)
    assert not polite.ended.done()
    await polite.drop()


async def _answers_heartbeat(
    answering: WebSocketSession, received: list[bytes], heartbeats: int, after: float
) -> None:
    """Wait for so many heartbeats at the client, and its pong after `after` (monotonic) at the server."""
    await wait_until(lambda: received.count(HEARTBEAT) == heartbeats)
    await wait_until(lambda: answering.transport.last_received_at > after)


@pytest.mark.parametrize("sends_close", [True, False])
async def test_an_ended_socket_leaves_nothing_to_the_collector(
    world: World, sends_close: bool, session_clock: SessionClock
) -> None:
    """Full collections are rare (docs/decisions.md): reference cycles would add up with each customer."""
    paidup = await world.server(webhooks=False, heartbeat_s=HEARTBEAT_S, socket_max_lifetime_s=LIFETIME_S)
    purchase = await paidup.customer("ada").buy("pro")
    port = _port(paidup)
    gc.collect()
    gc.disable()
    try:
        received: list[bytes] = []
        request = handshake(purchase["invoice"], purchase["ticket"])
        connection = await connect(port, request, received.append)
        session_clock.offset_s += HEARTBEAT_S
        await wait_until(lambda: HEARTBEAT in received)  # every part of the session has been used
        assert len(_session_objects()) == 2
        if sends_close:
            connection.say(CLOSE, (1001).to_bytes(2, "big"))
            await asyncio.wait_for(connection.ended, 60)
        else:
            await connection.drop()
        await wait_until(lambda: _session_objects() == [])
    finally:
        gc.enable()


def _session_objects() -> list[str]:
    return [
        type(each).__name__
        for each in gc.get_objects()
        if isinstance(each, WebSocketSession | LightweightTransport | Protocol)
    ]


def _port(paidup: Paidup) -> int:
    return int(paidup.url.rpartition(":")[2])


def _count(paidup: Paidup, invoice: str) -> int:
    return paidup.services.hub.subscriber_count(INVOICES, invoice)


class _Readers:
    """Many sockets on one invoice, all of which read."""

    def __init__(self, paidup: Paidup, invoice: str) -> None:
        self.port = _port(paidup)
        self._hub = paidup.services.hub
        self._invoice = invoice
        self._version = 1_000
        self._missing = 0
        self._all_received = asyncio.Event()

    def on_frame(self, frame: bytes) -> None:
        if b'"version":%d,' % self._version in frame:
            self._missing -= 1
            if self._missing == 0:
                self._all_received.set()

    async def receive_next_version(self) -> None:
        """Publish the next version, and wait until every reader has received it."""
        self._version += 1
        self._missing = READERS
        self._all_received.clear()
        status = StatusMessage(
            invoice=self._invoice,
            version=self._version,
            status=InvoiceStatus.PROCESSING,
            stage=Stage.PROCESSING,
            plan="pro",
            credits_granted=0,
            balance=0,
            via=None,
            at=datetime.now(UTC),
        )
        assert await self._hub.publish(status)
        await asyncio.wait_for(self._all_received.wait(), 60)


@asynccontextmanager
async def _readers(paidup: Paidup, request: bytes) -> AsyncIterator[_Readers]:
    invoice = request.split(b" ", 2)[1].rpartition(b"/")[2].decode()
    readers = _Readers(paidup, invoice)
    connections = await asyncio.gather(
        *(connect(readers.port, request, readers.on_frame) for _ in range(READERS))
    )
    await wait_until(lambda: _count(paidup, invoice) == READERS)
    yield readers
    for connection in connections:
        await connection.drop()


@asynccontextmanager
async def _stalled(paidup: Paidup, request: bytes) -> AsyncIterator[WebSocketSession]:
    """The session of a client that has stopped reading; what was sent to it fills every buffer."""
    connection, stalled = await _connect(paidup, request)
    connection.stall()
    while stalled.transport.blocked_at is None:
        stalled.transport.send(b"x" * 60_000)
    yield stalled
    await connection.drop()


async def _connect(
    paidup: Paidup,
    request: bytes,
    on_frame: Callable[[bytes], None] = lambda _: None,
    polite: bool = True,
) -> tuple[Connection, WebSocketSession]:
    """A connection, and the server's session of it."""
    before = set(paidup.sockets._sessions)
    connection = await connect(_port(paidup), request, on_frame, polite=polite)
    (opened,) = set(paidup.sockets._sessions) - before
    return connection, opened


async def _handshake_status(port: int, request: bytes) -> int:
    connection = await connect(port, request, lambda _: None)
    await connection.drop()
    return connection.answered.result()
