"""What the commands share: output, settings, and how their coroutines run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console

from paidup.db.connection import open_database
from paidup.runtime.logs import configure_logging
from paidup.settings import ENV_FILE, Settings, load_settings

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]

console = Console()
error_console = Console(stderr=True)


def settings_of_process() -> Settings:
    """The settings of the environment and the .env file."""
    return load_settings(env_file=ENV_FILE)


def quiet_settings(defaults: dict[str, str] | None = None) -> Settings:
    """Load the settings of a command that prints its result: logs at INFO are suppressed."""
    settings = load_settings(env_file=ENV_FILE, defaults=defaults)
    level = "WARNING" if settings.log_level == "INFO" else settings.log_level
    configure_logging(level, settings.log_format)
    return settings


def print_json(value: object) -> None:
    """Print one indented JSON document."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run to the end. Ctrl-C is exit code 130."""
    with suppress(KeyboardInterrupt):
        return asyncio.run(coroutine)
    raise SystemExit(130)


async def with_database(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` with the database only; Stripe and Redis are not needed."""
    try:
        async with open_database(settings.effective_database_url):
            return await work
    finally:
        work.close()
