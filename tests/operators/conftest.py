"""Fixtures and steps: the commands as processes, and payments in every state that an operator may meet."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.database import open_database
from server.services import Services, open_services
from tests.conftest import World
from tests.support.paidup import environment, settings
from tests.support.processes import Child

Run = Callable[..., Awaitable[tuple[int, str]]]

OPERATOR_TOKEN = "token-of-the-operators"


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty working folder with a short name: no .env, no data."""
    folder = Path(tempfile.mkdtemp(prefix="po-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def run(world: World, home: Path) -> Run:
    """Runs `paidup` with these arguments in this world; the exit code and all words."""

    async def run(*arguments: str, **changes: Any) -> tuple[int, str]:
        log = home / "words.log"
        log.unlink(missing_ok=True)
        variables = environment(**world.given(**changes))
        child = Child(["-m", "server.cli", *arguments], variables, log, cwd=home)
        try:
            return await asyncio.to_thread(child.process.wait, 60), child.output
        finally:
            child.stop()

    return run


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[None]:
    """An open, empty database."""
    async with open_database(database_url):
        yield


@pytest.fixture
async def services(world: World) -> AsyncIterator[Services]:
    """All services of a server, with nothing listening in front of them."""
    async with open_services(settings(**world.given())) as opened:
        yield opened


def document(words: str) -> Any:
    """The JSON document that a command printed, whatever was logged around it."""
    return json.loads(words[words.index("{") : words.rindex("}") + 1])
