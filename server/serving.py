"""Runs the web application under uvicorn, as docs/decisions.md found it best.

Owns uvicorn's settings, the drain at SIGTERM, and the one embedded Valkey that all workers of
`paidup serve` share.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from server.app import create_app
from server.core.messages import MAX_FRAME
from server.embedded import embedded_valkey
from server.logs import configure_logging
from server.settings import ENV_FILE, Settings, load_settings

UVICORN: dict[str, Any] = {
    "loop": "uvloop",
    "http": "httptools",
    "ws_per_message_deflate": False,  # 37 KiB a socket, and half the throughput
    "ws_max_size": MAX_FRAME,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "timeout_graceful_shutdown": 10,
    "timeout_worker_healthcheck": 10,  # a worker that still imports on a busy host is not hung; 5 s kills it
    "access_log": False,
    "log_config": None,
    "server_header": False,
    "lifespan": "on",
}


_WEBSOCKETS = {"slim": "server.web.slim:SlimProtocol", "uvicorn": "websockets-sansio"}


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """What to run uvicorn with, beside the application and its address."""
    return {**UVICORN, "ws": _WEBSOCKETS[settings.websocket_protocol]}


def application() -> Starlette:
    """The application of one worker, from the environment. uvicorn calls it in each process."""
    settings = load_settings(env_file=ENV_FILE)
    configure_logging(settings.log_level, settings.log_format)
    return drained_at_sigterm(create_app(settings))


def drained_at_sigterm(app: Starlette) -> Starlette:
    """The same application, whose sockets are sent away before SIGTERM reaches uvicorn.

    uvicorn has no hook for it: it cuts every connection first and tells the application
    afterwards. So its handler of the signal is called only once the sockets are gone. A second
    SIGTERM goes straight to it.
    """
    opened = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(opening: Starlette) -> AsyncIterator[Any]:
        async with opened(opening) as state:
            with _before_sigterm(opening.state.sockets.drain):
                yield state

    app.router.lifespan_context = lifespan
    return app


@contextmanager
def _before_sigterm(prepare: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    own: Any = signal.getsignal(signal.SIGTERM)
    under_way: list[asyncio.Task[None]] = []

    def stop(_: object = None) -> None:
        own(signal.SIGTERM, None)

    def begin() -> None:
        if under_way:
            stop()
            return
        under_way.append(asyncio.create_task(prepare(), name="drain"))
        under_way[0].add_done_callback(stop)

    def on_sigterm(_: int, __: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)

    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, own)


def serve(settings: Settings, workers: int, factory: str = "server.serving:application") -> None:
    """Serve until SIGINT or SIGTERM. Blocks."""
    # Once it has shut down, uvicorn raises the signal again; by default that would leave the Valkey behind.
    signal.signal(signal.SIGTERM, _exit)
    with _one_redis(settings) as redis_url:
        os.environ["REDIS_URL"] = redis_url
        os.environ["WEB_CONCURRENCY"] = str(workers)
        uvicorn.run(
            factory,
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=workers,
            **uvicorn_options(settings),
        )


def _exit(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


@contextmanager
def _one_redis(settings: Settings) -> Iterator[str]:
    if settings.redis_url:
        yield settings.redis_url
        return
    with embedded_valkey(settings.data_dir) as url:
        yield url
