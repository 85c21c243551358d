"""Endpoints that fail, hang and lie: no event is lost, and none is out of order for its account."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from aiohttp import web

from paidup.credits import ledger
from paidup.db.connection import write_transaction
from paidup.db.models import Account, EntryKind
from paidup.db.outbound_models import DeliveryState, EventDelivery, OutboundEvent
from paidup.outbound import due, retries
from paidup.outbound.dispatcher import Dispatcher
from paidup.outbound.sender import Sender
from paidup.runtime.metrics import Metrics
from tests.support.factories import an_account
from tests.support.receivers import Receiver, receiving
from tests.support.waiting import wait_until

ACCOUNTS, MOVEMENTS, FAULTS = 12, 10, 3
TIMEOUT_S = 0.5


async def fails(_: web.Request) -> web.StreamResponse:
    return web.Response(status=500, text="no")


async def hangs(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(TIMEOUT_S * 10)
    return web.Response()


async def redirects(request: web.Request) -> web.StreamResponse:
    return web.Response(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data"})


async def resets(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def answers_late(_: web.Request) -> None:
    """It does its work, and its answer comes when nobody waits for it any more."""
    await asyncio.sleep(TIMEOUT_S * 1.5)


async def answers_with_a_slow_body(request: web.Request) -> web.StreamResponse:
    """An error whose body never ends."""
    response = web.StreamResponse(status=503)
    await response.prepare(request)
    await response.write(b"x" * 100)
    await asyncio.sleep(TIMEOUT_S * 10)
    return response


MISBEHAVIOURS = (fails, hangs, redirects, resets, answers_late, answers_with_a_slow_body)


@asynccontextmanager
async def dispatching() -> AsyncIterator[Dispatcher]:
    opened = Dispatcher(Sender(private_addresses=True, timeout_s=TIMEOUT_S), Metrics())
    await opened.open()
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries, pauses and leases take less than a few seconds."""
    monkeypatch.setattr(retries, "DELAYS_S", (0.02,) * (retries.MAX_ATTEMPTS - 1))
    monkeypatch.setattr(retries, "MAX_PAUSE_S", 0.1)
    monkeypatch.setattr(due, "LEASE", timedelta(seconds=2))


async def move(account: Account, number: int) -> None:
    async with write_transaction():
        locked = await ledger.lock_account(account.id)
        credits = random.randint(1, 50) * random.choice((1, 1, -1))
        await ledger.post_entry(locked, EntryKind.ADJUST, credits, f"{account.id}-{number}")


def misbehaving(receiver: Receiver, chance: random.Random) -> None:
    """Each event meets up to `FAULTS` misbehaviours before it is taken."""
    left: dict[str, int] = {}

    async def behave(request: web.Request) -> web.StreamResponse | None:
        message = request.headers["webhook-id"]
        left.setdefault(message, chance.choice((0, 0, 1, FAULTS)))
        if left[message] == 0:
            return None
        left[message] -= 1
        return await chance.choice(MISBEHAVIOURS)(request)

    receiver.behave = behave


@pytest.mark.timeout(300)
async def test_no_event_is_lost_and_none_out_of_order(database: None, quick: None) -> None:
    """S59: two endpoints, two processes of which one stops and comes again; the copies equal the books."""
    async with receiving() as one, receiving() as two:
        for name, receiver in (("one", one), ("two", two)):
            await receiver.become_endpoint(name=name)
            misbehaving(receiver, random.Random(random.random()))
        accounts = [await an_account() for _ in range(ACCOUNTS)]
        async with dispatching() as first:
            async with dispatching() as second:
                for number in range(MOVEMENTS // 2):
                    for account in accounts:
                        await move(account, number)
                    first.wake()
                    second.wake()
            for number in range(MOVEMENTS // 2, MOVEMENTS):
                for account in accounts:
                    await move(account, number)
                first.wake()
            expected = await OutboundEvent.all().count()
            assert expected >= ACCOUNTS * MOVEMENTS

            async def all_delivered() -> bool:
                done = EventDelivery.filter(state=DeliveryState.DELIVERED)
                return await done.count() == 2 * expected

            await wait_until(all_delivered, within=200)
        order = {row.message: row.id for row in await OutboundEvent.all()}
        books = {account.external_id: account.balance for account in await Account.all()}
        for receiver in (one, two):
            assert set(receiver.ids) == set(order), "at least once"
            assert receiver.balances() == books
            for name in books:
                seen = [order[message] for message in receiver.first_arrivals(name)]
                assert seen == sorted(seen)


async def test_an_endpoint_that_hangs_does_not_hold_up_another(database: None, quick: None) -> None:
    async with receiving() as stuck, receiving() as other, dispatching() as dispatcher:
        stuck.behave = hangs
        await stuck.become_endpoint(name="stuck")
        await other.become_endpoint(name="other")
        dispatcher.refresh()
        accounts = [await an_account() for _ in range(40)]
        for account in accounts:
            await move(account, 1)
        await wait_until(lambda: len({event["data"]["account"] for event in other.events}) == 40)
        assert stuck.events == []
