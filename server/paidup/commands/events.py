"""The commands for stored Stripe events: replay, dismiss and reopen."""

from __future__ import annotations

from typing import Annotated

import typer

from paidup.commands.output import console
from paidup.commands.shared import Json, print_json, quiet_settings, run, with_database
from paidup.operations import backfill as backfills
from paidup.operations.dismissal import current_user, dismiss_events, reopen_events
from paidup.operations.progress import progress_steps
from paidup.services import open_services
from paidup.settings import Settings


def replay(
    event: Annotated[str, typer.Argument(help="evt_...; fetched from Stripe if it is not stored.")],
    as_json: Json = False,
) -> None:
    """Handle a Stripe event again. Exit code 1 if it still cannot be handled."""
    settings = quiet_settings()
    with progress_steps("Event") as on_step:
        on_step(event)
        done = run(_replay(settings, event))
    if as_json:
        print_json(done)
    else:
        console.print(f"{done.event} ({done.type}): {done.outcome}", markup=False, highlight=False)
    if not done.done:
        raise typer.Exit(1)


def dismiss(
    events: Annotated[list[str], typer.Argument(help="evt_...: events that were not handled.")],
    reason: Annotated[str, typer.Option(help="Why nothing is to be done about them. It is stored.")],
    by: Annotated[str, typer.Option(help="Who decided it. Default: your user name here.")] = "",
    key: Annotated[str, typer.Option(help="A key of yours, such as a ticket's number.")] = "",
    as_json: Json = False,
) -> None:
    """End the alarm about events that need no handling. Nothing is credited."""
    work = dismiss_events(events, by or current_user(), reason, key)
    dismissed = run(with_database(quiet_settings(), work))
    if as_json:
        print_json({"dismissed": dismissed})
        return
    for each in dismissed:
        console.print(f"{each.event} ({each.type}): dismissed by {each.by}", markup=False, highlight=False)


def reopen(
    events: Annotated[list[str], typer.Argument(help="evt_...: events that were dismissed.")],
    reason: Annotated[str, typer.Option(help="Why they need handling after all. It is stored.")],
    by: Annotated[str, typer.Option(help="Who decided it. Default: your user name here.")] = "",
    key: Annotated[str, typer.Option(help="A key of yours, such as a ticket's number.")] = "",
    as_json: Json = False,
) -> None:
    """Undo dismiss: the events are in the alarm again, and `paidup replay` handles them."""
    work = reopen_events(events, by or current_user(), reason, key)
    reopened = run(with_database(quiet_settings(), work))
    if as_json:
        print_json({"reopened": reopened})
        return
    for each in reopened:
        console.print(f"{each}: reopened", markup=False, highlight=False)


async def _replay(settings: Settings, event: str) -> backfills.Replayed:
    async with open_services(settings) as services:
        return await backfills.replay(services.gateway, services.events, event)
