"""Runs the web application under uvicorn.

Sets uvicorn's options (docs/decisions.md has the measurements), drains at a signal, tunes the garbage
collector, and starts the embedded Valkey that all workers of `paidup serve` share.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

import structlog
import uvicorn
from msgspec.structs import replace
from starlette.applications import Starlette

from paidup import __version__
from paidup.app import create_app
from paidup.domain.messages import MAX_FRAME
from paidup.errors import ConfigurationError
from paidup.graceful_shutdown import before_stopping
from paidup.operations.preflight import check_before_serving
from paidup.runtime.embedded_valkey import embedded_valkey, use_until_exit
from paidup.runtime.logs import configure_logging
from paidup.runtime.parent_process import watched
from paidup.settings import Settings, load_settings

log = structlog.get_logger(__name__)

UVICORN: dict[str, Any] = {
    "loop": "uvloop",
    "http": "httptools",
    "ws_per_message_deflate": False,  # would cost 37 KiB a socket and half the throughput
    "ws_max_size": MAX_FRAME,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "timeout_graceful_shutdown": 10,
    "timeout_worker_healthcheck": 10,  # the default of 5 s kills workers that still import on a busy host
    "access_log": False,
    "log_config": None,
    "server_header": False,
    "lifespan": "on",
}

MAX_HTTP_CONNECTIONS = 1000
"""Open HTTP connections per process, in addition to its WebSockets."""

GC_THRESHOLDS = (50_000, 20, 50)
"""Sockets are many long-lived objects; the default thresholds collect too often (docs/decisions.md)."""

_HTTP = {
    "lightweight": "paidup.web.websocket.first_request:{}FirstRequest",
    "uvicorn": "paidup.web.http_limits:{}HttpProtocol",
}
_WEBSOCKETS = {
    "lightweight": "paidup.web.websocket.lightweight_protocol:LightweightProtocol",
    "uvicorn": "paidup.web.websocket.frame_limits:LimitedWebSocketProtocol",
}


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """The options for uvicorn, except the application and its address."""
    return {
        **UVICORN,
        "http": _HTTP[settings.websocket_protocol].format("Logging" if settings.access_log else "Limited"),
        "limit_concurrency": settings.max_sockets + MAX_HTTP_CONNECTIONS,
        "ws": _WEBSOCKETS[settings.websocket_protocol],
        "forwarded_allow_ips": settings.proxies,
    }


def application() -> Starlette:
    """The application of one worker, configured from the environment. Called by uvicorn.

    Also for `uvicorn --factory paidup.uvicorn_server:application`. A mistake in the settings is one line,
    and exit code 2.
    """
    try:
        settings = load_settings()
        configure_logging(settings.log_level, settings.log_format)
        use_until_exit(settings.data_dir, settings.redis_url)
        return drain_on_signals(create_app(settings))
    except ConfigurationError as error:
        sys.stderr.writelines(f"settings: {problem}\n" for problem in error.problems)
        raise SystemExit(2) from None


def drain_on_signals(app: Starlette) -> Starlette:
    """Configure `app` to own its process: drain sockets before uvicorn handles a signal, tune the GC.

    A worker whose `paidup serve` was killed ends as at SIGTERM: it would keep the port for ever.
    """
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(starting: Starlette) -> AsyncIterator[Any]:
        async with inner(starting) as state:
            with before_stopping(starting.state.sockets.drain), watched(_end_as_orphan):
                tune_collector()
                yield state

    app.router.lifespan_context = lifespan
    return app


def _end_as_orphan() -> None:
    log.warning("parent_process_ended")
    signal.raise_signal(signal.SIGTERM)


def tune_collector() -> None:
    """Exclude the objects made at startup from garbage collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def serve(
    settings: Settings,
    workers: int,
    factory: str = "paidup.uvicorn_server:application",
    migrate_first: bool = False,
) -> None:
    """Serve until SIGINT or SIGTERM. Blocks. Raises ConfigurationError that lists every mistake."""
    # uvicorn raises the signal again after shutdown; the default handler would not stop the Valkey.
    signal.signal(signal.SIGTERM, _exit)
    with _one_redis(settings) as redis_url:
        checked = check_before_serving(replace(settings, redis_url=redis_url), migrate_first)
        for warning in asyncio.run(checked):
            log.warning("settings_warning", problem=warning)
        log.info("starting", version=__version__, address=_address(settings), workers=workers)
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


def _address(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _exit(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


@contextmanager
def _one_redis(settings: Settings) -> Iterator[str]:
    if settings.redis_url:
        yield settings.redis_url
        return
    with embedded_valkey(settings.data_dir) as url:
        yield url
