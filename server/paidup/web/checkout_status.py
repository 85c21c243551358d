"""The status of a Checkout Session, for those who know its id: they may not be logged in, nor have a cookie.

The id opens the session's own status and nothing else: no name, no email, no balance, no invoice.
Requests are limited by address, and anything that is not an id reaches neither the database nor Stripe.
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.db.connection import storage_errors
from paidup.domain.messages import CheckoutMessage
from paidup.errors import NotFound
from paidup.realtime.checkout_queries import read_checkout
from paidup.runtime.clock import now
from paidup.services import Services
from paidup.web.addresses import address_key
from paidup.web.auth import IN_PROCESS_CUSTOMER
from paidup.web.dependencies import get_services
from paidup.web.http import json_response

SESSION_ID = re.compile(r"cs_(?:test|live)_[A-Za-z0-9]{1,240}")
LIVE = "cs_live_"


async def checkout_status(request: Request) -> Response:
    """GET /api/checkout/{checkout}: the status message. Polling fallback for the WebSocket."""
    return json_response(await _requested(request))


async def checkout_ticket(request: Request) -> Response:
    """POST /api/checkout/{checkout}/ticket: a ticket for the session's WebSocket."""
    status = await _requested(request)
    tickets = get_services(request).tickets
    ticket = tickets.issue_for_checkout(status.checkout)
    return json_response({"ticket": ticket, "expires_at": tickets.expires_at(now())})


async def _requested(request: Request) -> CheckoutMessage:
    """The session that the path names. Raises NotFound, TooManyRequests."""
    checkout = request.path_params["checkout"]
    status = await find_checkout(request, checkout)
    if status is None:
        raise NotFound(f"There is no Checkout Session {checkout}.")
    return status


async def find_checkout(request: Request, checkout: str) -> CheckoutMessage | None:
    """The session's status, if there is such a session. Counts a read of the request's address.

    Raises TooManyRequests, StorageUnavailable.
    """
    services = get_services(request)
    if not may_exist(checkout, services):
        return None
    if IN_PROCESS_CUSTOMER not in request.scope:
        await services.address_limits.count_read(client_address(request))
    with storage_errors():
        return await read_checkout(checkout)


def may_exist(checkout: str, services: Services) -> bool:
    """Whether it is an id of this server's mode, test or live."""
    return bool(SESSION_ID.fullmatch(checkout)) and checkout.startswith(LIVE) == services.settings.livemode


def client_address(request: Request) -> str:
    return address_key(request.client.host if request.client else "")


ROUTES = [
    Route("/api/checkout/{checkout}", checkout_status, methods=["GET"]),
    Route("/api/checkout/{checkout}/ticket", checkout_ticket, methods=["POST"]),
]
