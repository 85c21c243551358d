"""The commands for developing a receiver of events: listen, trigger."""

from __future__ import annotations

from typing import Annotated

import typer

from paidup.commands.coroutines import run
from paidup.commands.output import console
from paidup.commands.shared import Json, print_json
from paidup.domain.outbound_settings import secret_problem
from paidup.errors import InvalidInput
from paidup.operations.event_endpoints import new_secret
from paidup.operations.event_listening import Listener, OperatorClient, forward_address, http_session
from paidup.operations.event_stream import Triggered
from paidup.settings import values_of

Server = Annotated[str, typer.Option("--url", help="The server. Default: the one of .env, on this machine.")]
Token = Annotated[
    str, typer.Option(help="The server's OPERATOR_TOKEN. Default: that of the settings, or of its _FILE.")
]


def listen(
    forward_to: Annotated[str, typer.Option(help="Where to send events: localhost:3000/hook")],
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Only this type; several times. Default: all.")
    ] = None,
    url: Server = "",
    token: Token = "",
    secret: Annotated[str, typer.Option(help="whsec_...: sign with this. Default: a new one.")] = "",
) -> None:
    """Forward each event to an address of this machine, for development, until Ctrl-C."""
    run(_listen(forward_address(forward_to), types or [], _server(url, token), secret))


def trigger(
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="credits.granted, for example.")],
    endpoint: Annotated[str, typer.Option(help="Only to this endpoint: its id or name.")] = "",
    account: Annotated[str, typer.Option(help="The user id that it names.")] = "",
    url: Server = "",
    token: Token = "",
    as_json: Json = False,
) -> None:
    """Send an example of an event to endpoints and listeners, marked as a test. It changes no balance."""
    done = run(_trigger(event_type, endpoint, account, _server(url, token)))
    if as_json:
        print_json(done)
        return
    _say(f"{done.type} [{done.event}]: to {done.endpoints} endpoints, and to each `paidup listen`")


async def _listen(forward_to: str, types: list[str], server: tuple[str, str], secret: str) -> None:
    secret = secret or new_secret()
    if problem := secret_problem(secret):
        raise InvalidInput(f"The secret cannot be used: {problem}.")
    async with http_session() as http:
        listener = Listener(OperatorClient(http, *server), http, forward_to, secret, _say)
        _say(f"Ready: events of {server[0]} go to {forward_to}. Ctrl-C ends it.")
        _say(f"The signing secret: {secret}")
        await listener.run(types)


async def _trigger(event_type: str, endpoint: str, account: str, server: tuple[str, str]) -> Triggered:
    async with http_session() as http:
        return await OperatorClient(http, *server).trigger(event_type, endpoint or None, account or None)


def _server(url: str, token: str) -> tuple[str, str]:
    """The server's address and token. Raises InvalidInput where there is no token, ConfigurationError."""
    local = values_of("PORT", *([] if token else ["OPERATOR_TOKEN"]))
    token = token or local.get("OPERATOR_TOKEN", "").strip()
    if not token:
        raise InvalidInput("OPERATOR_TOKEN is missing: set the server's in .env, or give --token.")
    return (url or f"http://127.0.0.1:{local.get('PORT', '').strip() or 8000}").rstrip("/"), token


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
