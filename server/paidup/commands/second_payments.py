"""The command for second payments, and for those that belong to nobody: resolve."""

from __future__ import annotations

from typing import Annotated

import typer

from paidup.commands.coroutines import run
from paidup.commands.output import console
from paidup.commands.shared import Json, print_json, quiet_settings
from paidup.errors import InvalidInput
from paidup.operations.second_payments import Remedy, Resolved, SecondPaymentRemedies
from paidup.payments.refunds import ReversalHandler
from paidup.services import open_services
from paidup.settings import Settings


def resolve(
    checkout: Annotated[str, typer.Argument(help="cs_...: a payment that an alarm names.")],
    refund: Annotated[
        bool, typer.Option("--refund", help="End its subscription, and refund it with its credits.")
    ] = False,
    credit: Annotated[
        bool, typer.Option("--credit", help="Leave its credits; its subscription ends with its period.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Both are wanted: change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Resolve a payment that was made twice, or belongs to no account: refund it, or keep it."""
    wanted = [remedy for remedy, given in zip(Remedy, (refund, credit, keep), strict=True) if given]
    if len(wanted) != 1:
        raise InvalidInput("Say what to do: --refund, --credit or --keep.")
    done = run(_resolve(quiet_settings(), checkout, wanted[0]))
    if as_json:
        print_json(done)
        return
    more = f" ({done.refund})" if done.refund else ""
    why = f"paid beside {done.duplicate_of}" if done.duplicate_of else "of nobody"
    text = f"{done.checkout}, {why}: {done.resolution}{more}"
    console.print(text, markup=False, highlight=False)


async def _resolve(settings: Settings, checkout: str, remedy: Remedy) -> Resolved:
    async with open_services(settings) as services:
        gateway = services.gateway
        reversals = ReversalHandler(gateway, services.verification, services.settlement)
        return await SecondPaymentRemedies(gateway, reversals).resolve(checkout, remedy)
