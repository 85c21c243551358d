"""Fixtures of the sandbox's tests. One sandbox serves all of them; each test starts with an empty one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from .rig import SECRET, Receiver, Sandbox, Server, settings


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[Server]:
    """The one running sandbox."""
    server = Server(settings()).start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def sandbox_bare(sandbox_server: Server) -> AsyncIterator[Sandbox]:
    """An empty sandbox without webhook endpoints."""
    sandbox = Sandbox(sandbox_server.url)
    await sandbox.control("/reset")
    yield sandbox
    await sandbox.close()


@pytest_asyncio.fixture
async def sandbox_receiver() -> AsyncIterator[Receiver]:
    """A webhook endpoint that records what it receives."""
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


@pytest_asyncio.fixture
async def sandbox_hooked(sandbox_bare: Sandbox, sandbox_receiver: Receiver) -> Sandbox:
    """An empty sandbox that sends its webhooks to `sandbox_receiver`."""
    await sandbox_bare.control("/webhook_endpoints", {"url": sandbox_receiver.url, "secret": SECRET})
    return sandbox_bare
