"""Fixtures: what stands between Paidup and its database."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from tortoise.backends.base.executor import EXECUTOR_CACHE

from tests.support.postgres import Databases
from tests.support.postgres_process import Pgbouncer
from tests.support.waiting import wait_until


@pytest.fixture
def database(databases: Databases) -> Iterator[str]:
    """The name of a migrated, empty database in PostgreSQL, whose own defaults a test may set."""
    name = databases.take()
    yield name
    databases.server.psql(f"SET default_transaction_read_only = off; ALTER DATABASE {name} RESET ALL")
    databases.give_back(name)


@pytest.fixture
def database_url(databases: Databases, database: str) -> str:
    """The tests of this folder run on PostgreSQL only."""
    EXECUTOR_CACHE.clear()  # Tortoise keeps a dialect's SQL by connection name; only tests change dialects
    return str(databases.server.get_uri(database=database))


@pytest.fixture
def pgbouncer(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pgbouncer]:
    """A real pgbouncer in transaction mode, in front of the PostgreSQL of the tests."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if program is None:
        pytest.skip("there is no pgbouncer")
    (socket_folder,) = parse_qs(urlsplit(databases.server.get_uri()).query)["host"]
    pooler = Pgbouncer(program, tmp_path_factory.mktemp("pgbouncer"), f"host={socket_folder} port=5432")
    try:
        asyncio.run(wait_until(lambda: pooler.answers("postgres")))
        yield pooler
    finally:
        pooler.stop()
