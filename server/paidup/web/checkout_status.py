"""The status of a Checkout Session, for those who know its id: they may not be logged in, nor have a cookie.

The id opens the session's own status and nothing else: no name, no email, no balance, no invoice.
Requests are limited by address, and anything that is not an id reaches neither the database nor Stripe.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial

import structlog
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.db.connection import storage_errors
from paidup.domain.messages import CheckoutMessage
from paidup.domain.payment_facts import Source
from paidup.domain.stages import Stage
from paidup.errors import NotFound, StripeError, StripeUnavailable
from paidup.realtime.checkout_queries import read_checkout
from paidup.runtime.clock import now
from paidup.services import Services
from paidup.web.addresses import address_key
from paidup.web.auth import IN_PROCESS_CUSTOMER
from paidup.web.current_status import ASK_TIMEOUT_S
from paidup.web.dependencies import get_services
from paidup.web.http import json_response
from paidup.web.long_poll import waited_for_news
from paidup.web.websocket.session import CheckoutSocketSession

log = structlog.get_logger(__name__)

SESSION_ID = re.compile(r"cs_(?:test|live)_[A-Za-z0-9]{1,240}")
LIVE = "cs_live_"
UNDECIDED = frozenset({Stage.AWAITING_PAYMENT, Stage.VERIFYING, Stage.DELAYED})
"""Stages that the answer to a question under way may change at once."""
AGAIN_S = 0.2
"""How often the row is read while another request, or a webhook, has Stripe asked already."""


async def checkout_status(request: Request) -> Response:
    """GET /api/checkout/{checkout}: the status message. With `wait` and `version`, a long poll."""
    ask = request.method == "GET"
    status = await _requested(request, ask)
    if ask and await waited_for_news(request, status, partial(CheckoutSocketSession, status.checkout, None)):
        status = await _requested(request, ask=False)
    return json_response(status)


async def checkout_ticket(request: Request) -> Response:
    """POST /api/checkout/{checkout}/ticket: a ticket for the session's WebSocket."""
    status = await _requested(request, ask=False, unknown=True)
    tickets = get_services(request).tickets
    ticket = tickets.issue_for_checkout(status.checkout)
    return json_response({"ticket": ticket, "expires_at": tickets.expires_at(now())})


async def _requested(request: Request, ask: bool, unknown: bool = False) -> CheckoutMessage:
    """The session that the path names. Raises NotFound, TooManyRequests."""
    checkout = request.path_params["checkout"]
    status = await find_checkout(request, checkout, ask, unknown)
    if status is None:
        raise NotFound(f"There is no Checkout Session {checkout}.")
    return status


async def find_checkout(
    request: Request, checkout: str, ask: bool, unknown: bool = False
) -> CheckoutMessage | None:
    """The session's status, if there is such a session. Counts a read of the request's address.

    `ask`: where it is not settled, Stripe is asked first, within a deadline. One that is not known here is
    read from Stripe for `ask` or `unknown`, within a bound. Raises TooManyRequests, StripeError (only for
    one that is not known), StorageUnavailable.
    """
    services, address = get_services(request), client_address(request)
    if not may_exist(checkout, services):
        return None
    limited = IN_PROCESS_CUSTOMER not in request.scope
    if limited:
        await services.address_limits.count_read(address)
    with storage_errors():
        status = await read_checkout(checkout)
    if status is None and (ask or unknown):
        if limited:
            await services.address_limits.count_unknown(address)
        return await _verified(services, checkout, None)
    if status is None or status.settled or not ask:
        return status
    if status.stage is Stage.UNCLAIMED or (limited and not services.address_limits.may_verify(address)):
        return status
    return await _verified(services, checkout, status)


async def _verified(
    services: Services, checkout: str, status: CheckoutMessage | None
) -> CheckoutMessage | None:
    """The session as Stripe shows it now; where Stripe does not answer in time, what is known of it."""
    try:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            while await services.checkouts.verify(checkout, Source.VERIFICATION) is None:
                # It is being read: by a socket, another tab, or the webhook while Stripe holds the redirect.
                with storage_errors():
                    status = await read_checkout(checkout)
                if status is None or status.stage not in UNDECIDED:
                    return status
                await asyncio.sleep(AGAIN_S)
    except (StripeError, TimeoutError) as error:
        log.info("checkout_not_verified", checkout=checkout, error=repr(error))
        if status is None:
            late = StripeUnavailable("no answer in time")
            raise (error if isinstance(error, StripeError) else late) from error
        asking = status.stage is Stage.AWAITING_PAYMENT
        return replace(status, stage=Stage.VERIFYING) if asking else status
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
