"""Figures 6 and 7: the cost and duration of waiting, compared with polling and under load.

Polling is favoured: each customer keeps their connection open, and asks the product's own status route
once a second. The load is the whole product: customers pay one after another, Stripe's webhooks come
late, the budget of questions to Stripe is as delivered, a worker sweeps, and all who paid are to be told.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from multiprocessing.sharedctypes import RawArray
from typing import Any

import aiohttp
import asyncpg
import jwt

from paidup.domain.payment_facts import Source
from tests.bench import rig as rigs
from tests.bench.clients import (
    BY_CHANGE,
    BY_STAMP,
    FIRST_VERSION,
    NO_TIMING,
    STAMP_DIGITS,
    Board,
    Job,
    Link,
    running,
)
from tests.bench.report import Figure, percentile
from tests.bench.rig import Rig, Server, load_clients
from tests.bench.stripe_stub import OPEN, PAID, PROCESSING
from tests.support.bulk_fixtures import name_of
from tests.support.paidup import JWT_SECRET, WEBHOOK_SECRET
from tests.support.processes import Child
from tests.support.stripe_sandbox import sign

SOCKET, POLLING = "a waiting socket", "polling each second"
VERIFIED = "a waiting socket, once all were verified"
VERIFIED_WITHIN_S = 900.0
BARE = "polling a route that answers from memory"
POLL_EVERY_S = 1.0
CHANGES = 100
DELAY_MEAN_S, DELAY_MAX_S = 2.0, 10.0
"""Of webhooks: exponential, cut off."""
REDELIVER_AFTER_S = 2.0
GRACE_S = 60.0
"""How long to wait, after the last payment, for sockets that have not received their status."""


# 6. Against polling


def measure_waiting(rig: Rig, options: argparse.Namespace) -> dict[str, Figure]:
    """Server CPU for each waiting customer, and the delay from a change until the customer knows."""
    count = options.connections
    figure = Figure(
        f"6. A waiting customer: {count:,} sockets against {options.pollers} who ask each second, "
        f"{options.idle:g} s each"
    )
    for number in range(options.rounds):
        rig.stripe.verified[:] = [0] * len(rig.stripe.verified)
        with rigs.product(rig) as server:
            with load_clients(rig, server, count, samples=CHANGES) as board:
                time.sleep(rigs.SETTLED_S)
                _measure_customers(rig, options, server, board, figure, SOCKET)
                if options.verified and number == options.rounds - 1:
                    rigs.until(lambda: sum(rig.stripe.verified[:count]) >= count, VERIFIED_WITHIN_S)
                    time.sleep(2 * rigs.SETTLED_S)
                    figure.add(VERIFIED, cpu_us_a_second=_cpu_us(server, options.idle, count))
            asyncio.run(_see_payments(rig))
            with _pollers(rig, server, options.pollers) as board:
                _measure_customers(rig, options, server, board, figure, POLLING)
        with rigs.bare(rig) as server, _pollers(rig, server, options.pollers) as board:
            figure.add(BARE, cpu_us_a_second=_cpu_us(server, options.idle, len(board.last)))
    return {"cpu": figure}


def _measure_customers(
    rig: Rig, options: argparse.Namespace, server: Server, board: Board, figure: Figure, who: str
) -> None:
    count = len(board.last)
    cpu_us = _cpu_us(server, options.idle, count)
    board.counters.timing = BY_STAMP
    changed = min(CHANGES, count)
    Job(_change_all, rig, changed).result(30)
    rigs.until(lambda: board.counters.sampled >= changed, 20.0, lambda: f"{board.counters.sampled} told")
    board.counters.timing = NO_TIMING
    taken = board.taken()
    figure.add(
        who, cpu_us_a_second=cpu_us, told_after_ms=statistics.median(taken), p99_ms=percentile(taken, 0.99)
    )
    figure.samples.setdefault(who, []).extend(taken)
    asyncio.run(_restore(rig))


def _cpu_us(server: Server, seconds: float, customers: int) -> float:
    """The server's CPU in µs, for each second and customer."""
    before = server.cpu_s
    time.sleep(seconds)
    return (server.cpu_s - before) * 1e6 / customers / seconds


def _change_all(rig: Rig, count: int) -> None:
    """Change the first invoices in the database, at random times, and publish each after its commit."""

    async def change() -> None:
        link = Link(rig.redis)
        database = await asyncpg.connect(rig.database)
        for number in range(count):
            await asyncio.sleep(random.uniform(0, 0.1))
            version = FIRST_VERSION + 1
            # Who polls reads this one, a millisecond of five hundred too early. A socket's is made below.
            stamp = f"{time.monotonic_ns():0{STAMP_DIGITS}}"
            await database.execute(
                "UPDATE invoices SET status = 'processing', version = $2, plan = $3, changed_at = now() "
                "WHERE id = $1",
                *(name_of(number), version, stamp),
            )
            link.send(rig.messages[number].now(version))
            rig.stripe.states[number] = PROCESSING  # or a verification would change it back
        await database.close()

    asyncio.run(change())


async def _see_payments(rig: Rig) -> None:
    """Measure the poll alone: of an invoice that nobody has paid, the server would ask Stripe."""
    async with _database(rig) as database:
        await database.execute("UPDATE invoices SET payment_seen_at = now()")


async def _restore(rig: Rig) -> None:
    async with _database(rig) as database:
        await database.execute(
            "UPDATE invoices SET status = 'open', version = 1, plan = 'pro', payment_seen_at = NULL"
            " WHERE version > 1 OR payment_seen_at IS NOT NULL"
        )
    rig.stripe.states[:] = [OPEN] * len(rig.stripe.states)


@asynccontextmanager
async def _database(rig: Rig) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(rig.database)
    try:
        yield connection
    finally:
        await connection.close()


@contextmanager
def _pollers(rig: Rig, server: Server, count: int) -> Iterator[Board]:
    """So many customers who ask each second, at phases of their own, on connections kept alive."""
    board = Board(count, CHANGES)
    with running(_poll_all, server.port, count, board):
        rigs.until(lambda: all(board.last), 20.0)
        yield board


def _poll_all(port: int, count: int, board: Board) -> None:
    async def poll(http: aiohttp.ClientSession, number: int) -> None:
        token = jwt.encode({"sub": f"user-{number}", "exp": int(time.time()) + 3600}, JWT_SECRET, "HS256")
        url = f"http://127.0.0.1:{port}/api/invoices/{name_of(number)}"
        headers = {"Authorization": f"Bearer {token}"}
        await asyncio.sleep(random.uniform(0, POLL_EVERY_S))
        due = time.monotonic()
        while True:
            async with http.get(url, headers=headers) as response:
                assert response.status == 200, await response.text()
                board.hear(number, await response.read())
            due += POLL_EVERY_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def all_of_them() -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
        async with aiohttp.ClientSession(connector=connector) as http:
            await asyncio.gather(*(poll(http, number) for number in range(count)))

    asyncio.run(all_of_them())


# 7. Under load


def measure_load(rig: Rig, options: argparse.Namespace) -> dict[str, Figure]:
    """Thousands wait, a hundred a second pay, by all sources: who is told, and how soon."""
    count, paying = options.load, int(options.activations * options.load_seconds)
    figure = Figure(
        f"7. {count:,} waiting, {options.activations} payments a second for {options.load_seconds:g} s, "
        f"webhooks {DELAY_MEAN_S:g} s late on average"
    )
    asyncio.run(_spread_checks(rig, options.load_seconds))
    order = random.sample(range(count), paying)
    paid_ns = RawArray("q", count)
    worker = Child(["-m", "paidup.cli", "work"], rig.environment(), rig.folder / "worker.log")
    try:
        with rigs.product(rig) as server, load_clients(rig, server, count, samples=paying) as board:
            time.sleep(rigs.SETTLED_S)
            board.counters.timing = BY_CHANGE
            before, began = server.cpu_s, time.monotonic()
            job = Job(_pay_all, rig, server.port, order, paid_ns, options.activations)
            redelivered = job.result(options.load_seconds + GRACE_S)
            _until_told(board, paying)
            cores = (server.cpu_s - before) / (time.monotonic() - began)
            _report(figure, board, paid_ns, order, cores_busy=cores, redelivered=redelivered)
    finally:
        worker.stop()
    active = asyncio.run(_active(rig))
    not_told, not_granted = paying - board.counters.told, paying - active
    figure.add("all who paid", paid=paying, not_told=not_told, not_granted=not_granted)
    return {"load": figure}


def _until_told(board: Board, paying: int) -> None:
    deadline = time.monotonic() + GRACE_S
    while board.counters.told < paying and time.monotonic() < deadline:
        time.sleep(0.05)


def _report(figure: Figure, board: Board, paid_ns: Any, order: list[int], **more: float) -> None:
    commits = board.taken()
    if commits:
        figure.add(
            "commit to socket, ms",
            told=len(commits),
            p50=percentile(commits, 0.5),
            p99=percentile(commits, 0.99),
            worst=max(commits),
        )
        figure.samples["commit to socket"] = commits
    for code, source in enumerate(Source):
        waits = [
            (board.told_ns[number] - paid_ns[number]) / 1e6
            for number in order
            if board.told_ns[number] and board.told_via[number] == code
        ]
        if waits:
            figure.add(
                f"payment to socket by {source}, ms",
                told=len(waits),
                p50=percentile(waits, 0.5),
                p99=percentile(waits, 0.99),
                worst=max(waits),
            )
            figure.samples[f"payment to socket by {source}"] = waits
    figure.add("the server", **more)


def _pay_all(rig: Rig, port: int, order: list[int], paid_ns: Any, rate: int) -> int:
    """Pay so many a second, each webhook at random later. Returns how often one had to be sent again."""
    url = f"http://127.0.0.1:{port}/webhooks/stripe"
    again = 0

    async def deliver(http: aiohttp.ClientSession, number: int) -> None:
        nonlocal again
        await asyncio.sleep(min(DELAY_MAX_S, random.expovariate(1 / DELAY_MEAN_S)))
        while not await _accepted(http, url, rig.stripe.paid_event(number)):
            again += 1
            await asyncio.sleep(REDELIVER_AFTER_S)

    async def pay() -> None:
        connector = aiohttp.TCPConnector(limit=200, keepalive_timeout=60)
        async with aiohttp.ClientSession(connector=connector) as http:
            tasks: list[asyncio.Task[None]] = []
            began = time.monotonic()
            for position, number in enumerate(order):
                await asyncio.sleep(max(0.0, began + position / rate - time.monotonic()))
                rig.stripe.states[number] = PAID
                paid_ns[number] = time.monotonic_ns()
                tasks.append(asyncio.create_task(deliver(http, number)))
            await asyncio.gather(*tasks)

    asyncio.run(pay())
    return again


async def _accepted(http: aiohttp.ClientSession, url: str, body: bytes) -> bool:
    headers = {"Stripe-Signature": sign(body, WEBHOOK_SECRET), "Content-Type": "application/json"}
    try:
        async with http.post(url, data=body, headers=headers) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _spread_checks(rig: Rig, seconds: float) -> None:
    """The reconciler's turn comes to each invoice at another time, as where they were not made at once."""
    async with _database(rig) as database:
        await database.execute(
            "UPDATE invoices SET next_check_at = now() + random() * $1 * interval '1 second'", seconds
        )


async def _active(rig: Rig) -> int:
    """How many invoices are active and have exactly one grant."""
    async with _database(rig) as database:
        return int(
            await database.fetchval(
                "SELECT count(*) FROM invoices i WHERE status = 'active' AND "
                "(SELECT count(*) FROM credit_grants g WHERE g.invoice_id = i.id) = 1"
            )
        )
