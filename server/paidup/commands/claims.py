"""The command for payments that belong to nobody yet: claim-link."""

from __future__ import annotations

from typing import Annotated

import typer

from paidup.commands.coroutines import run
from paidup.commands.output import console
from paidup.commands.shared import Json, print_json, quiet_settings
from paidup.operations.formatting import format_datetime
from paidup.payments.claim_links import ClaimLink
from paidup.services import open_services
from paidup.settings import Settings


def claim_link(
    checkout: Annotated[str, typer.Argument(help="cs_...: a paid Checkout Session that has no account yet.")],
    as_json: Json = False,
) -> None:
    """Create a link with which a customer who is logged in claims a payment of no account yet."""
    link = run(_make(quiet_settings(), checkout))
    if as_json:
        print_json(link)
        return
    console.print(link.url or link.claim, markup=False, highlight=False)
    until = f"Valid until {format_datetime(link.expires_at)}."
    how = "" if link.url else " POST it to /api/claims, or set CLAIM_URL to a page of yours that does."
    console.print(until + how, markup=False, highlight=False)


async def _make(settings: Settings, checkout: str) -> ClaimLink:
    async with open_services(settings) as services:
        return await services.claim_links.make(checkout)
