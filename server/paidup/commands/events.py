"""The commands replay, dismiss and reopen: for stored Stripe events, and those that endpoints receive."""

from __future__ import annotations

from typing import Annotated

import typer

from paidup.commands.coroutines import run
from paidup.commands.event_endpoints import By, Reason, operator_of
from paidup.commands.output import console
from paidup.commands.shared import Json, print_json, quiet_settings, with_database
from paidup.errors import InvalidInput
from paidup.operations import backfill as backfills
from paidup.operations.audit_log import Operator
from paidup.operations.dismissal import current_user, dismiss_events, reopen_events
from paidup.operations.event_replay import Replay
from paidup.operations.event_replay import replay as outbound_replay
from paidup.operations.progress import progress_steps
from paidup.services import open_services
from paidup.settings import Settings

Moment = Annotated[str, typer.Option(help="A date or time, UTC unless it has an offset: 2026-11-01.")]


def replay(  # noqa: PLR0913 - a command's parameters are its options
    event: Annotated[
        str, typer.Argument(help="evt_...: handle it again. msg_..., or a delivery's number: send it again.")
    ] = "",
    endpoint: Annotated[
        str, typer.Option(help="To this endpoint; without an event, all of its events.")
    ] = "",
    since: Moment = "",
    until: Moment = "",
    dead: Annotated[bool, typer.Option("--dead", help="Only deliveries that were given up.")] = False,
    by: By = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Handle a Stripe event (evt_...) again, or send events to your endpoints again.

    Exit code 1 if a Stripe event still cannot be handled.
    """
    if not event.startswith("evt_"):
        wanted = _wanted(event, endpoint, since, until, dead)
        _replay_outbound(wanted, operator_of(by, reason), as_json)
        return
    if endpoint or since or until or dead or by or reason:
        raise InvalidInput("The options are for events that endpoints receive, not for Stripe's (evt_...).")
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


def _wanted(event: str, endpoint: str, since: str, until: str, dead: bool) -> Replay:
    if event and (since or until or dead):
        raise InvalidInput("--since, --until and --dead are for an endpoint's events, not for one event.")
    is_number = event.isascii() and event.isdecimal() and len(event) < 19
    if event and not is_number and not event.startswith("msg_"):
        raise InvalidInput(f"{event[:60]!r} is no event: evt_..., msg_..., or the number of a delivery.")
    return Replay(
        delivery=int(event) if is_number else None,
        event=event if event and not is_number else None,
        endpoint=endpoint or None,
        since=backfills.parse_since(since) if since else None,
        until=backfills.parse_since(until) if until else None,
        dead=dead,
    )


def _replay_outbound(wanted: Replay, operator: Operator, as_json: bool) -> None:
    done = run(with_database(quiet_settings(), outbound_replay(wanted, operator)))
    if as_json:
        print_json(done)
        return
    console.print(f"Deliveries that are sent again: {done.deliveries}", markup=False, highlight=False)


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
