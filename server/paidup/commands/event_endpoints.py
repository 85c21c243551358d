"""The commands for events' endpoints and deliveries: endpoints, deliveries."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import timedelta
from typing import Annotated, Any

import typer

from paidup.commands.coroutines import run
from paidup.commands.output import console
from paidup.commands.shared import Json, print_json, quiet_settings, with_database
from paidup.operations import event_deliveries, event_endpoints
from paidup.operations.audit_log import Operator
from paidup.operations.dismissal import current_user
from paidup.operations.event_deliveries import DeliveryDetails, DeliveryFilter, DeliveryPage, DeliveryReport
from paidup.operations.event_endpoints import DEFAULT_OVERLAP_H, EndpointChanges, EndpointDetails
from paidup.operations.formatting import format_datetime
from paidup.settings import Settings

Endpoint = Annotated[str, typer.Argument(help="Its id or its name.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="An event type that it gets; several times. Default: all.")
]
Name = Annotated[str, typer.Option(help="Default: made of the URL.")]
Url = Annotated[str, typer.Argument(help="https://app.example.com/hooks/paidup")]
By = Annotated[str, typer.Option(help="Who decided it. Default: your user name here.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit log.")]
Overlap = Annotated[int, typer.Option(help="How long the old secret stays valid.", min=0, max=168)]
Before = Annotated[int | None, typer.Option(help="Older than this delivery: the next page.", min=1)]
PAGE = 50

endpoints = typer.Typer(
    rich_markup_mode=None,
    name="endpoints",
    no_args_is_help=True,
    help="List, make and change the endpoints that events are sent to.",
)
deliveries = typer.Typer(
    rich_markup_mode=None,
    name="deliveries",
    no_args_is_help=True,
    help="List the deliveries of events, and show one.",
)


@endpoints.command("list")
def list_endpoints(as_json: Json = False) -> None:
    """List the endpoints, with their pending and dead deliveries."""
    found = _run(quiet_settings(), event_endpoints.list_endpoints())
    if as_json:
        print_json({"endpoints": found})
        return
    for each in found:
        _print(_line(each))
    if not found:
        _print("There are no endpoints: `paidup endpoints create URL` makes one.")


@endpoints.command("show")
def show_endpoint(endpoint: Endpoint, as_json: Json = False) -> None:
    """Show an endpoint. Its secret is not shown again."""
    _show(_run(quiet_settings(), event_endpoints.read_endpoint(endpoint)), as_json)


@endpoints.command("create")
def create_endpoint(
    url: Url, types: Types = None, name: Name = "", by: By = "", reason: Reason = "", as_json: Json = False
) -> None:
    """Make an endpoint, and print its secret, this once."""
    settings = quiet_settings()
    private, operator = _private_allowed(settings), operator_of(by, reason)
    work = event_endpoints.create_endpoint(url, types or [], name, private, operator)
    _show(_run(settings, work), as_json)


@endpoints.command("update")
def update_endpoint(
    endpoint: Endpoint,
    types: Types = None,
    all_types: Annotated[bool, typer.Option("--all-types", help="It gets every type.")] = False,
    url: Annotated[str | None, typer.Option(help="Another URL.")] = None,
    by: By = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Change the types or the URL of an endpoint."""
    _change(endpoint, EndpointChanges(url, [] if all_types else types), operator_of(by, reason), as_json)


@endpoints.command("enable")
def enable_endpoint(endpoint: Endpoint, by: By = "", reason: Reason = "", as_json: Json = False) -> None:
    """Enable an endpoint again. What it missed is sent by `paidup replay --endpoint`."""
    _change(endpoint, EndpointChanges(enabled=True), operator_of(by, reason), as_json)


@endpoints.command("disable")
def disable_endpoint(endpoint: Endpoint, by: By = "", reason: Reason = "", as_json: Json = False) -> None:
    """Disable an endpoint: nothing is sent to it any more."""
    _change(endpoint, EndpointChanges(enabled=False), operator_of(by, reason), as_json)


@endpoints.command("delete")
def delete_endpoint(endpoint: Endpoint, by: By = "", reason: Reason = "", as_json: Json = False) -> None:
    """Delete an endpoint. Its deliveries stay listed."""
    work = event_endpoints.delete_endpoint(endpoint, operator_of(by, reason))
    _show(_run(quiet_settings(), work), as_json)


@endpoints.command("rotate")
def rotate_secret(
    endpoint: Endpoint,
    overlap_hours: Overlap = DEFAULT_OVERLAP_H,
    by: By = "",
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Make a new secret, and print it, this once. Deliveries are signed with both until the old one ends."""
    overlap = timedelta(hours=overlap_hours)
    work = event_endpoints.rotate_secret(endpoint, overlap, operator_of(by, reason))
    _show(_run(quiet_settings(), work), as_json)


@deliveries.command("list")
def list_deliveries(
    endpoint: Annotated[str, typer.Option(help="To this endpoint: its id or name.")] = "",
    account: Annotated[str, typer.Option(help="Of this account: your user id.")] = "",
    state: Annotated[str, typer.Option(help="pending, delivered or dead.")] = "",
    event_type: Annotated[str, typer.Option("--type", help="Of this type: credits.granted.")] = "",
    event: Annotated[str, typer.Option(help="Of this event: msg_...")] = "",
    before: Before = None,
    as_json: Json = False,
) -> None:
    """List deliveries, the newest first. `--state dead` lists those that were given up."""
    wanted = DeliveryFilter(endpoint, account, state, event_type, event=event)
    page = _run(quiet_settings(), event_deliveries.list_deliveries(wanted, before, PAGE))
    if as_json:
        print_json(page)
        return
    _print_page(page)


@deliveries.command("show")
def show_delivery(
    delivery: Annotated[int, typer.Argument(help="Its number in the list.", min=1)], as_json: Json = False
) -> None:
    """Show a delivery with its request and its last answer."""
    report = _run(quiet_settings(), event_deliveries.read_delivery(delivery))
    if as_json:
        print_json(report)
        return
    _print_report(report)


def operator_of(by: str, reason: str) -> Operator:
    """Who does it, for the audit log: the user of this machine, unless they say another name."""
    return Operator(by or current_user(), reason)


def _change(endpoint: str, changes: EndpointChanges, operator: Operator, as_json: bool) -> None:
    settings = quiet_settings()
    work = event_endpoints.change_endpoint(endpoint, changes, _private_allowed(settings), operator)
    _show(_run(settings, work), as_json)


def _run(settings: Settings, work: Coroutine[Any, Any, Any]) -> Any:
    return run(with_database(settings, work))


def _private_allowed(settings: Settings) -> bool:
    return settings.allows_private_addresses


def _show(endpoint: EndpointDetails, as_json: bool) -> None:
    if as_json:
        print_json(endpoint)
        return
    _print(_line(endpoint))
    if endpoint.disabled_because and endpoint.disabled_at:
        _print(f"Disabled {format_datetime(endpoint.disabled_at)}: {endpoint.disabled_because}")
    if endpoint.secret:
        _print("Shown once. Give it to the receiver:")
        _print(endpoint.secret)
    if endpoint.old_secret_until:
        until = format_datetime(endpoint.old_secret_until)
        _print(f"Until {until}, deliveries are signed with the old secret as well.")


def _line(endpoint: EndpointDetails) -> str:
    types = ", ".join(endpoint.types) or "all types"
    counts = f"{endpoint.pending} pending, {endpoint.dead} dead"
    return f"{endpoint.id:4} {endpoint.name}  {endpoint.state}  {endpoint.url}  {types}  {counts}"


def _print_page(page: DeliveryPage) -> None:
    for each in page.deliveries:
        _print(_delivery_line(each))
    if page.next is not None:
        _print(f"More: --before {page.next}")
    if not page.deliveries:
        _print("There are no such deliveries.")


def _delivery_line(row: DeliveryDetails) -> str:
    result = row.error or (str(row.status_code) if row.status_code else "not sent yet")
    when = format_datetime(row.last_attempt_at or row.created_at)
    return f"{row.id:6} {when}  {row.state:9} {row.type}  {row.account or '-'}  {row.endpoint}  {result}"


def _print_report(report: DeliveryReport) -> None:
    _print(_delivery_line(report))
    tries = f"Attempts: {report.attempts}"
    if report.next_attempt_at is not None:
        tries += f"; the next one at {format_datetime(report.next_attempt_at)}"
    _print(tries)
    _print(f"POST {report.request.url}")
    for name, value in report.request.headers.items():
        _print(f"{name}: {value}")
    _print(report.request.body)
    if report.answer is not None:
        _print(f"Answer: {report.answer.status_code}")
        _print(report.answer.body)


def _print(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
