"""What the commands share: settings, JSON, and the database."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import msgspec
import typer

from paidup.commands.output import error_console
from paidup.db.applied_migrations import require_migrated
from paidup.db.connection import open_database
from paidup.runtime.logs import configure_logging
from paidup.settings import Settings, load_settings, misspelt_names

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]


def settings_of_process(defaults: dict[str, str] | None = None) -> Settings:
    """The settings of the environment and the .env file; a warning for each name that looks misspelt."""
    settings = load_settings(defaults=defaults)
    for warning in misspelt_names():
        from rich.markup import escape  # noqa: PLC0415 (see commands/output.py)

        error_console.print(f"[yellow]settings:[/yellow] {escape(warning)}", highlight=False)
    return settings


def quiet_settings(defaults: dict[str, str] | None = None) -> Settings:
    """Load the settings of a command that prints its result: logs at INFO are suppressed."""
    settings = settings_of_process(defaults)
    level = "WARNING" if settings.log_level == "INFO" else settings.log_level
    configure_logging(level, settings.log_format)
    return settings


def print_json(value: object) -> None:
    """Print one indented JSON document."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


async def with_database(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` with the database only; Stripe and Redis are not needed."""
    try:
        async with open_database(settings.effective_database_url):
            await require_migrated()
            return await work
    finally:
        work.close()
