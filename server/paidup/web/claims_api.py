"""Claims: a customer who is logged in gets a Checkout Session that was paid and belongs to nobody yet.

Whose it is follows from a link that the SaaS's backend has made for it, or, by policy, from an e-mail
address that the identity provider has verified and that was given on Stripe's page.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.db.connection import storage_errors
from paidup.domain.payment_facts import Source
from paidup.errors import InvalidInput, NotAllowed, NotFound, StripeRefused
from paidup.rate_limits.account_limits import Limited
from paidup.realtime.checkout_queries import read_checkout
from paidup.services import Services
from paidup.web.auth import Scope
from paidup.web.checkout_status import may_exist
from paidup.web.dependencies import account_of, get_services, identified, limited
from paidup.web.http import json_response, read_json


class ClaimBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either a token of a claim link, or, where CLAIM_BY_EMAIL is on, a session's id."""

    claim: Annotated[str, msgspec.Meta(max_length=1000)] | None = None
    checkout: Annotated[str, msgspec.Meta(max_length=255)] | None = None


async def claim(request: Request) -> Response:
    """POST /api/claims: make a paid session the customer's, once. Answers with the session's status."""
    customer = await identified(request)
    account = await account_of(request, customer)
    body = await read_json(request, ClaimBody)
    if (body.claim is None) == (body.checkout is None):
        raise InvalidInput("Please send either `claim` or `checkout`.")
    services = get_services(request)
    async with limited(request, account, Limited.PURCHASES):
        if body.claim is not None:
            session = services.claim_links.session_of(body.claim)
        else:
            session = await _by_email(services, body.checkout or "", customer.verified_email)
        await services.claims.claim(session, account)
    with storage_errors():
        return json_response(await read_checkout(session))


async def claim_link(request: Request) -> Response:
    """POST /api/checkout/{checkout}/claim-link: a link to claim the session with. For the backend alone."""
    await identified(request, Scope.BACKEND)
    services, session = get_services(request), request.path_params["checkout"]
    if not may_exist(session, services):
        raise NotFound(f"There is no Checkout Session {session}.")
    return json_response(await services.claim_links.make(session))


async def _by_email(services: Services, session: str, verified_email: str | None) -> str:
    """The session, if the address given on its page is the customer's verified one, or NotAllowed.

    Stripe is asked for the address: it is kept nowhere.
    """
    if not services.settings.claim_by_email:
        raise InvalidInput("Please send `claim`: claiming by e-mail is off (CLAIM_BY_EMAIL).")
    if verified_email is None:
        raise NotAllowed("The token names no verified e-mail address (`email`, `email_verified`).")
    if not may_exist(session, services):
        raise NotFound(f"There is no Checkout Session {session}.")
    try:
        shown = await services.gateway.checkout_sessions.read(session)
    except StripeRefused as error:
        if not error.is_missing:
            raise
        raise NotFound(f"There is no Checkout Session {session}.") from None
    if shown.email is None or _normal(shown.email) != _normal(verified_email):
        raise NotAllowed("Another e-mail address was given at the payment: a claim link is needed.")
    await services.checkouts.take(shown, Source.VERIFICATION)
    return session


def _normal(email: str) -> str:
    return email.strip().casefold()


ROUTES = [
    Route("/api/claims", claim, methods=["POST"]),
    Route("/api/checkout/{checkout}/claim-link", claim_link, methods=["POST"]),
]
