"""The commands that run Paidup: serve, work and migrate."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import Annotated

import typer
from prometheus_client import start_http_server

from paidup.commands.coroutines import run
from paidup.commands.output import console
from paidup.commands.shared import settings_of_process
from paidup.db.connection import migrate as run_migrations
from paidup.errors import ConfigurationError
from paidup.operations.progress import progress_steps
from paidup.runtime.listening import listening_problem
from paidup.runtime.logs import configure_logging
from paidup.runtime.metrics import Metrics
from paidup.services import delivering_events, open_services
from paidup.settings import Settings
from paidup.uvicorn_server import serve as run_server


def serve(
    workers: Annotated[
        int | None,
        typer.Option(help="Number of processes (default: WEB_CONCURRENCY). They share one Redis.", min=1),
    ] = None,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="First apply database migrations. For small installations.")
    ] = False,
) -> None:
    """Serve the API, webhooks and WebSockets."""
    settings = settings_of_process()
    configure_logging(settings.log_level, settings.log_format)
    with suppress(KeyboardInterrupt):
        run_server(settings, workers or settings.web_concurrency, migrate_first=migrate)


def work(once: Annotated[bool, typer.Option(help="Run every sweep once, then exit.")] = False) -> None:
    """Run the reconciler: settle payments that no browser and no webhook reported."""
    settings = settings_of_process()
    configure_logging(settings.log_level, settings.log_format)
    run(_work(settings, once))


def migrate() -> None:
    """Apply database migrations. Safe to run again."""
    settings = settings_of_process()
    with progress_steps("Migrations") as on_step:
        run(run_migrations(settings.effective_database_url, on_step))
    console.print("The database is up to date.")


async def _work(settings: Settings, once: bool) -> None:
    host, port = settings.host, settings.worker_metrics_port
    if port and (problem := listening_problem(host, port, port_name="WORKER_METRICS_PORT")):
        raise ConfigurationError([problem])
    async with open_services(settings) as services, delivering_events(services):
        if once:
            for sweep, rows in (await services.reconciler.sweep()).items():
                console.print(f"{sweep}: {rows}")
            return
        _serve_metrics(settings, services.metrics)
        reconciling = asyncio.create_task(services.reconciler.run_forever(settings.reconciler_interval_s))
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, reconciling.cancel)
        with suppress(asyncio.CancelledError):
            await reconciling


def _serve_metrics(settings: Settings, metrics: Metrics) -> None:
    """Serve the worker's metrics over HTTP until the process ends."""
    if settings.worker_metrics_port:
        start_http_server(settings.worker_metrics_port, settings.host, registry=metrics.registry)
