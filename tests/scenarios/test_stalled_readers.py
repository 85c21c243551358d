"""Readers that have stalled, peers that have vanished: nobody waits for them, and nothing of them stays."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from websockets.protocol import Protocol

from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import Stage, StatusMessage
from paidup.realtime.hub import INVOICES
from paidup.web.websocket import endpoint as sockets
from paidup.web.websocket.lightweight_protocol import LightweightTransport
from paidup.web.websocket.session import WebSocketSession
from tests.conftest import World
from tests.support.paidup import Paidup
from tests.support.socket_load import CLOSE, connect, handshake
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

QUICK = 200
ROUNDS = 15
HEARTBEAT_S = 0.3

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_one_stalled_reader_does_not_slow_two_hundred(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S32: all others are told as soon as without it; it is cut at its deadline, and its place is free."""
    monkeypatch.setattr(sockets, "TICK_S", 0.02)
    places = QUICK + 1
    paidup = await world.server(
        webhooks=False,
        resync_interval_s=600,
        socket_send_timeout_s=1.0,
        max_sockets=places,
        max_sockets_per_invoice=places,
        max_sockets_per_address=places,
        max_sockets_per_account=places + 1,
    )
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(api_down=True)
    request = handshake(purchase["invoice"], purchase["ticket"])
    async with _crowd(paidup, request) as crowd:
        await crowd.tell()
        without = [await crowd.tell() for _ in range(ROUNDS)]
        async with _stalled(paidup, request) as session:
            with_it = [await crowd.tell() for _ in range(ROUNDS)]
            blocked_at = session.transport.blocked_at
            assert blocked_at is not None
            assert not session.ended, "all of this before it was cut off"
            assert await _answer(crowd.port, request) == 503
            # A send that waited for the stalled one would take its whole second.
            assert statistics.median(with_it) < 2 * statistics.median(without) + 0.02
            await wait_until(lambda: session.ended)
            assert time.monotonic() - blocked_at < 3
            assert await _answer(crowd.port, request) == 101


async def test_a_peer_that_vanished_is_cut_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """S32: whoever answers no ping is gone after two and a half heartbeats, with no goodbye; others stay."""
    monkeypatch.setattr(sockets, "TICK_S", 0.02)
    paidup = await world.server(webhooks=False, heartbeat_s=HEARTBEAT_S)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    port = int(paidup.url.rpartition(":")[2])
    request = handshake(purchase["invoice"], purchase["ticket"])
    beats: list[bytes] = []
    began = time.monotonic()
    vanished = await connect(port, request, lambda _: None, polite=False)
    polite = await connect(port, request, beats.append)
    assert await asyncio.wait_for(vanished.ended, 10) == 1006
    assert time.monotonic() - began > 2 * HEARTBEAT_S
    await wait_until(lambda: paidup.services.hub.subscriber_count(INVOICES, purchase["invoice"]) == 1)
    assert not polite.ended.done()
    assert beats.count(b'{"type":"heartbeat"}') >= 2
    await polite.drop()


@pytest.mark.parametrize("says_goodbye", [True, False])
async def test_an_ended_socket_leaves_nothing_to_the_collector(
    world: World, says_goodbye: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full collections are rare (docs/decisions.md): what is left to them piles up with each customer."""
    monkeypatch.setattr(sockets, "TICK_S", 0.001)
    paidup = await world.server(webhooks=False, heartbeat_s=0.02)
    purchase = await paidup.customer("ada").buy("pro")
    port = int(paidup.url.rpartition(":")[2])
    gc.collect()
    gc.disable()
    try:
        heard: list[bytes] = []
        request = handshake(purchase["invoice"], purchase["ticket"])
        connection = await connect(port, request, heard.append)
        await wait_until(lambda: b'{"type":"heartbeat"}' in heard)  # the sockets has seen it, too
        assert len(_line_parts()) == 2
        if says_goodbye:
            connection.say(CLOSE, (1001).to_bytes(2, "big"))
            await asyncio.wait_for(connection.ended, 10)
        else:
            await connection.drop()
        await wait_until(lambda: _line_parts() == [])
    finally:
        gc.enable()


def _line_parts() -> list[str]:
    return [
        type(each).__name__
        for each in gc.get_objects()
        if isinstance(each, WebSocketSession | LightweightTransport | Protocol)
    ]


class _Crowd:
    """Many who wait for one invoice; `tell()` counts until all of them have heard."""

    def __init__(self, paidup: Paidup, invoice: str) -> None:
        self.port = int(paidup.url.rpartition(":")[2])
        self._hub = paidup.services.hub
        self._invoice = invoice
        self._version = 1_000
        self._missing = 0
        self._all = asyncio.Event()

    def hear(self, frame: bytes) -> None:
        if b'"version":%d,' % self._version in frame:
            self._missing -= 1
            if self._missing == 0:
                self._all.set()

    async def tell(self) -> float:
        """Publish the next version. Seconds until the last of the quick ones has it."""
        self._version += 1
        self._missing = QUICK
        self._all.clear()
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
        began = time.perf_counter()
        assert await self._hub.publish(status)
        await asyncio.wait_for(self._all.wait(), 10)
        return time.perf_counter() - began


@asynccontextmanager
async def _crowd(paidup: Paidup, request: bytes) -> AsyncIterator[_Crowd]:
    invoice = request.split(b" ", 2)[1].rpartition(b"/")[2].decode()
    crowd = _Crowd(paidup, invoice)
    connections = await asyncio.gather(*(connect(crowd.port, request, crowd.hear) for _ in range(QUICK)))
    await wait_until(lambda: paidup.services.hub.subscriber_count(INVOICES, invoice) == QUICK)
    yield crowd
    for connection in connections:
        await connection.drop()


@asynccontextmanager
async def _stalled(paidup: Paidup, request: bytes) -> AsyncIterator[WebSocketSession]:
    """The session of one more, who reads nothing any more; what is on its way to him fills every buffer."""
    before = set(paidup.sockets._sessions)
    stalled = await connect(int(paidup.url.rpartition(":")[2]), request, lambda _: None)
    stalled.stall()
    (session,) = set(paidup.sockets._sessions) - before
    while session.transport.blocked_at is None:
        session.transport.send(b"x" * 60_000)
    yield session
    await stalled.drop()


async def _answer(port: int, request: bytes) -> int:
    """The HTTP status that answers a handshake."""
    connection = await connect(port, request, lambda _: None)
    await connection.drop()
    return connection.answered.result()
