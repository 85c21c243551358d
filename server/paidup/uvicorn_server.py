"""Runs the web application under uvicorn, as docs/decisions.md found it best.

Owns uvicorn's settings, what a process of its own may set for itself, and the one embedded Valkey
that all workers of `paidup serve` share.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette

from paidup.app import create_app
from paidup.domain.messages import MAX_FRAME
from paidup.embedded_valkey import embedded_valkey
from paidup.graceful_shutdown import before_sigterm
from paidup.logs import configure_logging
from paidup.settings import ENV_FILE, Settings, load_settings

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

MAX_HTTP_CONNECTIONS = 1000
"""Open connections of one process, beside its WebSockets."""

GC_THRESHOLDS = (50_000, 20, 50)
"""Sockets make many long-lived objects; the default thresholds collect all the time (docs/decisions.md)."""

_WEBSOCKETS = {
    "lightweight": "paidup.web.websocket.lightweight_protocol:LightweightProtocol",
    "uvicorn": "paidup.web.websocket.frame_limits:LimitedWebSocketProtocol",
}


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """What to run uvicorn with, beside the application and its address."""
    return {
        **UVICORN,
        "http": "paidup.web.http_limits:LimitedHttpProtocol",
        "limit_concurrency": settings.max_sockets + MAX_HTTP_CONNECTIONS,
        "ws": _WEBSOCKETS[settings.websocket_protocol],
        "forwarded_allow_ips": settings.proxies,
    }


def application() -> Starlette:
    """The application of one worker, from the environment. uvicorn calls it in each process."""
    settings = load_settings(env_file=ENV_FILE)
    configure_logging(settings.log_level, settings.log_format)
    return drain_on_sigterm(create_app(settings))


def drain_on_sigterm(app: Starlette) -> Starlette:
    """The same application as a process of its own has it: its sockets are sent away before SIGTERM
    reaches uvicorn, and the garbage collector is tuned for them.
    """
    opened = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(opening: Starlette) -> AsyncIterator[Any]:
        async with opened(opening) as state:
            with before_sigterm(opening.state.sockets.drain):
                tune_collector()
                yield state

    app.router.lifespan_context = lifespan
    return app


def tune_collector() -> None:
    """What start-up made stays: keep the garbage collector from walking it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def serve(settings: Settings, workers: int, factory: str = "paidup.uvicorn_server:application") -> None:
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
