"""Reads request bodies with a size limit, validates them, and writes JSON responses."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from paidup.errors import InvalidInput

T = TypeVar("T")

PRINTABLE = r"\A[^\x00-\x1f\x7f]+\Z"
"""Text without control characters: it can be logged, and PostgreSQL can store it (no NUL)."""


DISCARDED_BYTES = 1024 * 1024
"""A body over its limit is read to its end up to this size, as much as the proxies in deploy/ let pass.

A sender that is still writing when the answer comes may lose it: HAProxy closes the connection then.
"""


async def read_body(request: Request, limit: int) -> bytes:
    """The raw body. Raises HTTPException 413 above `limit` bytes, and keeps none of it.

    It is kept, so that a handler can run again where the database aborted its transaction.
    """
    if hasattr(request.state, "paidup_body"):
        return bytes(request.state.paidup_body)
    too_large = HTTPException(413, f"The body is larger than {limit} bytes.")
    bound = max(limit, DISCARDED_BYTES)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > bound:
        raise too_large
    body, received = bytearray(), 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > bound:
            raise too_large
        if received <= limit:
            body += chunk
    if received > limit:
        raise too_large
    request.state.paidup_body = bytes(body)  # a host has its own names there
    return bytes(body)


async def read_json(request: Request, kind: type[T], default: T | None = None) -> T:
    """The body as `kind`, or `default` where there is no body.

    Raises InvalidInput, which says what is wrong and where, or HTTPException 413.
    """
    limit = request.app.state.services.settings.request_max_bytes
    body = await read_body(request, limit)
    if default is not None and not body:
        return default
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The body is not valid: {error}") from None


def is_own_origin(origin: str | None, headers: Headers) -> bool:
    """Whether a page of this very server sent the request: its origin has the request's own host."""
    scheme, _, host = (origin or "").partition("://")
    return scheme in ("http", "https") and bool(host) and host == headers.get("host", "").lower()


def whole_number(request: Request, name: str) -> int | None:
    """A query parameter, or None if it is omitted or empty. Raises InvalidInput."""
    text = request.query_params.get(name)
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidInput(f"`{name}` is a whole number.")
    return int(text)


def json_response(value: object, status: int = 200) -> Response:
    """A JSON response that must not be cached."""
    return Response(
        msgspec.json.encode(value), status, {"Cache-Control": "no-store"}, media_type="application/json"
    )
