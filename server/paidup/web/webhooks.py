"""POST /webhooks/stripe: verify the signature, store the event, handle it, respond.

The order matters: an event is parsed after its signature is verified, acknowledged after it is
stored, and marked as handled in the transaction that handles it, or after. If handling fails, the response
is still 200: the event is stored, and the reconciler retries it. If storing fails, it is 503, and Stripe
sends it again.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.errors import WebhookRefused
from paidup.payments.outcomes import EventOutcome
from paidup.services import Services
from paidup.stripe_api.events import Event
from paidup.stripe_api.schemas import decode
from paidup.stripe_api.webhook_signatures import PROBE_TYPE, verify_signature
from paidup.web.http import json_response, read_body

log = structlog.get_logger(__name__)


async def stripe_webhook(request: Request) -> Response:
    services: Services = request.app.state.services
    body = await read_body(request, services.settings.webhook_max_bytes)
    try:
        event = _verified(body, request.headers.get("stripe-signature"), services)
    except WebhookRefused:
        services.metrics.webhooks.labels("refused").inc()
        raise
    if event.type == PROBE_TYPE:
        return json_response({"received": True, "outcome": EventOutcome.UNHANDLED_TYPE})
    text, deadline = body.decode(), time.monotonic() + services.settings.webhook_deadline_s
    if outcome := await _handled_at_once(event, text, deadline, services):
        return json_response({"received": True, "outcome": outcome})
    if not await services.events.store(event, text):
        services.metrics.webhooks.labels("repeated").inc()
        services.events.note_duplicate(event)
        return json_response({"received": True, "outcome": EventOutcome.DUPLICATE})
    return json_response({"received": True, "outcome": await _handled(event, deadline, services)})


def _verified(body: bytes, header: str | None, services: Services) -> Event:
    settings = services.settings
    verify_signature(body, header, settings.webhook_secrets, settings.webhook_tolerance_s)
    try:
        event = decode(Event, body)
        event.about()
    except msgspec.DecodeError as error:
        raise WebhookRefused(f"The body is not an event: {error}") from None
    if event.livemode != settings.livemode:
        mode = "live" if event.livemode else "test"
        raise WebhookRefused(f"This is a {mode}-mode event, and the server runs in the other mode.")
    return event


async def _handled_at_once(
    event: Event, body: str, deadline: float, services: Services
) -> EventOutcome | None:
    """The outcome, of an event that could be handled and stored together; else None."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            outcome = await services.received(event, body)
    except Exception as error:
        # It is stored next, to be tried again; where that fails as well, Stripe sends it again.
        log.info("webhook_not_handled_at_once", stripe_event=event.id, type=event.type, error=str(error))
        return None
    if outcome is not None:
        services.metrics.webhooks.labels("handled").inc()
    return outcome


async def _handled(event: Event, deadline: float, services: Services) -> EventOutcome:
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            outcome = await services.events.handle(event)
    except Exception as error:
        # The event is stored, so the reconciler retries it whatever the reason.
        services.metrics.webhooks.labels("postponed").inc()
        log.exception("webhook_postponed", stripe_event=event.id, type=event.type, error=str(error))
        return EventOutcome.POSTPONED
    services.metrics.webhooks.labels("handled").inc()
    return outcome


ROUTES = [Route("/webhooks/stripe", stripe_webhook, methods=["POST"])]
