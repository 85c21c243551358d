"""The balance socket: it sends an account's balance, and each change of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from socket import SO_RCVBUF, SOL_SOCKET, socket
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from itsdangerous import TimestampSigner

from paidup.credits import ledger
from paidup.db.connection import write_transaction
from paidup.db.models import Account
from paidup.db.outbound_models import OutboundEvent
from paidup.domain.messages import BalanceMessage, encode
from paidup.realtime import hub
from paidup.realtime import subscriber as redis_subscriber
from paidup.realtime.current_rows import read_current
from paidup.realtime.resync import resync
from paidup.realtime.status_queries import balance_of
from paidup.runtime.clock import now
from paidup.web.websocket import snapshots
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import ORIGIN, Customer, Paidup, next_balance, status_with
from tests.support.session_clock import HEARTBEAT_S, LIFETIME_S, SessionClock
from tests.support.stripe_sandbox import StripeSide
from tests.support.valkeys import frozen, running_valkey
from tests.support.waiting import wait_until

READ_INVOICE = "GET /v1/invoices/{id}"


async def test_an_account_ticket_has_an_expiry_and_needs_a_customer(paidup: Paidup) -> None:
    """S28: without authentication there is none; a new customer gets an empty account."""
    ada = paidup.customer("ada")
    status, answer = await ada.call("POST", "/api/account/ticket")
    assert (status, set(answer)) == (200, {"ticket", "expires_at"})
    status, refused = await ada.call("POST", "/api/account/ticket", exp=1)
    assert (status, refused["type"].rpartition("/")[2]) == (401, "not-authenticated")
    async with ada.watch_balance(answer["ticket"]) as line:
        first = await next_balance(line)
    assert (first["version"], first["balance"]) == (0, 0)


async def test_the_current_balance_is_sent_first(paidup: Paidup, stripe_side: StripeSide) -> None:
    """The snapshot is one frame with the row's version, exactly as the protocol says."""
    ada = await _rich(paidup, stripe_side)
    account = await _account(ada)
    async with ada.watch_balance() as line:
        frame = await next_balance(line)
        assert set(frame) == {"type", "version", "balance", "at", "held"}
        assert (frame["version"], frame["balance"]) == (account.version, 2000)


async def test_a_purchase_and_spends_are_sent_once_and_in_order(
    world: World, stripe_side: StripeSide
) -> None:
    """A settled purchase, then spends, published here, through Redis, again and late: each version once."""
    paidup = await world.server(resync_interval_s=600)
    services, ada = paidup.services, paidup.customer("ada")
    async with ada.watch_balance() as line:
        told = [await next_balance(line)]
        purchase = await ada.buy("pro")
        await stripe_side.confirm(purchase["client_secret"])
        told += [await next_balance(line), await next_balance(line)]
        early = balance_of(await _account(ada))
        for number in range(5):
            assert (await ada.spend(10, f"report-{number}"))[0] == 200
            told.append(await next_balance(line))
            await services.hub.publish_balance((await _account(ada)).id, early)
            await resync(services.hub)
        await ada.spend(10, "report-4")  # a repeated request: no entry, and nothing to send
        await ada.spend(1, "last")
        last = await next_balance(line)
    first, _, *others = [frame["balance"] for frame in (*told, last)]  # granted and begun, in any order
    assert [first, *others] == [0, 2000, 1990, 1980, 1970, 1960, 1950, 1949]
    assert [frame["version"] for frame in (*told, last)] == list(range(9))
    await assert_books_balance(grants=1)


async def test_all_sockets_of_an_account_get_its_balance_and_no_other(
    paidup: Paidup, stripe_side: StripeSide
) -> None:
    """S08: two tabs of one customer; another customer's tab gets its own balance only."""
    ada, eve = await _rich(paidup, stripe_side), paidup.customer("eve")
    async with ada.watch_balance() as one, ada.watch_balance() as two, eve.watch_balance() as other:
        for line in (one, two, other):
            await next_balance(line)
        await ada.spend(30, "both")
        assert [(await next_balance(line))["balance"] for line in (one, two)] == [1970, 1970]
        theirs = await _account(eve)
        await paidup.services.hub.publish_balance(theirs.id, BalanceMessage(1, 5, now()))
        assert (await next_balance(other))["balance"] == 5, "the first it has heard since it opened"
    await wait_until(lambda: paidup.services.hub.subscribed_keys(hub.ACCOUNTS) == [])


async def test_watching_a_balance_does_not_call_stripe(paidup: Paidup, stripe_side: StripeSide) -> None:
    """Only invoices are verified: frames on an account's socket cause no calls."""
    ada = await _rich(paidup, stripe_side)
    await stripe_side.control("calls/reset")
    async with ada.watch_balance() as line:
        await next_balance(line)
        for text in ('{"type":"verify"}', "", "[]", "{" * 4000):
            await line.send_str(text)
        await line.send_bytes(b'{"type":"verify"}\xff')
        await ada.spend(1, "one")
        assert (await next_balance(line))["balance"] == 1999
    assert await stripe_side.calls(READ_INVOICE) == 0


async def test_a_change_between_reading_and_sending_is_not_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S05: Redis acknowledges before the row is read, so that later changes arrive as messages."""
    paidup = await world.server(webhooks=False, resync_interval_s=600)
    ada = paidup.customer("ada")
    services = paidup.services
    subscribers: list[int] = []

    async def read_then_change(topic: Any, account_ids: Any) -> Any:
        (account_id,) = account_ids
        counted: Any = await services.redis.pubsub_numsub(hub.ACCOUNTS.channel(account_id))
        subscribers.append(int(counted[0][1]))
        read = await read_current(topic, account_ids)
        # Only through Redis, as from another process.
        await services.redis.publish(hub.ACCOUNTS.channel(account_id), encode(BalanceMessage(1, 77, now())))
        return read

    monkeypatch.setattr(snapshots, "read_current", read_then_change)
    async with ada.watch_balance() as line:
        told = await next_balance(line)
        while told["version"] == 0:
            told = await next_balance(line)
    assert (told["balance"], subscribers) == (77, [1])


async def test_an_idle_balance_socket_gets_heartbeats_and_a_bye(
    world: World, session_clock: SessionClock
) -> None:
    """S06: heartbeats while idle; then a bye and 4408, and a new ticket opens the next socket."""
    lifetime_s = 2 * HEARTBEAT_S
    paidup = await world.server(webhooks=False, heartbeat_s=HEARTBEAT_S, socket_max_lifetime_s=lifetime_s)
    ada = paidup.customer("ada")
    async with ada.watch_balance() as line:
        await next_balance(line)
        session_clock.offset_s += HEARTBEAT_S
        async with asyncio.timeout(60):
            assert await line.receive_json() == {"type": "heartbeat"}
            session_clock.offset_s += HEARTBEAT_S + 1
            frames = [json.loads(message.data) async for message in line]
        assert line.close_code == 4408
    assert [frame["type"] for frame in frames] == ["bye"]
    assert 2_500 <= frames[-1]["reconnect_after_ms"] <= 7_500
    async with ada.watch_balance() as line:
        assert (await next_balance(line))["version"] == 0


async def test_a_stalled_balance_reader_does_not_block_others(
    world: World, stripe_side: StripeSide, session_clock: SessionClock
) -> None:
    """S32: one tab stops reading and is cut off; the other gets every change meanwhile."""
    paidup = await world.server(
        resync_interval_s=LIFETIME_S,
        heartbeat_s=LIFETIME_S,
        socket_max_lifetime_s=LIFETIME_S,
        socket_send_timeout_s=HEARTBEAT_S,
    )
    services, ada = paidup.services, await _rich(paidup, stripe_side)
    account = await _account(ada)
    async with _deaf_tab(paidup, await ada.account_ticket()), ada.watch_balance() as quick:
        await next_balance(quick)
        await wait_until(lambda: services.hub.subscriber_count(hub.ACCOUNTS, account.id) == 2)
        version = account.version
        # The buffers to the stalled client must be full before a send can block.
        while all(session.transport.blocked_at is None for session in paidup.sockets._sessions):
            version += 1
            services.hub.publish_local(hub.ACCOUNTS, account.id, BalanceMessage(version, 5, now()))
            assert (await next_balance(quick))["version"] == version
        session_clock.offset_s += HEARTBEAT_S + 1
        await wait_until(lambda: services.hub.subscriber_count(hub.ACCOUNTS, account.id) == 1)
        services.hub.publish_local(hub.ACCOUNTS, account.id, BalanceMessage(version + 1, 5, now()))
        assert (await next_balance(quick))["version"] == version + 1
    await wait_until(lambda: services.hub.subscribed_keys(hub.ACCOUNTS) == [])


async def test_limits_are_shared_with_invoice_sockets(world: World) -> None:
    """S32: with a limit of two, one on an invoice and one on the account, the third gets 503."""
    paidup = await world.server(webhooks=False, max_sockets=2)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ada.watch(purchase))
        await stack.enter_async_context(ada.watch_balance())
        counted = await _metrics(world.http, paidup)
        assert {_open_sockets("invoice"), _open_sockets("account")} <= counted
        for third in (ada.watch(purchase), ada.watch_balance()):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await stack.enter_async_context(third)
            assert refused.value.status == 503
    assert 'paidup_sockets_refused_total{status="503",transport="websocket"} 2.0' in await _metrics(
        world.http, paidup
    )


async def test_one_account_has_as_many_sockets_as_one_invoice(world: World) -> None:
    """S32: beyond MAX_SOCKETS_PER_INVOICE on one account, 503; other accounts are not affected."""
    paidup = await world.server(webhooks=False, max_sockets_per_invoice=1)
    ada, eve = paidup.customer("ada"), paidup.customer("eve")
    async with ada.watch_balance() as first:
        await next_balance(first)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await ada.watch_balance().__aenter__()
        assert refused.value.status == 503
        async with eve.watch_balance() as line:
            await next_balance(line)


async def test_sockets_without_a_good_ticket_are_refused(
    world: World, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    """S28: a ticket of another kind, expired, altered or missing, or another origin."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase, ticket = await ada.buy("pro"), await ada.account_ticket()
    account, tickets = await _account(ada), paidup.services.tickets
    with monkeypatch.context() as patch:
        patch.setattr(TimestampSigner, "get_timestamp", lambda _: int(time.time()) - 3700)
        expired = tickets.issue_for_account(account.id)
    altered = ticket[:-2] + ("A" if ticket[-2] != "A" else "B") + ticket[-1]
    on_invoice = f"/ws/invoices/{purchase['invoice']}"
    handshakes: dict[str, tuple[int, str, tuple[str, ...], str | None]] = {
        "an invoice's ticket": (401, "/ws/account", ("paidup.v1", purchase["ticket"]), ORIGIN),
        "the account's ticket on an invoice": (401, on_invoice, ("paidup.v1", ticket), ORIGIN),
        "as if the invoice were the account": (
            *(401, "/ws/account", ("paidup.v1", tickets.issue(str(account.id), account.id)), ORIGIN),
        ),
        "expired": (401, "/ws/account", ("paidup.v1", expired), ORIGIN),
        "altered": (401, "/ws/account", ("paidup.v1", altered), ORIGIN),
        "no ticket": (401, "/ws/account", ("paidup.v1",), ORIGIN),
        "one too many": (401, "/ws/account", ("paidup.v1", ticket, ticket), ORIGIN),
        "the page of another origin": (403, "/ws/account", ("paidup.v1", ticket), "https://evil.example"),
        "the origin null": (403, "/ws/account", ("paidup.v1", ticket), "null"),
    }
    for name, (expected, path, protocols, origin) in handshakes.items():
        with subtests.test(name):
            assert await _handshake(world.http, paidup.url + path, protocols, origin) == expected
    waiting = paidup.services.hub.subscribed_keys
    assert (waiting(hub.ACCOUNTS), waiting(hub.INVOICES)) == ([], [])
    assert await _handshake(world.http, paidup.url + "/ws/account", ("paidup.v1", ticket), ORIGIN) == 101
    assert await _handshake(world.http, paidup.url + "/ws/account", (ticket, "paidup.v1"), None) == 101


async def test_an_unpublished_balance_is_delivered_by_the_resync(
    world: World, stripe_side: StripeSide
) -> None:
    """S14: a process killed between commit and publish delays the balance by seconds."""
    paidup = await world.server(resync_interval_s=0.1)
    ada = await _rich(paidup, stripe_side)
    async with ada.watch_balance() as line:
        first = await next_balance(line)
        await _spend_unpublished(ada, 25, "silent")
        told = await next_balance(line)
    assert (told["version"], told["balance"]) == (first["version"] + 1, 1975)


async def test_with_redis_connections_killed_the_balance_is_delivered(
    world: World, stripe_side: StripeSide
) -> None:
    """S29: the message is lost with the connection; reconnecting causes the row to be read again."""
    with running_valkey(world.folder) as redis:
        paidup = await world.server(redis_url=redis.connection_url, resync_interval_s=600)
        services, ada = paidup.services, await _rich(paidup, stripe_side)
        async with ada.watch_balance() as line:
            await next_balance(line)
            await wait_until(lambda: services.hub.healthy)
            await _spend_unpublished(ada, 40, "meanwhile")
            await services.redis.client_kill_filter(_type="pubsub")
            assert (await next_balance(line))["balance"] == 1960
            await ada.spend(10, "afterwards")
            assert (await next_balance(line))["balance"] == 1950


async def test_with_redis_frozen_the_balance_is_delivered(
    world: World, stripe_side: StripeSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S29: the probe detects the stopped process, and rows are read meanwhile."""
    monkeypatch.setattr(redis_subscriber, "PROBE_INTERVAL_S", 0.2)
    with running_valkey(world.folder) as redis:
        paidup = await world.server(redis_url=redis.connection_url, resync_interval_s=600)
        services, ada = paidup.services, await _rich(paidup, stripe_side)
        async with ada.watch_balance() as line:
            await next_balance(line)
            await wait_until(lambda: services.hub.healthy)
            with frozen(redis):
                await _spend_unpublished(ada, 40, "meanwhile")
                assert (await next_balance(line))["balance"] == 1960
                assert not services.hub.healthy
                await ada.spend(10, "here")
                assert (await next_balance(line))["balance"] == 1950, "without waiting for Redis"
            await wait_until(lambda: services.hub.healthy)
            await ada.spend(10, "afterwards")
            assert (await next_balance(line))["balance"] == 1940


async def test_commits_of_one_process_reach_sockets_of_the_others(
    world: World, stripe_side: StripeSide
) -> None:
    """A webhook arrives at one process; sockets at two processes get the change through Redis."""
    first = await world.process(resync_interval_s=600)
    second = await world.process(webhooks=False, resync_interval_s=600)
    here, there = first.customer("ada"), second.customer("ada")
    async with here.watch_balance() as one, there.watch_balance() as two:
        assert [(await next_balance(line))["balance"] for line in (one, two)] == [0, 0]
        purchase = await here.buy("pro")
        await stripe_side.confirm(purchase["client_secret"])
        for line in (one, two):
            told = [await next_balance(line), await next_balance(line)]  # granted and begun, in any order
            assert [frame["version"] for frame in told] == [1, 2]
            assert told[-1]["balance"] == 2000


# Helpers


async def _rich(paidup: Paidup, stripe_side: StripeSide) -> Customer:
    """Ada, with 2000 credits."""
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    async with ada.watch(purchase) as line:
        await stripe_side.confirm(purchase["client_secret"])
        await line.send_json({"type": "verify"})
        await status_with(line, status="active")
    await wait_until(_started)  # which raises the account's version, and publishes it
    async with write_transaction():  # SQLite shows the event before its transaction has ended
        return ada


async def _started() -> bool:
    return await OutboundEvent.exists(type="subscription.started")


async def _account(customer: Customer) -> Account:
    return await Account.get(external_id=customer.name)


async def _spend_unpublished(customer: Customer, credits: int, key: str) -> None:
    """A spend whose process is killed between commit and publish."""
    async with write_transaction():
        account = await ledger.lock_account((await _account(customer)).id)
        await ledger.spend(account, credits, key, now())


async def _handshake(
    http: aiohttp.ClientSession, url: str, protocols: tuple[str, ...], origin: str | None
) -> int:
    """The HTTP status of a WebSocket handshake; 101 if it was accepted."""
    headers = {"Origin": origin} if origin else {}
    try:
        async with http.ws_connect(url, protocols=protocols, headers=headers) as line:
            assert line.protocol == "paidup.v1"
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return refused.status


async def _metrics(http: aiohttp.ClientSession, paidup: Paidup) -> set[str]:
    async with http.get(f"{paidup.url}/metrics") as response:
        return set((await response.text()).splitlines())


@asynccontextmanager
async def _deaf_tab(paidup: Paidup, ticket: str) -> AsyncIterator[None]:
    """A client that opens a socket and then stops reading."""
    where = urlsplit(paidup.url)
    with socket() as raw:
        raw.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)  # the minimum of the system
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, (where.hostname, where.port))
        handshake = (
            "GET /ws/account HTTP/1.1",
            *(f"Host: {where.netloc}", f"Origin: {ORIGIN}", "Upgrade: websocket", "Connection: Upgrade"),
            *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
            f"Sec-WebSocket-Protocol: paidup.v1, {ticket}",
        )
        await loop.sock_sendall(raw, ("\r\n".join(handshake) + "\r\n\r\n").encode())
        assert b" 101 " in await loop.sock_recv(raw, 64)
        yield


def _open_sockets(kind: str) -> str:
    return f'paidup_sockets{{kind="{kind}",transport="websocket"}} 1.0'
