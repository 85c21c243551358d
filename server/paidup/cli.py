"""The `paidup` command line: the list of its commands, and what becomes of their errors."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from paidup import __version__
from paidup.commands import (
    demonstration,
    events,
    initialization,
    inspection,
    sandbox,
    second_payments,
    serving,
    stripe_account,
)
from paidup.commands.shared import console, error_console
from paidup.errors import ConfigurationError, DatabaseUnreachable, PaidupError


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"paidup {__version__}", highlight=False)
        raise typer.Exit


app = typer.Typer(
    name="paidup",
    help="Turn confirmed Stripe payments into plan credits, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(initialization.init)
app.command()(serving.serve)
app.command()(serving.work)
app.command()(serving.migrate)
app.command("stripe-setup")(stripe_account.stripe_setup)
app.command()(inspection.explain)
app.command()(inspection.doctor)
app.command()(stripe_account.backfill)
app.command("import")(stripe_account.import_subscriptions)
app.command()(events.replay)
app.command()(events.dismiss)
app.command()(second_payments.resolve)
app.command()(inspection.audit)
app.command()(demonstration.demo)
app.command()(sandbox.sandbox)


@app.callback()
def paidup(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn confirmed Stripe payments into plan credits, exactly once."""


def main() -> None:
    """Run the command line. Errors are one line each and exit code 1, or 2 for a mistake in the settings."""
    try:
        app()
    except ConfigurationError as error:
        for problem in error.problems:
            error_console.print(f"[red]settings:[/red] {escape(problem)}", highlight=False)
        raise SystemExit(2) from None
    except DatabaseUnreachable as error:
        error_console.print(f"[red]settings:[/red] {escape(str(error))}", highlight=False)
        raise SystemExit(2) from None
    except PaidupError as error:
        error_console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        raise SystemExit(1) from None
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("paidup_demo"):
            raise
        missing = "the demo and the sandbox are not in this image: pip install 'paidup[demo]'"
        error_console.print(f"[red]error:[/red] {escape(missing)}", highlight=False)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
