"""Runs the web application under uvicorn, as docs/decisions.md found it best.

Owns uvicorn's settings, and the one embedded Valkey that all workers of `paidup serve` share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette

from server.app import create_app
from server.embedded import embedded_valkey
from server.logs import configure_logging
from server.settings import ENV_FILE, Settings, load_settings

UVICORN: dict[str, Any] = {
    "loop": "uvloop",
    "http": "httptools",
    "ws": "websockets-sansio",
    "ws_per_message_deflate": False,  # 37 KiB a socket, and half the throughput
    "ws_max_size": 4096,  # a browser has nothing longer to say than {"type":"verify"}
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "timeout_graceful_shutdown": 10,
    "timeout_worker_healthcheck": 10,  # a worker that still imports on a busy host is not hung; 5 s kills it
    "access_log": False,
    "log_config": None,
    "server_header": False,
    "lifespan": "on",
}


def application() -> Starlette:
    """The application of one worker, from the environment. uvicorn calls it in each process."""
    settings = load_settings(env_file=ENV_FILE)
    configure_logging(settings.log_level, settings.log_format)
    return create_app(settings)


def serve(settings: Settings, workers: int, factory: str = "server.serving:application") -> None:
    """Serve until SIGINT or SIGTERM. Blocks."""
    with _one_redis(settings) as redis_url:
        os.environ["REDIS_URL"] = redis_url
        os.environ["WEB_CONCURRENCY"] = str(workers)
        uvicorn.run(factory, factory=True, host=settings.host, port=settings.port, workers=workers, **UVICORN)


@contextmanager
def _one_redis(settings: Settings) -> Iterator[str]:
    if settings.redis_url:
        yield settings.redis_url
        return
    with embedded_valkey(settings.data_dir) as url:
        yield url
