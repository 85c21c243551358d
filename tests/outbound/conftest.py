"""Fixtures of the outbound events: a database, a receiver, and a dispatcher that sends to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from paidup.db.connection import open_database
from paidup.outbound.dispatcher import Dispatcher
from paidup.outbound.sender import Sender
from paidup.runtime.metrics import Metrics
from tests.support.receivers import Receiver, receiving


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[None]:
    async with open_database(database_url):
        yield


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


@pytest.fixture
async def dispatcher(database: None) -> AsyncIterator[Dispatcher]:
    """One that may send to this machine, and waits at most a second for an answer."""
    opened = Dispatcher(Sender(private_addresses=True, timeout_s=1.0), Metrics())
    await opened.open()
    yield opened
    await opened.close()
