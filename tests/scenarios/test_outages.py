"""Outages (SCENARIOS, S33 and S34): Stripe down, slow or rate limited; the database unreachable."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from paidup.db import connection as database
from paidup.db.models import Invoice, StripeEvent
from tests.conftest import World
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import next_status, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

READ_INVOICE = "GET /v1/invoices/{id}"


@pytest.mark.parametrize("condition", ["api_down", "rate_limited", "slow"])
async def test_the_webhook_credits_while_stripes_api_is_down(
    world: World, stripe_side: StripeSide, condition: str
) -> None:
    """S34: Stripe's API is down, rate limited or slow: the webhook needs no call, credits, and notifies."""
    paidup = await world.server(webhooks=False, stripe_timeout_s=0.5)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    body = json.dumps(await stripe_side.event("invoice.paid")).encode()
    await stripe_side.conditions(**({"api_latency_ms": 30_000} if condition == "slow" else {condition: True}))
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        assert (await paidup.webhook(body))[1]["outcome"] == "settled"
        told = await status_with(socket, status="active")
    assert (told["via"], told["balance"]) == ("webhook", 2000)
    await assert_books_balance(grants=1)


async def test_verification_backs_off_while_rate_limited_and_succeeds_later(
    world: World, stripe_side: StripeSide
) -> None:
    """S34: 429 for a while with ten waiting tabs: only a few calls; afterwards all become active."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    await stripe_side.control("calls/reset")
    await stripe_side.conditions(rate_limited=True)
    async with AsyncExitStack() as stack:
        tabs = [await stack.enter_async_context(ada.watch(purchase)) for _ in range(10)]
        await wait_until(lambda: _at_least(stripe_side, 2))
        assert await ada.balance() == 0
        await stripe_side.conditions(rate_limited=False)
        for tab in tabs:
            assert (await status_with(tab, status="active"))["via"] == "verification"
    assert await stripe_side.calls(READ_INVOICE) <= 4
    await assert_books_balance(grants=1)


async def test_a_locked_invoice_delays_nobody_else(world: World, stripe_side: StripeSide) -> None:
    """S34: Stripe answers 429 for one invoice, which is no rate limit: another customer is active at once."""
    paidup = await world.server(webhooks=False)
    ada, bob = paidup.customer("ada"), paidup.customer("bob")
    locked, free = await ada.buy("pro"), await bob.buy("pro")
    await stripe_side.conditions(locked_ids=[locked["invoice"]])
    for purchase in (locked, free):
        await stripe_side.confirm(purchase["client_secret"])
    async with ada.watch(locked) as waiting, bob.watch(free) as active:
        assert (await status_with(active, status="active"))["via"] == "verification"
        assert await ada.balance() == 0
        await stripe_side.conditions(locked_ids=[])
        assert (await status_with(waiting, status="active"))["via"] == "verification"
    limited = paidup.services.metrics.stripe_rate_limited.labels("invoices.retrieve")
    assert limited._value.get() == 0
    await assert_books_balance(grants=2)


async def test_a_purchase_while_stripe_is_down_is_503_and_works_later(
    world: World, stripe_side: StripeSide
) -> None:
    """S34: a purchase while Stripe is down gets 503, leaves nothing behind, and works afterwards."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    await stripe_side.conditions(api_down=True)
    status, problem = await ada.call("POST", "/api/subscriptions", {"plan": "pro"})
    assert (status, problem["type"].rpartition("/")[2]) == (503, "stripe-unavailable")
    assert await Invoice.all().count() == 0
    await stripe_side.conditions(api_down=False)
    purchase = await ada.buy("pro")
    assert len((await stripe_side.api("GET", "subscriptions?status=all"))["data"]) == 1
    await stripe_side.confirm(purchase["client_secret"])
    async with ada.watch(purchase) as socket:
        await status_with(socket, status="active")
    await assert_books_balance(grants=1)


async def test_a_lost_stripe_response_creates_no_second_subscription(
    world: World, stripe_side: StripeSide
) -> None:
    """S08: Stripe's response was lost: the retry with the same key gets the same subscription."""
    paidup = await world.server(webhooks=False)
    ada = paidup.customer("ada")
    await stripe_side.conditions(api_lost_reply_rate=1.0)
    purchase = await ada.buy("pro")
    assert await stripe_side.calls("POST /v1/subscriptions") == 2
    await stripe_side.conditions(api_lost_reply_rate=0.0)
    made = (await stripe_side.api("GET", "subscriptions?status=all"))["data"]
    assert [one["latest_invoice"] for one in made] == [purchase["invoice"]]
    assert len((await stripe_side.api("GET", "customers"))["data"]) == 1


async def test_a_database_outage_answers_503_and_all_settles_afterwards(
    world: World, stripe_side: StripeSide, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S33: the database is unreachable: webhooks get 503, sockets stay open; afterwards all is settled."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 200)
    paidup = await world.server(webhooks=False, resync_interval_s=0.2)
    ada, bob = paidup.customer("ada"), paidup.customer("bob")
    await stripe_side.confirm((paid := await bob.buy("pro"))["client_secret"])
    async with bob.watch(paid) as socket:
        await status_with(socket, status="active")
    purchase = await ada.buy("pro")
    await stripe_side.confirm(purchase["client_secret"])
    body = json.dumps(await stripe_side.event("invoice.paid", purchase["invoice"])).encode()
    await stripe_side.conditions(rate_limited=True)
    async with ada.watch(purchase) as socket:
        await next_status(socket)
        async with _outage(world.database_url, request):
            status, problem = await paidup.webhook(body)
            assert (status, problem["type"].rpartition("/")[2]) == (503, "storage-unavailable")
            assert "Nothing was changed" in problem["detail"], "and nothing of our insides"
            assert (await bob.spend(1, "now"))[0] == 503
            if "postgres" in world.database_url:
                status, ready = await paidup.get("/readyz")
                assert (status, ready["database"]) == (503, False)
            assert (await paidup.get("/healthz"))[0] == 200
            assert not socket.closed
        await wait_until(lambda: _answers(paidup.get))
        assert await StripeEvent.all().count() == 0
        assert (await bob.spend(1, "now"))[0] == 200
        status, answer = await paidup.webhook(body)
        assert (status, answer["outcome"]) == (200, "settled")
        await status_with(socket, status="active")
    await assert_books_balance(grants=2)


@asynccontextmanager
async def _outage(url: str, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """The database is unavailable: PostgreSQL refuses connections, or SQLite's file is locked."""
    if url.startswith("sqlite://"):
        path = url.removeprefix("sqlite://")
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        # In a thread, so that a transaction of the server can end in the meantime.
        await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()
        return
    server = request.getfixturevalue("postgres")
    name = url.partition("?")[0].rpartition("/")[2]
    server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    server.psql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    try:
        yield
    finally:
        server.psql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


async def _answers(get: Callable[[str], Awaitable[tuple[int, Any]]]) -> bool:
    return (await get("/readyz"))[0] == 200


async def _at_least(stripe_side: StripeSide, count: int) -> bool:
    return await stripe_side.calls(READ_INVOICE) >= count
