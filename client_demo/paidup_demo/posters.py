"""The demo's backend: sells posters for credits, as a SaaS's backend would.

The cookie identifies the customer, the price is set here, and the credits are spent before the poster is
returned. The page never spends credits itself.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.client.errors import InsufficientCreditsError
from paidup.mounting import Authenticate, InProcess
from paidup.web.http import json_response, read_json
from paidup.web.problems import problem

PRICE = 10
"""The price of a poster in credits; page/session_state.js shows the same."""


class PosterBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`poster` is an id chosen by the page; repeating it returns the same poster without another charge."""

    poster: Annotated[str, msgspec.Meta(pattern=r"\A[\w-]{1,64}\Z")]


def routes(authenticate: Authenticate) -> list[Route]:
    """POST /demo/posters: a poster for PRICE credits; a 402 includes a payment that is being activated."""

    async def print_poster(request: Request) -> Response:
        customer = (await authenticate(request)).external_id
        body = await read_json(request, PosterBody)
        credits = InProcess(request.app)
        try:
            spent = await credits.spend(customer, PRICE, key=f"poster-{body.poster}")
        except InsufficientCreditsError as error:
            shown = {
                name: getattr(error, name)
                for name in ("balance", "needed", "activating", "renewing", "reason")
            }
            return problem(402, error.problem, "Not enough credits", error.detail, **shown)
        return json_response({"balance": spent.balance, "seed": body.poster})

    return [Route("/demo/posters", print_poster, methods=["POST"])]
