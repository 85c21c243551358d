"""The command `paidup`. Each command loads the settings, does one thing, and says how it went."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from server.database import migrate as run_migrations
from server.errors import ConfigurationError, PaidupError
from server.logs import configure_logging
from server.services import open_services
from server.serving import serve as run_server
from server.settings import ENV_FILE, Settings, load_settings
from server.stripe_setup import PriceSetup, ensure_prices

T = TypeVar("T")

app = typer.Typer(
    name="paidup",
    help="Turns a confirmed Stripe payment into usable plan credits, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
complaints = Console(stderr=True)


@app.command()
def serve(
    workers: Annotated[
        int | None, typer.Option(help="Processes; default WEB_CONCURRENCY. They share one Redis.", min=1)
    ] = None,
) -> None:
    """Serve the API, the webhooks and the sockets."""
    settings = _settings()
    run_server(settings, workers or settings.web_concurrency)


@app.command()
def work(once: Annotated[bool, typer.Option(help="One round of sweeps, then end.")] = False) -> None:
    """Run the reconciler: find and settle what the browser and the webhook left open."""
    settings = _settings()
    configure_logging(settings.log_level, settings.log_format)
    _run(_work(settings, once))


@app.command()
def migrate() -> None:
    """Bring the database's schema up to date. Safe to run again."""
    settings = _settings()
    _run(run_migrations(settings.effective_database_url))
    console.print("The database is up to date.")


@app.command("stripe-setup")
def stripe_setup() -> None:
    """Make the products and prices of plans.toml in the Stripe account of your key."""
    for made in _run(_stripe_setup(_settings())):
        console.print(f"{made.state:8} {made.lookup_key} ({made.price})")


@app.command()
def demo() -> None:
    """Run the whole demo: sandbox (or your Stripe test keys from .env), server, reconciler, page."""
    # The only road from the server's package to the demo's, and only on this command.
    from client_demo.supervisor import run_demo  # noqa: PLC0415

    _run(run_demo())


def main() -> None:
    """The entry point: errors of ours are one clear message, and exit code 1 (2 for settings)."""
    try:
        app()
    except ConfigurationError as error:
        for problem in error.problems:
            complaints.print(f"[red]settings:[/red] {problem}", highlight=False)
        raise SystemExit(2) from None
    except PaidupError as error:
        complaints.print(f"[red]error:[/red] {error}", highlight=False)
        raise SystemExit(1) from None


def _settings() -> Settings:
    return load_settings(env_file=ENV_FILE)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    with suppress(KeyboardInterrupt):
        return asyncio.run(coroutine)
    raise SystemExit(130)


async def _work(settings: Settings, once: bool) -> None:
    async with open_services(settings) as services:
        if once:
            for sweep, rows in (await services.reconciler.sweep()).items():
                console.print(f"{sweep}: {rows}")
            return
        sweeping = asyncio.create_task(services.reconciler.run_forever(settings.reconciler_pace_s))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, sweeping.cancel)
        with suppress(asyncio.CancelledError):
            await sweeping


async def _stripe_setup(settings: Settings) -> list[PriceSetup]:
    async with open_services(settings) as services:
        return await ensure_prices(services.gateway, services.catalogue)


if __name__ == "__main__":
    main()
