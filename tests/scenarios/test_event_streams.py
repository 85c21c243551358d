"""Server-sent events and long polls: the sessions of the WebSockets, for networks that have none."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

import pytest

from paidup import uvicorn_server
from paidup.db.models import TimelineEntry
from paidup.domain.messages import BalanceMessage, encode
from paidup.operations.audit_log import Instruction
from paidup.operations.corrections import Corrections
from paidup.realtime import hub
from paidup.runtime.clock import now
from paidup.web import event_streams
from tests.conftest import World
from tests.support.event_streams import streaming
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import ORIGIN, Paidup
from tests.support.session_clock import HEARTBEAT_S, LIFETIME_S, SessionClock
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def test_a_stream_tells_active_and_ends(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S60: the frames of a WebSocket, each with its version as the id; the terminal one ends the stream."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with streaming(ada, f"invoices/{purchase['invoice']}/events", purchase["ticket"]) as stream:
        headers = stream.response.headers
        assert stream.response.status == 200
        assert headers["Cache-Control"] == "no-store, no-transform"
        assert headers["X-Accel-Buffering"] == "no"
        assert headers["Access-Control-Allow-Origin"] == ORIGIN
        await stream.until(stage="awaiting_payment")
        assert _open(paidup, "invoice", "sse") == 1
        await stripe_side.confirm(purchase["client_secret"])
        frames = await stream.rest()
    assert frames[-1]["status"] == "active"
    told = [event for event in stream.received if event.frame]
    assert [event.id for event in told] == [str(event.frame["version"]) for event in told]
    first = stream.received[0]
    assert first.comment == "paidup.v1"
    assert first.retry_ms is not None
    assert 1_000 <= first.retry_ms <= 5_000
    assert paidup.services.hub.subscriber_count(hub.INVOICES, purchase["invoice"]) == 0
    assert _open(paidup, "invoice", "sse") == 0
    await assert_books_balance(grants=1)

    async def delivered() -> bool:
        rows = await TimelineEntry.filter(invoice=purchase["invoice"], event_type="delivered")
        return [row.detail["transport"] for row in rows] == ["sse"]

    await wait_until(delivered)


@on_sqlite
async def test_who_was_told_the_end_is_told_to_stay_away(paidup: Paidup, stripe_side: StripeSide) -> None:
    """S60: an EventSource reconnects after each end; 204 stops it. One that missed the end is told it."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    path = f"invoices/{purchase['invoice']}/events?ticket={purchase['ticket']}"
    async with streaming(ada, path, "") as stream:
        last = await stream.until(status="active")
    async with streaming(ada, path, "", **{"Last-Event-ID": str(last["version"])}) as stream:
        assert stream.response.status == 204
    for known in ({"Last-Event-ID": str(last["version"] - 1)}, {"Last-Event-ID": "by hand"}):
        async with streaming(ada, path, "", **known) as stream:
            assert [frame["version"] for frame in await stream.rest()] == [last["version"]]


@on_sqlite
async def test_nothing_older_than_what_is_known_is_told(paidup: Paidup) -> None:
    """S05: a row that is behind what the client has seen is not told; the next version is."""
    ada = paidup.customer("ada")
    ticket = await ada.account_ticket()
    await ada.buy("pro")
    async with streaming(ada, "account/events?version=1", ticket) as stream:
        told = asyncio.create_task(stream.until(type="balance"))
        await wait_until(lambda: paidup.services.hub.subscribed_keys(hub.ACCOUNTS))
        account = paidup.services.hub.subscribed_keys(hub.ACCOUNTS)[0]
        (session,) = paidup.services.hub._channels[hub.ACCOUNTS.channel(account)].subscribers
        for version in (0, 1):
            message = BalanceMessage(version, version * 10, now())
            session.offer(message, encode(message))
        assert (await told)["balance"] == 10


@on_sqlite
@pytest.mark.parametrize(
    ("ticket", "origin", "status"),
    [
        ("", ORIGIN, 401),
        ("forged", ORIGIN, 401),
        ("account's", ORIGIN, 401),
        ("other's", ORIGIN, 403),
        ("own", "http://elsewhere.test", 403),
    ],
)
async def test_a_stream_has_the_checks_of_a_handshake(
    paidup: Paidup, ticket: str, origin: str, status: int
) -> None:
    """S28: origin and ticket are checked before the first byte, and a refusal is counted."""
    ada, eve = paidup.customer("ada"), paidup.customer("eve")
    purchase, others = await ada.buy("pro"), await eve.buy("pro")
    tickets = {
        "own": purchase["ticket"], "other's": others["ticket"], "account's": await ada.account_ticket()
    }  # fmt: skip
    path = f"invoices/{purchase['invoice']}/events"
    async with streaming(ada, path, tickets.get(ticket, ticket), origin) as stream:
        assert stream.response.status == status
        assert stream.response.content_type == "application/problem+json"
    refused = paidup.services.metrics.sockets_refused.labels(status, "sse")
    assert refused._value.get() == 1
    assert paidup.services.hub.subscribed_keys(hub.INVOICES) == []


@on_sqlite
async def test_streams_sockets_and_polls_share_their_limits(world: World) -> None:
    """S32: 429 beyond an account's connections of all kinds; after one has left, the next is let in."""
    paidup = await world.server(webhooks=False, max_sockets_per_account=2)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    path = f"invoices/{purchase['invoice']}/events"
    version = purchase["status"]["version"]
    waits = f"/api/invoices/{purchase['invoice']}?wait=20&version={version}"
    async with AsyncExitStack() as stack:
        socket = await stack.enter_async_context(ada.watch(purchase))
        await stack.enter_async_context(streaming(ada, path, purchase["ticket"]))
        async with streaming(ada, path, purchase["ticket"]) as stream:
            assert stream.response.status == 429
            assert int(stream.response.headers["Retry-After"]) >= 2
        assert (await ada.call("GET", waits))[0] == 429
        await socket.close()
        await wait_until(lambda: _open(paidup, "invoice", "websocket") == 0)
        polling = asyncio.create_task(ada.call("GET", waits))
        await wait_until(lambda: _open(paidup, "invoice", "long_poll") == 1)
        polling.cancel()  # closes the connection
        await wait_until(lambda: _open(paidup, "invoice", "long_poll") == 0)
        async with streaming(ada, path, purchase["ticket"]) as stream:
            assert stream.response.status == 200


@on_sqlite
async def test_a_stream_gets_heartbeats_and_a_last_word(world: World, session_clock: SessionClock) -> None:
    """S29: comments at each interval; after its lifetime a `bye` with the delay, in a field too."""
    paidup = await world.server(webhooks=False, heartbeat_s=HEARTBEAT_S, socket_max_lifetime_s=LIFETIME_S)
    ada = paidup.customer("ada")
    ticket = await ada.account_ticket()
    async with streaming(ada, "account/events?padding=1", ticket) as stream:
        await stream.until(type="balance")
        session_clock.offset_s += HEARTBEAT_S
        async with asyncio.timeout(60):
            async for event in stream.events():
                if event.comment == "heartbeat":
                    break
        assert " " * 4095 in {event.comment for event in stream.received}, "what fills a proxy's buffer"
        session_clock.offset_s += LIFETIME_S
        (bye,) = await stream.rest()
        assert bye["reason"] == "waited too long"
        assert [event.retry_ms for event in stream.received if event.frame == bye] == [
            bye["reconnect_after_ms"]
        ]


@on_sqlite
async def test_a_drain_ends_streams_and_answers_polls(world: World) -> None:
    """S30: a server that stops says when to come back, and answers who waits with what it knows."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    waits = f"/api/invoices/{purchase['invoice']}?wait=20&version={purchase['status']['version']}"
    path = f"invoices/{purchase['invoice']}/events"
    async with streaming(ada, path, purchase["ticket"]) as stream:
        await stream.until(type="status")
        polling = asyncio.create_task(ada.call("GET", waits))
        await wait_until(lambda: _open(paidup, "invoice", "long_poll") == 1)
        await paidup.sockets.drain()
        assert (await stream.rest())[-1]["reason"] == "restarting"
        assert (await polling)[1]["version"] == purchase["status"]["version"]
        assert (await ada.call("GET", waits))[1]["type"].endswith("restarting")
    async with streaming(ada, path, purchase["ticket"]) as stream:
        assert stream.response.status == 503


@on_sqlite
async def test_a_reader_that_stalls_loses_its_session(
    world: World, session_clock: SessionClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S31: what is unread is bounded; then the session ends, and the response with it once it is read."""
    paidup = await world.server(webhooks=False, heartbeat_s=HEARTBEAT_S, socket_max_lifetime_s=LIFETIME_S)
    ada = paidup.customer("ada")
    ticket = await ada.account_ticket()
    monkeypatch.setattr(event_streams, "PADDING", b":" + b" " * 8_000_000 + b"\n\n")
    async with streaming(ada, "account/events?padding=1", ticket) as stream:
        await wait_until(lambda: _blocked(paidup))
        session_clock.offset_s += 10
        await wait_until(lambda: _open(paidup, "account", "sse") == 0)
        await stream.response.content.iter_any().__anext__()
        async for _ in stream.response.content.iter_any():
            pass  # ends


@on_sqlite
async def test_a_long_poll_is_answered_when_the_version_moves_on(
    world: World, stripe_side: StripeSide
) -> None:
    """S60: at once without a version, or behind; else with the next version; and when the wait is over."""
    paidup = await world.server()
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    path = f"/api/invoices/{purchase['invoice']}"
    version = (await ada.call("GET", f"{path}?wait=25"))[1]["version"]
    assert (await ada.call("GET", f"{path}?wait=25&version={version - 1}"))[1]["version"] == version
    assert (await ada.call("GET", f"{path}?wait=1&version={version}"))[1]["version"] == version
    polling = asyncio.create_task(ada.call("GET", f"{path}?wait=25&version={version}"))
    await wait_until(lambda: _open(paidup, "invoice", "long_poll") == 1)
    await stripe_side.confirm(purchase["client_secret"])
    status, told = await polling
    assert status == 200
    assert told["version"] > version
    for bad in ("wait=31", "wait=-1", "wait=1.5", "version=x"):
        assert (await ada.call("GET", f"{path}?{bad}"))[0] == 422, bad


@on_sqlite
async def test_a_balance_is_polled_as_a_status_is(world: World) -> None:
    """S60: the message of the account's WebSocket, once its version has moved on."""
    paidup = await world.server()
    ada, path = paidup.customer("ada"), "/api/account/balance"
    _, first = await ada.call("GET", f"{path}?wait=25")
    version = first["version"]
    assert (first["type"], first["balance"], first["held"]) == ("balance", 0, 0)
    assert (await ada.call("GET", f"{path}?wait=1&version={version}"))[1]["version"] == version
    polling = asyncio.create_task(ada.call("GET", f"{path}?wait=25&version={version}"))
    await wait_until(lambda: _open(paidup, "account", "long_poll") == 1)
    await Corrections(paidup.services.catalogue, paidup.services.settlement.publish_balance).adjust(
        "ada", 30, Instruction("grace", "counted twice", "T-1")
    )
    status, told = await polling
    assert (status, told["balance"], told["version"] > version) == (200, 30, True)
    assert (await ada.call("GET", f"{path}?wait=25&version={version}"))[1]["version"] == told["version"]
    assert _open(paidup, "account", "long_poll") == 0
    assert (await ada.call("GET", f"{path}?wait=31"))[0] == 422


@on_sqlite
async def test_a_ticket_in_the_address_is_in_no_log(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S28: servers log the query, also of what was refused; uvicorn does, unless `paidup serve` runs it."""
    monkeypatch.setitem(uvicorn_server.UVICORN, "access_log", True)
    caplog.set_level(logging.DEBUG)
    # Whatever another test's server has set.
    access = logging.getLogger("uvicorn.access")
    caplog.set_level(logging.INFO, access.name)
    for name, value in {"handlers": [caplog.handler], "propagate": False, "disabled": False}.items():
        monkeypatch.setattr(access, name, value)
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    ticket = await ada.account_ticket()
    for query, status in (
        (f"version=0&ticket={ticket}&padding=1", 200),
        (f"version=0&ticket={ticket}x&padding=1", 401),
        (f"version=x&ticket={ticket}", 422),
    ):
        async with streaming(ada, f"account/events?{query}", "") as stream:
            assert stream.response.status == status
    assert caplog.text.count("?version=0&ticket=redacted&padding=1 ") == 2
    assert "?version=x&ticket=redacted " in caplog.text
    assert ticket not in caplog.text


def _open(paidup: Paidup, kind: str, transport: str) -> float:
    return float(paidup.services.metrics.sockets.labels(kind, transport)._value.get())


def _blocked(paidup: Paidup) -> bool:
    return any(session.transport.blocked_at is not None for session in paidup.sockets._sessions)
