"""A rolling restart: three processes are replaced in turn while a thousand customers wait and pay."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random

import aiohttp
import pytest

from paidup.db.connection import open_database
from paidup.db.models import Account, CreditGrant, LedgerEntry
from paidup.realtime.tickets import Tickets
from tests.conftest import World
from tests.support.bulk_fixtures import CREDITS, name_of, paid_event, seed
from tests.support.paidup import Paidup, environment, serving_process
from tests.support.processes import Child, free_port
from tests.support.socket_load import Balancer, Waiter
from tests.support.waiting import wait_until

CUSTOMERS = 1_000
PAID_PER_S = 30
"""Payments a second while processes are replaced. Most customers pay after that."""
PROCESSES = 3
WINDOW_S = 0.25
AT_ONCE = 0.4
"""The largest share of a process's sockets that may be told to reconnect within one window, even if the
machine stalled and they received it all at once."""


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_a_thousand_customers_wait_through_a_rolling_restart(world: World, database_url: str) -> None:
    """S30: each gets active once, each invoice has one grant, and reconnections are spread out.

    Stripe has none of these invoices and nothing is resynced: only webhook, pub/sub and snapshot deliver.
    """
    created, chance = int(time.time()) - 60, Random(30)
    async with open_database(database_url):
        await seed(CUSTOMERS, lambda _: created)
    ports = [free_port() for _ in range(PROCESSES)]
    children = await asyncio.gather(*(_started(world, port) for port in ports))
    balancer = Balancer(ports, world.http, chance)
    tickets = Tickets(environment()["SECRET_KEY"], ttl_s=600)
    waiters = [
        Waiter(name_of(number), tickets.issue(name_of(number), number), balancer.choose, chance)
        for number in range(CUSTOMERS)
    ]
    async with balancer.looking(), asyncio.TaskGroup() as group:
        for waiter in waiters:
            group.create_task(waiter.wait())
        await wait_until(lambda: all(waiter.heard for waiter in waiters), within=30)
        replaced = asyncio.Event()
        paying = group.create_task(
            _pay(world, balancer, chance.sample(range(CUSTOMERS), CUSTOMERS), replaced)
        )
        sent_away = []
        for port, child in zip(ports, children, strict=True):
            before = _due_back(waiters)
            await _replaced(world, port, child)
            sent_away.append(sorted(_due_back(waiters) - before))
        replaced.set()
        await paying
    _each_told_once(waiters)
    for due_back in sent_away:
        assert len(due_back) > CUSTOMERS / PROCESSES / 3, "it had its share of those who wait"
        assert _most_within(due_back, WINDOW_S) <= AT_ONCE * len(due_back)
    async with open_database(database_url):
        granted = await CreditGrant.all().values_list("invoice_id", flat=True)
        assert sorted(map(str, granted)) == list(map(name_of, range(CUSTOMERS)))
        assert await LedgerEntry.all().count() == CUSTOMERS
        assert await Account.filter(balance=CREDITS).count() == CUSTOMERS


async def _started(world: World, port: int) -> Child:
    env = environment(
        **world.given(port=port, shutdown_drain_s=2.0, resync_interval_s=600, stripe_requests_per_second=1),
        max_sockets_per_address=CUSTOMERS,
    )
    log = world.folder / f"server-{port}.log"
    child = await asyncio.to_thread(serving_process, env, port, log, forked=True)
    world.stack.callback(child.stop)
    return child


async def _replaced(world: World, port: int, child: Child) -> None:
    child.process.send_signal(signal.SIGTERM)
    await wait_until(lambda: child.process.poll() is not None, within=20)
    assert child.process.returncode == 0, child.output
    await _started(world, port)


async def _pay(world: World, balancer: Balancer, numbers: Sequence[int], at_once: asyncio.Event) -> None:
    """Deliver the `invoice.paid` events: a few a second until `at_once` is set, then the rest."""
    created = int(time.time()) - 60
    async with asyncio.TaskGroup() as deliveries:
        for number in numbers:
            deliveries.create_task(_deliver(world, balancer, paid_event(number, created)))
            with suppress(TimeoutError):
                await asyncio.wait_for(at_once.wait(), 1 / PAID_PER_S)


async def _deliver(world: World, balancer: Balancer, body: bytes) -> None:
    """Like Stripe, retry until the response is 200."""

    async def accepted() -> bool:
        try:
            paidup = Paidup(f"http://127.0.0.1:{balancer.choose()}", world.http)
            return (await paidup.webhook(body))[0] == 200
        except aiohttp.ClientError:
            return False

    await wait_until(accepted, within=30)


def _each_told_once(waiters: Sequence[Waiter]) -> None:
    for waiter in waiters:
        assert [final["status"] for final in waiter.finals] == ["active"], waiter.invoice
        assert waiter.finals[0]["via"] == "webhook"
        assert waiter.codes[-1] == 1000
        assert set(waiter.codes[:-1]) <= {1012}, "the others were drained"


def _due_back(waiters: Sequence[Waiter]) -> set[float]:
    return {at for waiter in waiters for at in waiter.due_back}


def _most_within(times: Sequence[float], window_s: float) -> int:
    """The largest number of the sorted `times` within any window."""
    most = first = 0
    for number, at in enumerate(times):
        while times[first] < at - window_s:
            first += 1
        most = max(most, number - first + 1)
    return most
