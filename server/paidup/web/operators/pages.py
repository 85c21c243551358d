"""The operators' pages under /operators: an overview, and everything known about one invoice.

They need OPERATOR_TOKEN; while it is empty they do not exist (404). Every request is read-only.
Each page is HTML, or JSON for `Accept: application/json`.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.operations.explain import REFERENCE_KINDS, UNHANDLED_SHOWN_FOR, explain
from paidup.operations.overview import load_overview
from paidup.services import Services
from paidup.web.http import json_response
from paidup.web.operators.rendering import render
from paidup.web.operators.reports import shown_invoices, shown_sessions
from paidup.web.problems import problem

MAX_REFERENCE_LENGTH = 255
"""Characters. Stripe's ids and external ids are not longer."""
CHALLENGE = 'Basic realm="Paidup operators", charset="UTF-8"'


async def show_overview(request: Request) -> Response:
    """GET /operators: alarms and lists."""
    services: Services = request.app.state.services
    overview = await load_overview(await services.alarms.current())
    if _wants_json(request):
        return json_response(overview)
    return render(request, "overview.html", overview=overview, unhandled_for=UNHANDLED_SHOWN_FOR)


async def show_invoice(request: Request) -> Response:
    """GET /operators/invoices/{invoice}: the explanation of one invoice."""
    return await _explanation_response(request, request.path_params["invoice"])


async def find(request: Request) -> Response:
    """GET /operators/find?ref=...: the explanation of any reference that `paidup explain` takes."""
    return await _explanation_response(request, request.query_params.get("ref", "").strip())


async def _explanation_response(request: Request, reference: str) -> Response:
    if "\0" in reference or len(reference) > MAX_REFERENCE_LENGTH:  # PostgreSQL rejects NUL
        raise HTTPException(404, "Nothing matches this reference.")
    explanation = await explain(reference)
    status = 200 if explanation.found else 404
    if _wants_json(request):
        return json_response(explanation, status)
    if not explanation.found:
        return render(request, "nothing_found.html", 404, reference=reference, kinds=REFERENCE_KINDS)
    view: dict[str, Any] = {"invoices": shown_invoices(explanation), "sessions": shown_sessions(explanation)}
    return render(request, "explanation.html", explanation=explanation, **view)


def _require_operator(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Wrap `handler` so that it needs the operators' token."""

    async def guarded(request: Request) -> Response:
        services: Services = request.app.state.services
        token = services.settings.operator_token
        if not token:
            raise HTTPException(404, "Not Found")
        if not _has_token(request.headers.get("authorization", ""), token):
            response = problem(
                401, "not-authenticated", "Authentication required", "The operators' token is needed."
            )
            response.headers["WWW-Authenticate"] = CHALLENGE
            return response
        return await handler(request)

    return guarded


def _has_token(header: str, token: str) -> bool:
    """Whether the header has the token, as a bearer token or as the password of any user (RFC 7617)."""
    scheme, _, credentials = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            credentials = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")[2]
        except ValueError:  # not base64, not ASCII or not UTF-8
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(credentials.strip().encode(), token.encode())


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


ROUTES = [
    Route("/operators", _require_operator(show_overview), methods=["GET"]),
    Route("/operators/find", _require_operator(find), methods=["GET"]),
    Route("/operators/invoices/{invoice}", _require_operator(show_invoice), methods=["GET"]),
]
