"""The `paidup` command line: the list of its commands, and what becomes of their errors.

A command's module is imported when the command is run: the server and its libraries take most of a second.
Help is plain text, since what draws it in boxes takes as long to import as all the rest of `paidup --help`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup, TyperOption

from paidup import __version__
from paidup.commands.failures import failures_in_one_line
from paidup.runtime.imports import quick_imports


class Command(NamedTuple):
    """Where a command, or a group of them, is, and its help's first line, which `paidup --help` shows.

    `without`: what libraries import of others, that this command does not use.
    """

    module: str
    function: str
    help: str
    without: tuple[str, ...] = ()


LOGS_ONLY = ("rich",)
"""structlog imports it to draw tracebacks, which are logged as plain text here."""


COMMANDS = {
    "init": Command(
        "initialization",
        "init",
        "Write a commented plans.toml and a .env with fresh secrets into this directory.",
    ),
    "serve": Command("serving", "serve", "Serve the API, webhooks and WebSockets.", LOGS_ONLY),
    "work": Command(
        "serving",
        "work",
        "Run the reconciler: settle payments that no browser and no webhook reported.",
        LOGS_ONLY,
    ),
    "migrate": Command("serving", "migrate", "Apply database migrations. Safe to run again.", LOGS_ONLY),
    "stripe-setup": Command(
        "stripe_account",
        "stripe_setup",
        "Create the products and prices of plans.toml, and the webhook endpoint, in your Stripe account.",
    ),
    "explain": Command(
        "inspection",
        "explain",
        "Explain an invoice's status: its timeline, what it is waiting for, and what to do.",
    ),
    "doctor": Command(
        "inspection", "doctor", "Check settings, Stripe, database and Redis. Exit code 1 if a check fails."
    ),
    "backfill": Command(
        "stripe_account",
        "backfill",
        "Settle every paid invoice created since a date. Safe to interrupt and to run again.",
    ),
    "import": Command(
        "stripe_account",
        "import_subscriptions",
        "Import the subscriptions that already exist in Stripe. Safe to interrupt and to run again.",
    ),
    "replay": Command(
        "events", "replay", "Handle a Stripe event (evt_...) again, or send events to your endpoints again."
    ),
    "dismiss": Command(
        "events", "dismiss", "End the alarm about events that need no handling. Nothing is credited."
    ),
    "reopen": Command(
        "events",
        "reopen",
        "Undo dismiss: the events are in the alarm again, and `paidup replay` handles them.",
    ),
    "grant": Command(
        "corrections",
        "grant",
        "Give credits, or credit an invoice that was paid outside of Stripe. Undo: revoke.",
    ),
    "revoke": Command("corrections", "revoke", "Take back the credits of `paidup grant`."),
    "adjust": Command(
        "corrections",
        "adjust",
        "Raise or lower a balance that is wrong. Undo: adjust by the opposite.",
    ),
    "link-customer": Command(
        "corrections",
        "link_customer",
        "Link a Stripe customer to an account, and credit its pending payments. Undo: unlink-customer.",
    ),
    "unlink-customer": Command(
        "corrections",
        "unlink_customer",
        "Undo link-customer. The account keeps the credits that it was given.",
    ),
    "merge-accounts": Command(
        "corrections",
        "merge_accounts",
        "Move all that one account has into another, which stands for both from then on. No undo.",
    ),
    "erase": Command(
        "corrections", "erase", "Erase the personal data of an account, and keep its ledger. No undo."
    ),
    "audit-log": Command(
        "corrections",
        "audit_log",
        "List what operators have done: when, who, what and why. Newest first.",
    ),
    "resolve": Command(
        "second_payments",
        "resolve",
        "Resolve a payment that was made twice, or belongs to no account: refund it, or keep it.",
    ),
    "claim-link": Command(
        "claims",
        "claim_link",
        "Create a link with which a customer who is logged in claims a payment of no account yet.",
    ),
    "endpoints": Command(
        "event_endpoints", "endpoints", "List, make and change the endpoints that events are sent to."
    ),
    "deliveries": Command("event_endpoints", "deliveries", "List the deliveries of events, and show one."),
    "listen": Command(
        "event_development",
        "listen",
        "Forward each event to an address of this machine, for development, until Ctrl-C.",
    ),
    "trigger": Command(
        "event_development",
        "trigger",
        "Send an example of an event to endpoints and listeners, marked as a test. It changes no balance.",
    ),
    "audit": Command(
        "inspection",
        "audit",
        "Compare balances, entries, grants and accounts' rows. Exit code 1 if they differ.",
    ),
    "demo": Command(
        "demonstration",
        "demo",
        "Run the demo: Stripe sandbox (or your test keys from .env), server, reconciler and page.",
    ),
    "sandbox": Command(
        "sandbox",
        "sandbox",
        "Run an imitation of the part of Stripe that Paidup uses, for development and tests.",
    ),
}


SECTIONS = {
    "Try it": "demo sandbox",
    "Set up": "init migrate stripe-setup import backfill doctor",
    "Run": "serve work",
    "Inspect": "explain audit audit-log",
    "Handle an alarm": "replay dismiss reopen resolve claim-link",
    "Correct an account": "grant revoke adjust link-customer unlink-customer merge-accounts erase",
    "Send events to your backend": "endpoints deliveries listen trigger",
}
"""The commands as `paidup --help` lists them."""

PLAIN: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": None,
}


class LateCommands(TyperGroup):
    """Knows what `--help` lists, and imports the one command that is run."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As in TyperGroup, with the command itself in place of what is listed."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, imported(name) if name in COMMANDS else listed, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As in TyperGroup, by section, with the whole first line of each command's help."""
        width = max(map(len, COMMANDS))
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), COMMANDS[name].help) for name in names.split()])


class _WhereGiven:
    """What converts an option's value, if there is one: Typer builds that with Pydantic in any case."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        if value is None and not param.multiple and param.nargs != -1:
            return None
        return _converter(param).coerce(value, param=param, ctx=ctx)


_converter = TyperOption.get_runtime_param
TyperOption.get_runtime_param = lambda _: _WhereGiven()  # type: ignore[assignment, method-assign, return-value]


def imported(name: str) -> Any:
    """The command with this name, with its options."""
    command = COMMANDS[name]
    with quick_imports(*command.without):
        found = getattr(import_module(f"paidup.commands.{command.module}"), command.function)
    if isinstance(found, typer.Typer):
        return typer.main.get_group(found)
    alone = typer.Typer(**PLAIN)
    alone.command(name)(found)
    return typer.main.get_command(alone)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"paidup {__version__}")
        raise typer.Exit


def _listed() -> None:
    """Stands for each command in `--help`."""


app = typer.Typer(
    name="paidup",
    cls=LateCommands,
    help="Turn confirmed Stripe payments into plan credits, exactly once.",
    no_args_is_help=True,
    **PLAIN,
)
for each, command in COMMANDS.items():
    app.command(each, help=command.help)(_listed)


@app.callback()
def paidup(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn confirmed Stripe payments into plan credits, exactly once."""


def main() -> None:
    """Run the command line. Errors are one line each and exit code 1, or 2 for a mistake in the settings."""
    with failures_in_one_line():
        app()


if __name__ == "__main__":
    main()
