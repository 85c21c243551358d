"""POST /api/checkout: a Checkout Session for the customer to pay on a page of Stripe's."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.domain.catalog import Interval
from paidup.domain.checkout_settings import is_web_address, return_url
from paidup.domain.onward_addresses import resolved
from paidup.errors import ConfigurationError, InvalidInput
from paidup.rate_limits.account_limits import Limited
from paidup.runtime.clock import at_unix
from paidup.settings import Settings
from paidup.stripe_api.checkout_sessions import Ui
from paidup.subscriptions.session_purchases import WantedSession
from paidup.web.api import Period, Quantity
from paidup.web.dependencies import current_account, get_services, limited
from paidup.web.http import json_response, read_json


class CheckoutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`plan` or `top_up`. `interval` defaults to the plan's first one."""

    plan: str | None = None
    top_up: str | None = None
    interval: Period | None = None
    quantity: Quantity = 1
    ui: Literal["hosted", "embedded", "elements"] = "hosted"
    return_to: str | None = None


async def checkout(request: Request) -> Response:
    """POST /api/checkout: open a Checkout Session, or return the one that is open."""
    account = await current_account(request)
    body = await read_json(request, CheckoutBody)
    services = get_services(request)
    wanted = _wanted(body, services.settings, request.headers.get("origin"))
    async with limited(request, account, Limited.PURCHASES):
        opened = await services.session_purchases.open(account, wanted)
    shown = opened.shown
    answer = {"checkout": shown.id, "status": shown.status, "expires_at": at_unix(shown.expires_at)}
    if wanted.ui is Ui.HOSTED:
        answer["url"] = shown.url
    else:
        answer["client_secret"] = shown.client_secret
    return json_response(answer, 201 if opened.created else 200)


def _wanted(body: CheckoutBody, settings: Settings, page: str | None) -> WantedSession:
    """Raises InvalidInput, ConfigurationError (no address to return to)."""
    plan = body.plan or body.top_up
    if plan is None or (body.plan and body.top_up):
        raise InvalidInput("Please send either `plan` or `top_up`.")
    return_to = None
    if body.return_to is not None:
        return_to = resolved(body.return_to, settings.origins, page or _origin_of(settings))
        if return_to is None:
            raise InvalidInput(
                "`return_to` is no address of an origin in ALLOWED_ORIGINS, nor a path of one."
            )
    if settings.livemode and not (settings.public_url or settings.checkout_return_url):
        raise ConfigurationError(["PUBLIC_URL is missing: Stripe's page sends customers back to it"])
    back = return_to if return_to and is_web_address(return_to, settings.livemode) else None
    return WantedSession(
        plan=plan,
        top_up=body.top_up is not None,
        ui=Ui[body.ui.upper()],
        return_url=return_url(settings, f"http://127.0.0.1:{settings.port}"),
        interval=None if body.interval is None else Interval(body.interval),
        quantity=body.quantity,
        return_to=return_to,
        cancel_url=settings.checkout_cancel_url or back,
        options=settings.checkout_options,
    )


def _origin_of(settings: Settings) -> str | None:
    """The only origin that may be meant by a path, where the caller is no page."""
    origins = list(settings.origins)
    return origins[0] if len(origins) == 1 else None


ROUTES = [Route("/api/checkout", checkout, methods=["POST"])]
