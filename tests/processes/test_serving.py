"""`paidup serve` and the Procfile: several processes of one deployment."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tortoise.backends.base.executor import EXECUTOR_CACHE

from paidup.db.connection import connection, migrate, open_database
from paidup.db.migrations import migrations_of_this_release
from paidup.db.models import Invoice
from paidup.runtime.clock import now
from tests.structure.test_deploying import dockerfile
from tests.support.paidup import WEBHOOK_SECRET, Customer, Paidup, environment, status_with
from tests.support.postgres import Databases
from tests.support.processes import ROOT, Child, alive, descendants, free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

ENOUGH_TRIES = 60


class Host:
    """One host of a deployment: a directory, a port and a minimal environment."""

    def __init__(self, home: Path, stripe_side: StripeSide, http: aiohttp.ClientSession) -> None:
        self.home = home
        self.port = free_port()
        self.stripe_side = stripe_side
        self.paidup = Paidup(f"http://127.0.0.1:{self.port}", http)
        self.database_url = f"sqlite://{home / '.paidup' / 'paidup.db'}"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        self.environment = environment(
            stripe_api_base=stripe_side.url,
            port=self.port,
            reconciler_interval_s=0.2,
            max_sockets_per_invoice=200,
            max_sockets_per_address=200,
            max_sockets_per_account=200,
        ) | {"PATH": path}

    def start(self, *arguments: str) -> Child:
        return Child(arguments, self.environment, self.home / "output.log", cwd=self.home)

    @asynccontextmanager
    async def running(self, *arguments: str) -> AsyncIterator[Child]:
        child = self.start(*arguments)
        try:
            await asyncio.to_thread(child.wait_for, f"{self.paidup.url}/readyz")
            yield child
        finally:
            await asyncio.to_thread(child.stop)

    async def receive_webhooks(self) -> None:
        url = f"{self.paidup.url}/webhooks/stripe"
        await self.stripe_side.control("webhook_endpoints", {"url": url, "secret": WEBHOOK_SECRET})


@pytest.fixture
async def host(home: Path, stripe_side: StripeSide, http: aiohttp.ClientSession) -> Host:
    return Host(home, stripe_side, http)


async def sockets_of_one_worker(url: str) -> int:
    """Return the number of open WebSockets of whichever worker answers."""
    async with aiohttp.ClientSession() as fresh, fresh.get(f"{url}/metrics") as response:
        found = re.search(
            r'^paidup_sockets\{kind="invoice",transport="websocket"\} (\S+)$',
            await response.text(),
            re.MULTILINE,
        )
    assert found is not None
    return int(float(found[1]))


async def watch_from_both_workers(stack: AsyncExitStack, ada: Customer, purchase: Any) -> list[Any]:
    """Open WebSockets on the purchase until each of the two workers has one."""
    opened = [await stack.enter_async_context(ada.watch(purchase))]

    async def both_answer() -> bool:
        # Opened concurrently, so that both workers accept some once the second is up.
        answers = await asyncio.gather(*(sockets_of_one_worker(ada.paidup.url) for _ in range(8)))
        return set(answers) == {0, 1}

    await wait_until(both_answer, within=60)
    for _ in range(ENOUGH_TRIES):
        opened.append(await stack.enter_async_context(ada.watch(purchase)))
        if 0 < await sockets_of_one_worker(ada.paidup.url) < len(opened):
            return opened
    raise AssertionError("one worker answered all of it")


async def test_two_workers_notify_each_other_without_configuration(host: Host) -> None:
    """WebSockets are on both workers and the webhook goes to one: all are notified through one Valkey."""
    await migrate(host.database_url)
    async with (
        host.running("-m", "paidup.cli", "serve", "--workers", "2") as child,
        AsyncExitStack() as stack,
    ):
        ada = host.paidup.customer()
        await host.receive_webhooks()
        purchase = await ada.buy("pro")
        await host.stripe_side.conditions(api_down=True)  # no verification: only the webhook settles
        screens = await watch_from_both_workers(stack, ada, purchase)
        await host.stripe_side.confirm(purchase["client_secret"])
        told = await asyncio.gather(*(status_with(screen, status="active") for screen in screens))
        assert {(status["via"], status["balance"]) for status in told} == {("webhook", 2000)}
        started = descendants(child.process.pid)
        assert sum("valkey-server" in command for command in started.values()) == 1
    assert child.process.returncode == 0
    await wait_until(lambda: not [started[pid] for pid in started if alive(pid)])


@pytest.fixture
def empty_postgres(databases: Databases) -> Iterator[str]:
    databases.server.psql("CREATE DATABASE procfile")
    yield databases.server.get_uri(database="procfile")
    databases.server.psql("DROP DATABASE procfile WITH (FORCE)")


async def test_the_processes_of_the_procfile_run_together(
    host: Host, empty_postgres: str, valkey: str
) -> None:
    """Release, web and worker on PostgreSQL and Valkey: a watched payment is notified at once, a payment
    without a browser and a webhook is settled all the same, and SIGTERM stops all processes.
    """
    shutil.copy(ROOT / "Procfile", host.home)
    host.environment |= {"DATABASE_URL": empty_postgres, "REDIS_URL": valkey}
    release = host.start("-m", "honcho", "start", "release")
    assert await asyncio.to_thread(release.process.wait, 30) == 0
    async with host.running(*["-m", "honcho", "start", "-p", str(host.port), "web", "worker"]) as child:
        await asyncio.to_thread(_healthy, host)
        ada, bob = host.paidup.customer("ada"), host.paidup.customer("bob")
        purchase = await ada.buy("pro")
        async with ada.watch(purchase) as screen:
            await host.stripe_side.confirm(purchase["client_secret"])
            assert (await status_with(screen, status="active"))["balance"] == 2000
        purchase = await bob.buy("pro")
        await host.stripe_side.confirm(purchase["client_secret"])
        EXECUTOR_CACHE.clear()
        async with open_database(empty_postgres):
            await Invoice.filter(id=purchase["invoice"]).update(next_check_at=now() - timedelta(seconds=1))
        await wait_until(bob.balance)
        _, status = await bob.call("GET", f"/api/invoices/{purchase['invoice']}")
        assert (status["via"], status["balance"]) == ("reconciliation", 2000)
        started = descendants(child.process.pid)
        assert [role for role in ("paidup serve", "paidup work") if role not in str(started)] == []
        assert "valkey" not in str(started)
    await wait_until(lambda: not [started[pid] for pid in started if alive(pid)])
    assert "Traceback" not in child.output


def _healthy(host: Host) -> None:
    """Run the image's HEALTHCHECK, with and without a server."""
    (health,) = (line for name, line in dockerfile() if name == "HEALTHCHECK")
    command = [sys.executable, *json.loads(health.partition("CMD ")[2])[1:]]
    for port, healthy in ((host.port, True), (free_port(), False)):
        done = subprocess.run(command, check=False, capture_output=True, env={"PORT": str(port)}, timeout=20)
        assert (done.returncode == 0) is healthy, done.stderr


async def test_workers_of_a_killed_server_end_with_their_valkey(host: Host) -> None:
    """They would keep the port, so that no new server could start, and had no Redis any more."""
    await migrate(host.database_url)
    async with host.running("-m", "paidup.cli", "serve", "--workers", "2") as child:
        started = descendants(child.process.pid)
        workers = {pid for pid, command in started.items() if "spawn_main" in command}
        lock = host.home / ".paidup" / "valkey" / "users.lock"
        await wait_until(lambda: workers <= holders(lock), within=30)
        ada = host.paidup.customer()
        async with ada.watch(await ada.buy("pro")) as screen:
            child.kill()
            while (message := await screen.receive(timeout=30)).type is aiohttp.WSMsgType.TEXT:
                last = json.loads(message.data)
            assert (last["type"], screen.close_code) == ("bye", 1012)
        await wait_until(lambda: not [started[pid] for pid in started if alive(pid)], within=40)
    async with host.running("-m", "paidup.cli", "serve"):
        assert await ada.balance() == 0


def holders(lock: Path) -> set[int]:
    """The processes that hold a lock on this file, as the kernel lists them."""
    inode = lock.stat().st_ino
    listed = (line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line)
    return {int(fields[4]) for fields in listed if fields[5].endswith(f":{inode}")}


async def test_two_servers_that_migrate_start_both(host: Host, empty_postgres: str) -> None:
    """`serve --migrate` at the same time: one does it, the other waits, on either database."""
    for address in (host.database_url, empty_postgres):
        EXECUTOR_CACHE.clear()
        host.environment["DATABASE_URL"] = address
        ports = [free_port(), free_port()]
        servers = []
        for port in ports:
            variables = {**host.environment, "PORT": str(port)}
            arguments = ["-m", "paidup.cli", "serve", "--migrate"]
            servers.append(Child(arguments, variables, host.home / f"{port}.log", host.home, forked=True))
        try:
            for port, server in zip(ports, servers, strict=True):
                await asyncio.to_thread(server.wait_for, f"http://127.0.0.1:{port}/readyz")
        finally:
            for server in servers:
                await asyncio.to_thread(server.stop)
        assert [server.process.returncode for server in servers] == [0, 0]
        async with open_database(address, pool=1):
            query = "SELECT name FROM tortoise_migrations WHERE app = 'paidup'"
            names = [row["name"] for row in await connection().execute_query_dict(query)]
        assert sorted(names) == sorted(migrations_of_this_release()), "each exactly once"


async def test_a_worker_process_that_is_killed_is_replaced(host: Host) -> None:
    await migrate(host.database_url)
    async with host.running("-m", "paidup.cli", "serve", "--workers", "2") as child:
        workers = [pid for pid, command in descendants(child.process.pid).items() if "spawn_main" in command]
        assert len(workers) == 2
        os.kill(workers[0], 9)
        await wait_until(lambda: not alive(workers[0]))

        def replaced() -> bool:
            now_there = [
                pid for pid, command in descendants(child.process.pid).items() if "spawn_main" in command
            ]
            return len(now_there) == 2 and workers[0] not in now_there

        await wait_until(replaced, within=40)
        ada = host.paidup.customer()
        assert await ada.balance() == 0
