"""Measure WebSockets against their floors: `python -m tests.bench.sockets`.

Every round measures the floors and then the product. The printed figures are medians, and medians of
each round's ratios. PostgreSQL, Valkey, the load and a Stripe stub run on the same machine, each in its
own process; all traffic is on loopback. The product runs with its default settings, except for the limit
on sockets.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from tests.bench import rig as rigs
from tests.bench.clients import BY_STAMP, NO_TIMING, Board, Job, publish_all, publish_paced
from tests.bench.goals import finish
from tests.bench.pictures import draw
from tests.bench.report import Figure, arguments, console, machine, percentile
from tests.bench.rig import Rig, Server, load_clients
from tests.bench.waits import measure_load, measure_waiting

RAW, BARE, PRODUCT = "raw Redis subscriber", "bare uvicorn and starlette", "Paidup"
RELAY = "uvloop, hiredis and a frame"
HANDSHAKE = "uvloop, httptools and a 101"
WARM = 50
"""Sockets opened and closed before a server is measured, so that lazy imports and caches are loaded."""

Figures = dict[str, Figure]


def main() -> None:
    measures: dict[str, Callable[[Rig, argparse.Namespace], Figures]] = {
        "latency": _measure_messages,
        "throughput": _measure_messages,
        "memory": _measure_connecting,
        "connects": _measure_connecting,
        "cpu": measure_waiting,
        "load": measure_load,
    }
    options = _options(list(measures))
    figures: Figures = {}
    load = os.getloadavg()[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # run the cleanup of every context manager
    customers = max(options.sockets, options.connections, options.load if "load" in options.only else 0)
    with rigs.a_rig(customers + WARM, dict(options.set)) as rig:
        wanted = [measure for name, measure in measures.items() if name in options.only]
        for measure in dict.fromkeys(wanted):
            try:
                measured = measure(rig, options)
            except (TimeoutError, AssertionError) as error:
                console.print(f"{measure.__name__}: {error}\n", markup=False)
                continue
            for name in (each for each in measured if each in options.only):
                figures[name] = measured[name]
                figures[name].show()
        where = machine(rig.postgres_version, rig.valkey_version)
    where += f"; load before it began {load:.1f}"
    console.print(where, highlight=False)
    if options.pictures:
        draw({name: figure.as_json() for name, figure in figures.items()}, options.pictures)
    finish(options, "sockets", figures, where)


def _options(names: list[str]) -> argparse.Namespace:
    parser = arguments("sockets", __doc__)
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, help=",".join(names))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    parser.add_argument("--sockets", type=int, default=2_000, help="sockets that receive messages")
    parser.add_argument("--rate", type=int, default=500, help="messages a second, for the latency")
    parser.add_argument("--connections", type=int, default=5_000, help="sockets that connect at once")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds over which CPU time is measured")
    parser.add_argument(
        "--verified",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="in the last round, measure that again once each was verified: 5,000 take five minutes",
    )
    parser.add_argument("--pollers", type=int, default=100, help="clients that poll")
    parser.add_argument("--load", type=int, default=10_000, help="sockets that wait during the load test")
    parser.add_argument("--activations", type=int, default=100, help="payments a second under load")
    parser.add_argument("--load-seconds", type=float, default=60.0)
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override one of the product's settings",
    )
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the distributions")
    options = parser.parse_args()
    if unknown := set(options.only) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return options


def _setting(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.lower(), value


# Publish to socket


def _measure_messages(rig: Rig, options: argparse.Namespace) -> Figures:
    """Figures 1 and 2: latency and throughput of statuses."""
    count, samples = options.sockets, int(options.rate * (options.seconds + 1))
    latency = Figure(f"1. Publish to receive, ms: {count:,} listeners, {options.rate} messages/s")
    throughput = Figure(f"2. Statuses a second, each of {count:,} listeners with one under way")
    listeners: dict[str, Callable[[], AbstractContextManager[tuple[Server, Board]]]] = {
        RAW: lambda: rigs.raw_subscriber(rig, count, samples),
        RELAY: lambda: _warm_clients(rig, rigs.relay(rig), count, samples),
        BARE: lambda: _warm_clients(rig, rigs.bare(rig), count, samples),
        PRODUCT: lambda: _warm_clients(rig, rigs.product(rig), count, samples),
    }
    for _ in range(options.rounds):
        for who, listening in listeners.items():
            with listening() as (server, board):
                if "latency" in options.only:
                    _measure_latency(rig, options, board, latency, who)
                if "throughput" in options.only:
                    _measure_throughput(rig, options, server, board, throughput, who)
    return {"latency": latency, "throughput": throughput}


@contextmanager
def _warm_clients(
    rig: Rig, serving: AbstractContextManager[Server], count: int, samples: int
) -> Iterator[tuple[Server, Board]]:
    with serving as server:
        _warm(rig, server)
        with load_clients(rig, server, count, samples=samples) as board:
            time.sleep(rigs.SETTLED_S)
            yield server, board


def _measure_latency(rig: Rig, options: argparse.Namespace, board: Board, figure: Figure, who: str) -> None:
    """The first second is warm-up and is not counted."""
    messages = rig.messages[: options.sockets]
    seconds = options.seconds + 1
    board.counters.timing = BY_STAMP
    job = Job(publish_paced, rig.redis, messages, board, options.rate, seconds)
    lost = job.result(seconds + 20)
    board.counters.timing = NO_TIMING
    taken = board.taken(skip=options.rate)
    figure.add(who, p50=percentile(taken, 0.5), p99=percentile(taken, 0.99), worst=max(taken), lost=lost)
    figure.samples.setdefault(who, []).extend(taken)


def _measure_throughput(
    rig: Rig, options: argparse.Namespace, server: Server, board: Board, figure: Figure, who: str
) -> None:
    counters, messages = board.counters, rig.messages[: options.sockets]
    cpu_s, received = server.cpu_s, counters.received
    rate, lost = Job(publish_all, rig.redis, messages, board, options.seconds).result(options.seconds + 20)
    cpu_us = (server.cpu_s - cpu_s) * 1e6 / max(1, counters.received - received)
    figure.add(who, a_second=rate, cpu_us_each=cpu_us, lost=lost, twice=counters.twice)


# Connecting


def _measure_connecting(rig: Rig, options: argparse.Namespace) -> Figures:
    """Figures 3 and 4: memory of a waiting socket, and connects per second."""
    count = options.connections
    memory = Figure(f"3. Bytes a waiting socket: memory of the server process alone, {count:,} sockets")
    connects = Figure(f"4. {count:,} sockets that connect at once, each until its snapshot")
    serving = {HANDSHAKE: rigs.handshakes, BARE: rigs.bare, PRODUCT: rigs.product}
    for _ in range(options.rounds):
        for who, opened in serving.items():
            with opened(rig) as server:
                _warm(rig, server)
                before, cpu_before = server.bytes_used, server.cpu_s
                with load_clients(rig, server, count, wait=False) as board:
                    _until_all_or_enough(board, count)
                    came = board.counters.opened
                    took_s = (board.counters.last_ns - board.counters.first_ns) / 1e9
                    cpu_ms = (server.cpu_s - cpu_before) * 1000
                    time.sleep(rigs.SETTLED_S)
                    memory.add(who, bytes_a_socket=(server.bytes_used - before) / came)
                first_ns = board.counters.first_ns
                connects.samples[who] = [(at - first_ns) / 1e9 for at in board.arrived_ns if at]
                connects.add(who, a_second=came / took_s, cpu_ms_each=cpu_ms / came, came=came)
    return {"memory": memory, "connects": connects}


def _until_all_or_enough(board: Board, count: int) -> None:
    with suppress(TimeoutError):  # the figure then reports how many connected
        rigs.until(lambda: rigs.opened(board, count), rigs.ARRIVED_WITHIN_S)


def _warm(rig: Rig, server: Server) -> None:
    with load_clients(rig, server, WARM, first=len(rig.handshakes) - WARM):
        pass
    time.sleep(2.0)  # until their channels are unsubscribed


if __name__ == "__main__":
    main()
