"""POST /webhooks/stripe: verify the signature, store the event, handle it, respond.

The order matters: an event is parsed after its signature is verified, acknowledged after it is
stored, and marked as handled in the transaction that handles it, or after. If handling fails, the response
is still 200: the event is stored, and the reconciler retries it. What fails, or takes too long, after that
transaction undoes none of it: the response has its outcome. If storing fails, it is 503, and Stripe sends it
again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import datetime

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.errors import StorageUnavailable, WebhookRefused
from paidup.payments.outcomes import EventOutcome
from paidup.runtime.clock import now
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
    return json_response({"received": True, "outcome": await _outcome(event, body.decode(), services)})


async def _outcome(event: Event, body: str, services: Services) -> EventOutcome:
    received_at, deadline = now(), time.monotonic() + services.settings.webhook_deadline_s
    if outcome := await _handled_at_once(event, body, received_at, deadline, services):
        return outcome
    if await services.events.store(event, body):
        return await _handled(event, deadline, services)
    # It was handled before; by this very delivery where that failed, or took too long, after its commit.
    outcome = await services.events.outcome_of(event.id, received_at)
    services.metrics.webhooks.labels("handled" if outcome else "repeated").inc()
    services.events.note_delivery(event, outcome or EventOutcome.DUPLICATE)
    return outcome or EventOutcome.DUPLICATE


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


def _until(deadline: float) -> asyncio.Timeout:
    return asyncio.timeout(max(0.0, deadline - time.monotonic()))


async def _handled_at_once(
    event: Event, body: str, received_at: datetime, deadline: float, services: Services
) -> EventOutcome | None:
    """The outcome, of an event that could be handled and stored together; else None."""
    try:
        async with _until(deadline):
            outcome = await services.received(event, body, received_at)
    except Exception as error:
        # It is stored next, to be tried again; where that fails as well, Stripe sends it again.
        log.info("webhook_not_handled_at_once", stripe_event=event.id, type=event.type, error=str(error))
        return None
    if outcome is not None:
        services.metrics.webhooks.labels("handled").inc()
    return outcome


async def _handled(event: Event, deadline: float, services: Services) -> EventOutcome:
    try:
        async with _until(deadline):
            outcome = await services.events.handle(event)
    except Exception as error:
        done = None
        with suppress(StorageUnavailable):
            done = await services.events.outcome_of(event.id)
        if done is None:
            # The event is stored, so the reconciler retries it whatever the reason.
            services.metrics.webhooks.labels("postponed").inc()
            log.exception("webhook_postponed", stripe_event=event.id, type=event.type, error=str(error))
            return EventOutcome.POSTPONED
        log.info("webhook_handled_in_part", stripe_event=event.id, type=event.type, error=str(error))
        outcome = done
    services.metrics.webhooks.labels("handled").inc()
    return outcome


ROUTES = [Route("/webhooks/stripe", stripe_webhook, methods=["POST"])]
