"""What more processes cost: `python -m tests.bench.processes`, with 1, 2, 4 and 8 of `paidup serve`.

All share one PostgreSQL and one Valkey, and the load is the same for each number: so many sockets that wait,
so many that are told of their payment by a webhook that another process gets, and so many spends, each on
another process than the one before. Each process has its own pools, subscriptions, resync and reconciler.
What is measured is the CPU time of all servers, of PostgreSQL and of Valkey, and what explains it: writing
transactions, commands of Valkey, and connections. From a payment, what waiting takes meanwhile is taken off,
and from a spend what servers take that have nothing to do. Rates say nothing here, as eight processes share
the machine's cores. Takes three minutes at most.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain

import aiohttp

from tests.bench import rig as rigs
from tests.bench.clients import BY_CHANGE, Board
from tests.bench.report import Figure, console, machine
from tests.bench.rig import Rig, Server, load_clients
from tests.bench.spends import by_http, rate_of
from tests.bench.stripe_stub import PAID
from tests.bench.webhooks import cpu_s, seconds_of
from tests.support.paidup import Paidup

PROCESSES = (1, 2, 4, 8)
AT_ONCE = 32
"""Webhooks under way, and spends, with any number of processes."""
ACCOUNTS = 97
"""That spend. No number of processes divides it, so that each account is spent from by all."""
WARM = 8
"""Sockets of each process that come and go before it is measured."""
WARM_SPENDS = 100
"""Of each process, before they are measured: a new connection prepares and plans each statement first."""
TOLD_WITHIN_S = 30.0

Costs = dict[str, float]
"""CPU seconds of each part, and counts, since they began."""


def main() -> None:
    options = _options()
    load = os.getloadavg()[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # run the cleanup of every context manager
    figures = [Figure(title) for title in _titles(options)]
    stages = [number for _ in range(options.rounds) for number in options.processes]
    with rigs.a_rig(options.sockets * len(stages) + WARM * max(stages), {}) as rig:
        for stage, number in enumerate(stages):
            first = stage * options.sockets
            for figure, costs in zip(figures, _stage(rig, options, number, first), strict=True):
                figure.add(f"{number} processes" if number > 1 else "1 process", **costs)
        where = machine(rig.postgres_version, rig.valkey_version)
    for figure in figures:
        figure.show()
    console.print(f"{where}; load before it began {load:.1f}", highlight=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.processes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="over which idling and waiting are measured"
    )
    parser.add_argument("--sockets", type=int, default=1_000, help="that wait, in all processes together")
    parser.add_argument("--payments", type=int, default=400, help="of those who wait")
    parser.add_argument("--spends", type=int, default=1_000)
    options = parser.parse_args()
    if not ACCOUNTS <= options.payments <= options.sockets:
        parser.error(f"at least {ACCOUNTS} payments, and as many sockets")
    return options


def _titles(options: argparse.Namespace) -> list[str]:
    return [
        "Nothing to do: CPU ms a second",
        f"A waiting socket: CPU µs a second, {options.sockets:,} wait",
        f"An activation, told by another process: CPU µs, {options.payments:,} pay, {AT_ONCE} at once",
        f"A spend: CPU µs, {options.spends:,} over {ACCOUNTS} accounts, {AT_ONCE} at once",
    ]


def _stage(rig: Rig, options: argparse.Namespace, number: int, first: int) -> list[Costs]:
    """What each figure costs with so many processes. The sockets wait for the invoices from `first` on."""
    with ExitStack() as stack:
        servers = [stack.enter_context(rigs.product(rig)) for _ in range(number)]
        paid = list(chain(*_paying(first, options.sockets, options.payments, number)))[:ACCOUNTS]
        _warm(rig, servers)
        meter = Meter(rig, servers)
        idle = _over(meter, lambda: time.sleep(options.seconds))
        with _waiting(rig, servers, first, options.sockets) as boards:
            time.sleep(rigs.SETTLED_S)
            waiting = _over(meter, lambda: time.sleep(options.seconds))
            activating = _over(meter, lambda: _activate(rig, servers, boards, first, options.payments))
        asyncio.run(_spend(servers, paid, WARM_SPENDS * number))
        spending = _over(meter, lambda: asyncio.run(_spend(servers, paid, options.spends)))
        connections = meter.connections()
    found = [
        _each(idle, idle["s"], unit=1e3),
        _each(waiting, waiting["s"] * options.sockets),
        _each(_beyond(activating, waiting), options.payments),
        _each(_beyond(spending, idle), options.spends),
    ]
    found[-1]["connections"] = connections
    return found


def _warm(rig: Rig, servers: list[Server]) -> None:
    """So that lazy imports and caches are loaded."""
    with _waiting(rig, servers, len(rig.handshakes) - WARM * len(servers), WARM * len(servers)):
        pass
    time.sleep(2.0)  # until their channels are unsubscribed


@contextmanager
def _waiting(rig: Rig, servers: list[Server], first: int, count: int) -> Iterator[list[Board]]:
    """Sockets that wait, as many at each process; those of a process have numbers that follow each other."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(load_clients(rig, server, len(part), part.start, samples=len(part)))
            for server, part in zip(servers, _parts(first, count, len(servers)), strict=True)
        ]


def _parts(first: int, count: int, parts: int) -> list[range]:
    ends = [first + count * part // parts for part in range(parts + 1)]
    return [range(*ends[part : part + 2]) for part in range(parts)]


# What is done


def _paying(first: int, sockets: int, payments: int, parts: int) -> list[range]:
    """Of those who wait at each process, the first ones."""
    shares = [len(part) for part in _parts(0, payments, parts)]
    return [part[:share] for part, share in zip(_parts(first, sockets, parts), shares, strict=True)]


def _activate(rig: Rig, servers: list[Server], boards: list[Board], first: int, payments: int) -> None:
    """Some of those who wait at each process pay; the next process gets the webhooks. All are told."""
    paying = _paying(first, sum(len(board.last) for board in boards), payments, len(servers))
    for board, numbers in zip(boards, paying, strict=True):
        board.counters.timing = BY_CHANGE
        rig.stripe.states[numbers.start : numbers.stop] = [PAID] * len(numbers)

    async def deliver() -> None:
        next_ones = [*servers[1:], servers[0]]
        bodies = [[[rig.stripe.paid_event(number).decode()] for number in part] for part in paying]
        at_once = max(1, AT_ONCE // len(servers))
        await asyncio.gather(
            *(seconds_of(to.port, each, at_once) for to, each in zip(next_ones, bodies, strict=True))
        )

    def told() -> int:
        return sum(board.counters.told for board in boards)

    asyncio.run(deliver())
    rigs.until(lambda: told() >= payments, TOLD_WITHIN_S, lambda: f"{told()} of {payments} told")


async def _spend(servers: list[Server], paid: list[int], spends: int) -> None:
    """By these accounts, whose payment came just before, each spend at the next process."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        running = [Paidup(f"http://127.0.0.1:{server.port}", http) for server in servers]
        customers = [
            running[number % len(running)].customer(f"user-{paid[number % ACCOUNTS]}")
            for number in range(ACCOUNTS * len(running))
        ]
        await rate_of(by_http(customers, "")["HTTP, spend, "], spends, AT_ONCE)


# What it costs


class Meter:
    def __init__(self, rig: Rig, servers: list[Server]) -> None:
        self._rig = rig
        self._pids = {
            "servers": [server.pid for server in servers],
            "postgresql": [rig.postgres_pid],
            "valkey": [int(rig.ask_valkey("server", "process_id"))],
        }

    def cpu(self) -> Costs:
        return {part: sum(map(cpu_s, pids)) for part, pids in self._pids.items()}

    def counts(self) -> Costs:
        """Asking costs CPU time of its own, so it is done outside of what is measured."""
        return {
            "transactions": float(self._rig.ask_postgres("SELECT pg_snapshot_xmax(pg_current_snapshot())")),
            "commands": float(self._rig.ask_valkey("stats", "total_commands_processed")),
        }

    def connections(self) -> float:
        return float(self._rig.ask_postgres("SELECT count(*) FROM pg_stat_activity WHERE datname = 'line'"))


def _over(meter: Meter, act: Callable[[], None]) -> Costs:
    """What was spent while this was done; `s` is how long it took."""
    counts, cpu, began = meter.counts(), meter.cpu(), time.monotonic()
    act()
    took, cpu_now = time.monotonic() - began, meter.cpu()
    before, after = cpu | counts, cpu_now | meter.counts()
    return {name: after[name] - before[name] for name in after} | {"s": took}


def _beyond(costs: Costs, background: Costs) -> Costs:
    """Less what is spent anyway in that time."""
    share = costs["s"] / background["s"]
    return {name: each - share * background[name] for name, each in costs.items()}


def _each(costs: Costs, number: float, unit: float = 1e6) -> Costs:
    """CPU time in µs for each of so many, and counts."""
    cpu = {part: costs[part] * unit / number for part in ("servers", "postgresql", "valkey")}
    counts = {name: costs[name] / number for name in ("transactions", "commands")}
    return {"all": sum(cpu.values()), **cpu, **counts}


if __name__ == "__main__":
    main()
