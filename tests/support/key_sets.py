"""An identity provider that publishes its keys, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from tests.support.processes import free_port


@asynccontextmanager
async def published(key: Mapping[str, str]) -> AsyncIterator[str]:
    """The address of a key set (RFC 7517) with one key."""

    async def keys(_: web.Request) -> web.Response:
        return web.json_response({"keys": [dict(key)]})

    application = web.Application()
    application.router.add_get("/keys", keys)
    runner = web.AppRunner(application)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}/keys"
    await runner.cleanup()
