"""How long others wait during an attack: `python -m tests.bench.floods`.

One server process (`paidup serve`, on SQLite) is attacked by another process as fast as loopback takes it,
again and again for some seconds. Meanwhile another asks `/healthz` all the time; what is printed is
how long it waited, and what an attack cost the server, with the answers that it gave meanwhile.
The attacks are those of tests/security.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from rich.console import Console
from rich.table import Table

from paidup.db.connection import migrate
from paidup.realtime.tickets import Tickets
from tests.bench.report import percentile
from tests.bench.rig import Server
from tests.security.test_floods import CHUNK, FLOODS, HTTP_FLOODS, flood
from tests.support.paidup import DEFAULTS, environment, serving_process
from tests.support.processes import free_port
from tests.support.socket_load import handshake

console = Console(width=110)
HTTP_BYTES = 64_000_000


@dataclass(frozen=True)
class Attack:
    """What is sent on each of so many connections at once."""

    name: str
    make: Callable[[], tuple[bytes, bytes]]
    """What comes first, and what follows."""
    connections: int = 1


def attacks() -> Iterator[Attack]:
    yield Attack("none", lambda: (b"", b""), 0)
    for kind in FLOODS:
        yield Attack(f"socket: {kind}, 14 MB", partial(_on_a_socket, kind))
    yield Attack("50 sockets: empty pongs, 14 MB each", partial(_on_a_socket, "empty pongs"), 50)
    for kind in HTTP_FLOODS:
        yield Attack(f"HTTP: {kind}, 64 MB", partial(_before_a_socket, kind))


def _on_a_socket(kind: str) -> tuple[bytes, bytes]:
    ticket = Tickets(DEFAULTS["secret_key"], 3600).issue("in_1", 1)
    return handshake("in_1", ticket), flood(kind)


def _before_a_socket(kind: str) -> tuple[bytes, bytes]:
    first, repeated, _ = HTTP_FLOODS[kind]
    return b"", first + repeated * (HTTP_BYTES // len(repeated))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.floods", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack")
    parser.add_argument("--protocol", choices=("lightweight", "uvicorn"), default="lightweight")
    options = parser.parse_args()
    titles = (
        "attack",
        "attacks",
        "CPU ms each, at most",
        "/healthz: asked",
        "p50, ms",
        "p99, ms",
        "longest, ms",
    )
    table = Table(*titles)
    for attack in attacks():
        with _server(options.protocol) as server:
            cpu_s = server.cpu_s
            made, waits = _attacked(server.port, attack, options.seconds)
            cpu_ms = 1000 * (server.cpu_s - cpu_s)
        figures = (percentile(waits, 0.5), percentile(waits, 0.99), max(waits))
        each = f"{cpu_ms / made:.1f}" if made else ""
        table.add_row(
            attack.name, str(made), each, str(len(waits)), *(f"{1000 * wait:.1f}" for wait in figures)
        )
    console.print(table)


@contextmanager
def _server(protocol: str) -> Iterator[Server]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = f"sqlite://{folder / 'paidup.db'}"
        asyncio.run(migrate(database))
        port = free_port()
        env = environment(
            database_url=database,
            data_dir=folder,
            websocket_protocol=protocol,
            max_sockets_per_invoice=200,
            max_sockets_per_account=200,
        )
        child = serving_process(env, port, folder / "server.log")
        stack.callback(child.stop)
        yield Server(port, child.process.pid)


def _attacked(port: int, attack: Attack, seconds: float) -> tuple[int, list[float]]:
    """How many attacks there were, and how long each question waited meanwhile."""
    context = multiprocessing.get_context("fork")
    made = context.Value("i", 0)
    attacker = context.Process(target=_attack, args=(port, attack, made), daemon=True)
    attacker.start()
    waits, began = [], time.monotonic()
    while time.monotonic() - began < seconds:
        asked = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as response:
            response.read()
        waits.append(time.perf_counter() - asked)
    attacker.kill()
    attacker.join()
    return int(made.value), waits


def _attack(port: int, attack: Attack, made: Synchronized[int]) -> None:
    asyncio.run(_attack_again_and_again(port, attack, made))


async def _attack_again_and_again(port: int, attack: Attack, made: Synchronized[int]) -> None:
    first, rest = attack.make()

    async def one() -> None:
        while True:
            await _send(port, first, rest)
            made.value += 1

    await asyncio.gather(*(one() for _ in range(attack.connections)))


async def _send(port: int, first: bytes, rest: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as client, suppress(ConnectionError):
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", port))
        if first:
            await loop.sock_sendall(client, first)
            answer = await loop.sock_recv(client, CHUNK)
            assert answer.startswith(b"HTTP/1.1 101"), answer
        view = memoryview(rest)
        for at in range(0, len(view), CHUNK):
            await loop.sock_sendall(client, view[at : at + CHUNK])


if __name__ == "__main__":
    main()
