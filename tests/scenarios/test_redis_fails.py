"""Redis failing (SCENARIOS, S29): every waiting screen still gets its status.

Killed connections and a frozen server are in test_balance_socket.py, a cluster in test_cluster.py,
and what each part does about it in test_hub.py.
"""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from redis.exceptions import ResponseError

from paidup.db.models import Invoice
from paidup.domain.messages import encode
from paidup.realtime import subscriber as redis_subscriber
from paidup.realtime.hub import INVOICES
from paidup.realtime.status_queries import read_status
from paidup.services import Services
from tests.conftest import World
from tests.support.factories import an_account, an_invoice
from tests.support.ledger_asserts import assert_books_balance
from tests.support.paidup import Paidup, next_status, status_with
from tests.support.stripe_sandbox import StripeSide
from tests.support.valkeys import running_valkey, start_valkey
from tests.support.waiting import wait_until

NOT_ASKED = {"rate_limited": True}
"""Stripe is down, so that statuses come from the database only."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_subscriber, "PROBE_INTERVAL_S", 0.2)
    monkeypatch.setattr(redis_subscriber, "RECONNECT_MAX_S", 0.2)


async def test_no_status_is_lost_when_redis_is_killed_and_restarted(
    world: World, stripe_side: StripeSide
) -> None:
    """S29: changes meanwhile are read once the channels are restored; then messages arrive again."""
    with running_valkey(world.folder) as redis:
        port = redis.port
        paidup = await world.server(webhooks=False, redis_url=redis.connection_url, resync_interval_s=600)
        services = paidup.services
        await stripe_side.conditions(**NOT_ASKED)
        async with AsyncExitStack() as stack:
            screens = [await _waiting_screen(stack, paidup) for _ in range(3)]
            await wait_until(lambda: services.hub.healthy)
            redis.terminate()
            await wait_until(lambda: not services.hub.healthy and not services.hub.gaps.is_set())
            await Invoice.all().update(status="processing", version=2)
            again = start_valkey(world.folder, port)
            stack.callback(again.terminate)
            for screen in screens:
                assert (await status_with(screen, status="processing"))["version"] == 2
            counts = {"resync_deliveries": 3, "pubsub_gaps": 2, "redis_channels_restored": 3}
            await wait_until(lambda: _counted(services) == counts)
            await _change_heard_of_through_redis(services)
            for screen in screens:
                await status_with(screen, version=3)
            await wait_until(lambda: services.hub.healthy)


async def test_while_redis_is_down_rows_are_read_every_few_seconds(
    world: World, stripe_side: StripeSide
) -> None:
    """S29: another process commits and cannot publish; /readyz reports it, and the recovery."""
    with running_valkey(world.folder) as redis:
        port = redis.port
        paidup = await world.server(webhooks=False, redis_url=redis.connection_url, resync_interval_s=0.2)
        await stripe_side.conditions(**NOT_ASKED)
        async with AsyncExitStack() as stack:
            screen = await _waiting_screen(stack, paidup)
            await wait_until(lambda: _ready(paidup, True))
            redis.terminate()
            await wait_until(lambda: _ready(paidup, False))
            for version in (2, 3):
                await Invoice.all().update(status="processing", version=version)
                assert (await status_with(screen, status="processing"))["version"] == version
            late = await _waiting_screen(stack, paidup)  # does not wait for Redis
            again = start_valkey(world.folder, port)
            stack.callback(again.terminate)
            await wait_until(lambda: _ready(paidup, True))
            await _change_heard_of_through_redis(paidup.services)
            await status_with(screen, version=4)
            await status_with(late, version=2)


@pytest.mark.parametrize("what", ["memory", "disk"])
async def test_a_redis_that_cannot_write_still_carries_messages(
    world: World, stripe_side: StripeSide, what: str
) -> None:
    """S29: its memory or disk is full: pub/sub needs neither, and processes count calls on their own."""
    with running_valkey(world.folder, save="3600 1") as redis:
        paidup = await world.server(webhooks=False, redis_url=redis.connection_url, resync_interval_s=600)
        services, ada = paidup.services, paidup.customer("ada")
        if what == "memory":
            await services.redis.config_set("maxmemory", 1)
        else:
            shutil.rmtree(redis.data_dir)  # a snapshot cannot be written
            await services.redis.execute_command("BGSAVE")
            await wait_until(lambda: _writes_fail(services))
        with pytest.raises(ResponseError, match="maxmemory" if what == "memory" else "MISCONF"):
            await services.redis.set("anything", "new")
        purchase = await ada.buy("pro")
        await stripe_side.confirm(purchase["client_secret"])
        async with ada.watch(purchase) as screen:
            assert (await status_with(screen, status="active"))["via"] == "verification"
        await stripe_side.conditions(**NOT_ASKED)
        async with AsyncExitStack() as stack:
            other = await _waiting_screen(stack, paidup)
            await _change_heard_of_through_redis(services)
            await status_with(other, version=2)
        await wait_until(lambda: _ready(paidup, True))
        await assert_books_balance(grants=1)


# Helpers


async def _waiting_screen(stack: AsyncExitStack, paidup: Paidup) -> aiohttp.ClientWebSocketResponse:
    """A socket on an invoice that has received its current status."""
    account = await an_account()
    invoice = (await an_invoice(account)).id
    ticket = paidup.services.tickets.issue(invoice, account.id)
    socket = await stack.enter_async_context(paidup.customer().watch({"invoice": invoice, "ticket": ticket}))
    await next_status(socket)
    return socket


async def _change_heard_of_through_redis(services: Services) -> None:
    """Change every watched invoice, and publish as another process would."""
    for invoice in services.hub.subscribed_keys(INVOICES):
        row = await Invoice.get(id=invoice)
        await Invoice.filter(id=invoice).update(version=row.version + 1)
        status = await read_status(invoice)
        assert status is not None
        await services.redis.publish(INVOICES.channel(invoice), encode(status))


def _counted(services: Services) -> dict[str, float | None]:
    names = ("resync_deliveries", "pubsub_gaps", "redis_channels_restored")
    return {name: services.metrics.registry.get_sample_value(f"paidup_{name}_total") for name in names}


async def _ready(paidup: Paidup, wanted: bool) -> bool:
    status, ready = await paidup.get("/readyz")
    return (status, ready["redis"]) == ((200, True) if wanted else (503, False))


async def _writes_fail(services: Services) -> Any:
    try:
        await services.redis.set("anything", "new")
    except ResponseError:
        return True
    return False
