"""Requests of operators' programs: a bearer token, OPERATOR_TOKEN, or OPERATOR_READ_TOKEN to read.

A browser sends a password by itself, also for a page of another site, and never a bearer token.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from enum import StrEnum

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from paidup.domain.operator_settings import OperatorSettings
from paidup.errors import NotAllowed, NotAuthenticated
from paidup.web.dependencies import get_services

Handler = Callable[[Request], Awaitable[Response]]


def for_operators(handler: Handler) -> Handler:
    """Wrap `handler` so that it needs a token. Where no token is set, it does not exist (404)."""

    async def guarded(request: Request) -> Response:
        settings = get_services(request).settings
        if not (settings.operator_token or settings.operator_read_token):
            raise HTTPException(404, "Not Found")
        role = role_of(settings, bearer_token(request))
        if role is None:
            raise NotAuthenticated("The operators' token is needed, as a bearer token.")
        if role is Role.READER and request.method not in ("GET", "HEAD"):
            raise NotAllowed("OPERATOR_READ_TOKEN reads, and changes nothing.")
        return await handler(request)

    return guarded


class Role(StrEnum):
    WRITER = "writer"
    READER = "reader"


def bearer_token(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def role_of(settings: OperatorSettings, token: str) -> Role | None:
    """Whose token it is, or None where it is neither."""
    for role, wanted in ((Role.WRITER, settings.operator_token), (Role.READER, settings.operator_read_token)):
        if wanted and hmac.compare_digest(token.encode(), wanted.encode()):
            return role
    return None
