"""Requests of operators' programs: they carry OPERATOR_TOKEN as a bearer token.

A browser sends a password by itself, also for a page of another site, and never a bearer token.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from paidup.errors import NotAuthenticated
from paidup.web.dependencies import get_services

Handler = Callable[[Request], Awaitable[Response]]


def for_operators(handler: Handler) -> Handler:
    """Wrap `handler` so that it needs the token. Without OPERATOR_TOKEN, it does not exist (404)."""

    async def guarded(request: Request) -> Response:
        token = get_services(request).settings.operator_token
        if not token:
            raise HTTPException(404, "Not Found")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise NotAuthenticated("The operators' token is needed, as a bearer token.")
        return await handler(request)

    return guarded
