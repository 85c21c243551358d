"""`python -m tests.soak`: run it, print the table and the verdict; 1 where anything is wrong."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import aiohttp
from rich.table import Table

from paidup.runtime.logs import configure_logging
from paidup.runtime.tasks import cancel_tasks
from tests.bench.report import console, machine
from tests.bench.rig import Rig, Server, a_rig, product
from tests.soak.customers import Customers
from tests.soak.measure import QUIET_S, Meter, Sample, growth, left_behind, level

WARM = 100
"""Customers who come and go before it begins, so that what is loaded late is loaded."""
MEMORY_PERCENT = 1.0
DESCRIPTORS = 3.0
"""Bounds of what 1,000 activations may add; of descriptors, beside those of open sockets."""
ROWS = 20
SHOWN = 20
SETTINGS = {"heartbeat_s": "1", "socket_send_timeout_s": "2", "max_sockets_per_address": "100000"}
MIB = 2**20


@dataclass
class Outcome:
    samples: list[Sample]
    begin: Sample
    end: Sample
    asked_afterwards: int
    customers: Customers


def main() -> int:
    options = _options()
    configure_logging("ERROR", "console")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is stopped on the way out
    faulthandler.register(signal.SIGTERM, chain=True)  # ended from outside: it says what it was waiting for
    count = round(options.minutes * 60 * options.rate)
    with a_rig(WARM + count, dict(SETTINGS)) as rig, product(rig) as server:
        outcome = asyncio.run(_soak(rig, server, count, options))
        where = machine(rig.postgres_version, rig.valkey_version)
    found = _wrong(outcome, options.memory, options.descriptors)
    _show(outcome)
    console.print(where, highlight=False)
    for each in found[:SHOWN]:
        console.print(f"WRONG {each}", markup=False)
    console.print(f"{len(found)} things are wrong." if found else "Flat, and nothing of anybody is left.")
    return 1 if found else 0


async def _soak(rig: Rig, server: Server, count: int, options: argparse.Namespace) -> Outcome:
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        customers = Customers(rig, server.port, http, Random(options.seed))
        meter = Meter(rig, server, http, lambda: (customers.tally["came"], customers.tally["paid"]))
        nothing = await meter.sample()
        await customers.come(0, WARM, min(options.rate, WARM))
        begin = await meter.when_quiet(nothing)
        measuring = asyncio.create_task(meter.run())
        await customers.come(WARM, count, options.rate)
        await cancel_tasks(measuring, again_after_s=0.1)  # redis-py may swallow a cancellation
        end = await meter.when_quiet(begin)
        await asyncio.sleep(QUIET_S)
        afterwards = (await meter.sample()).asked - end.asked
        return Outcome(meter.samples, begin, end, afterwards, customers)


def _wrong(outcome: Outcome, memory_percent: float, descriptors: float) -> list[str]:
    samples, found = outcome.samples, list(outcome.customers.wrong)
    memory = 100 * growth(samples, lambda s: s.uss) / level(samples, lambda s: s.uss)
    if memory > memory_percent:
        found.append(
            f"memory grows by {memory:.2f} % with 1,000 activations; {memory_percent:g} % is allowed"
        )
    beside = growth(samples, lambda s: s.descriptors - s.sockets)
    if beside > descriptors:
        found.append(f"descriptors beside sockets grow by {beside:.1f}; {descriptors:g} is allowed")
    if outcome.asked_afterwards:
        found.append(f"Stripe is asked {outcome.asked_afterwards} times although nobody waits")
    return [*found, *left_behind(outcome.begin, outcome.end)]


def _show(outcome: Outcome) -> None:
    samples = outcome.samples
    table = Table(*("s", "came", "paid", "USS MiB", "RSS MiB", "descriptors", "sockets", "channels", "asked"))
    for sample in [outcome.begin, *_some(samples), outcome.end]:
        table.add_row(
            f"{sample.at_s:.0f}",
            *(f"{sample.came:,}", f"{sample.paid:,}"),
            *(f"{sample.uss / MIB:.1f}", f"{sample.rss / MIB:.1f}"),
            *(f"{sample.descriptors:,}", f"{sample.sockets:,}", f"{sample.channels:,}", f"{sample.asked:,}"),
        )
    console.print(table)
    memory, median = growth(samples, lambda s: s.uss), level(samples, lambda s: s.uss)
    beside = growth(samples, lambda s: s.descriptors - s.sockets)
    console.print(
        f"With 1,000 activations, over the second half: memory {memory / 1024:+.1f} KiB "
        f"({100 * memory / median:+.2f} % of {median / MIB:.1f} MiB), descriptors but sockets {beside:+.1f}."
    )
    ends = ", ".join(f"{name} {count:,}" for name, count in sorted(outcome.customers.tally.items()))
    console.print(f"Customers: {ends}; Stripe asked {outcome.asked_afterwards} times afterwards.")


def _some(samples: Sequence[Sample]) -> Sequence[Sample]:
    return samples[:: max(1, len(samples) // ROWS)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="of customers coming")
    parser.add_argument("--rate", type=float, default=200.0, help="customers a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--memory", type=float, default=MEMORY_PERCENT, help="percent that 1,000 activations may add"
    )
    parser.add_argument(
        "--descriptors", type=float, default=DESCRIPTORS, help="that 1,000 activations may add beside sockets"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
