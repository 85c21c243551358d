"""Turns errors into HTTP responses: a status and an RFC 9457 problem document."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from paidup import errors
from paidup.web.request_ids import current_request_id, headers_of, id_of

log = structlog.get_logger(__name__)

TYPE_PREFIX = "https://paidup.dev/problems/"

_PROBLEMS: list[tuple[type[errors.PaidupError], int, str, str]] = [
    (errors.UnknownPlan, 422, "unknown-plan", "Unknown plan"),
    (errors.KeyMismatch, 400, "key-mismatch", "Two different idempotency keys"),
    (errors.WebhookRefused, 400, "webhook-refused", "The delivery was refused"),
    (errors.InvalidInput, 422, "invalid-input", "The request is not valid"),
    (errors.NotAuthenticated, 401, "not-authenticated", "Authentication required"),
    (errors.InsufficientScope, 403, "insufficient-scope", "The token's scope does not allow this"),
    (errors.NotAllowed, 403, "not-allowed", "Not allowed"),
    (errors.NotFound, 404, "not-found", "Not found"),
    (errors.KeyReused, 409, "key-reused", "The key was used with another amount"),
    (errors.ReservationOver, 409, "reservation-over", "The reservation has ended"),
    (errors.AlreadySubscribed, 409, "already-subscribed", "Already subscribed"),
    (errors.AlreadyOnPlan, 409, "already-on-plan", "Already on this plan"),
    (errors.NotSubscribed, 409, "not-subscribed", "No active subscription"),
    (errors.SeveralSubscriptions, 409, "several-subscriptions", "Several subscriptions"),
    (errors.ChangeRefused, 409, "change-refused", "Stripe does not make this change"),
    (errors.InvoiceUnpaid, 409, "invoice-unpaid", "An invoice is unpaid"),
    (errors.PaymentUnderWay, 409, "payment-under-way", "A payment is being activated"),
    (errors.Conflict, 409, "conflict", "The request conflicts with the current state"),
    (errors.InsufficientCredits, 402, "insufficient-credits", "Not enough credits"),
    (errors.TooManyRequests, 429, "too-many-requests", "Too many requests"),
    (errors.TooManySockets, 503, "too-many-sockets", "Too many sockets"),
    (errors.Restarting, 503, "restarting", "Restarting"),
    (errors.StripeUnavailable, 503, "stripe-unavailable", "Stripe is not responding"),
    (errors.StripeRefused, 502, "stripe-refused", "Stripe refused the request"),
    (errors.IdentityUnavailable, 503, "identity-unavailable", "The identity provider is not responding"),
    (errors.StorageUnavailable, 503, "storage-unavailable", "The database is not responding"),
    (errors.ConfigurationError, 503, "not-configured", "The server's configuration is incomplete"),
]
_HTTP_PROBLEMS = {
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    413: ("too-large", "The body is too large"),
}
"""Slugs and titles of Starlette's HTTP errors. Any other status has the slug `http`."""


def problem(status: int, slug: str, title: str, detail: str, **more: Any) -> Response:
    """A problem document. `more` holds its extension members."""
    body = {"type": TYPE_PREFIX + slug, "title": title, "status": status, "detail": detail, **more}
    if request_id := current_request_id():
        body["request_id"] = request_id
    headers = {"Cache-Control": "no-store"}
    if status == 503:
        headers["Retry-After"] = "1"
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(msgspec.json.encode(body), status, headers, "application/problem+json")


def problem_of(error: errors.PaidupError, **more: Any) -> Response:
    """The problem document for a PaidupError."""
    for kind, status, slug, title in _PROBLEMS:
        if isinstance(error, kind):
            response = problem(status, slug, title, _detail(error), **more)
            if isinstance(error, errors.TooManyRequests | errors.ServerBusy):
                response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
            return response
    raise error


def _detail(error: errors.PaidupError) -> str:
    # Details of outages and misconfigurations are for the log only.
    if isinstance(error, errors.OutcomeUnknown):
        return "It took too long, and may still be done. Please send the same key again."
    if isinstance(error, errors.StorageUnavailable):
        return "Nothing was changed. Please try again in a moment."
    if isinstance(error, errors.ConfigurationError | errors.StripeRefused):
        return "The error has been logged."
    if isinstance(error, errors.StripeUnavailable):
        return "Please try again in a moment."
    return str(error)


async def on_paidup_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, errors.PaidupError)
    members = {name: getattr(error, name, None) for name in ("invoice", "scope", "subscriptions", "reason")}
    response = problem_of(error, **{name: value for name, value in members.items() if value})
    if isinstance(error, errors.ServerBusy):
        return response  # counted with the refused sockets
    request.app.state.services.metrics.requests_failed.labels(response.status_code).inc()
    if response.status_code >= 500:
        log.error("request_failed", path=request.url.path, error=str(error), kind=type(error).__name__)
    return response


async def on_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    slug, title = _HTTP_PROBLEMS.get(error.status_code, ("http", error.detail))
    response = problem(error.status_code, slug, title, error.detail)
    response.headers.update(error.headers or {})
    return response


async def on_client_left(request: Request, _: Exception) -> Response:
    """The client disconnected while sending its body: no one reads this response."""
    log.debug("client_left", path=request.url.path)
    return Response(status_code=400)


async def on_exception(request: Request, error: Exception) -> Response:
    request.app.state.services.metrics.requests_failed.labels(500).inc()
    # Starlette re-raises the error, and its traceback is logged. This runs outside of all middleware.
    request_id = id_of(request.scope)
    detail = "The error has been logged."
    response = problem(500, "internal", "Internal server error", detail, request_id=request_id)
    response.headers.update(headers_of(request_id))
    log.error("request_failed", path=request.url.path, kind=type(error).__name__, request_id=request_id)
    return response
