"""Signing in with one of the operators' tokens, and out again."""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from paidup.errors import InvalidInput, PaidupError
from paidup.web.checkout_status import client_address
from paidup.web.dependencies import get_services
from paidup.web.http import PRINTABLE
from paidup.web.operator_token import role_of
from paidup.web.operators.access import (
    COOKIE,
    MAX_NAME,
    SESSION_S,
    PageUser,
    error_page,
    for_readers,
    new_session,
    require_own_page,
    session_of,
)
from paidup.web.operators.forms import read_fields, read_form
from paidup.web.operators.rendering import ROOT, address, render

NEXT = re.compile(r"(?:/[A-Za-z][\w.~%/-]*)?(?:\?[\w.~%&=+:@,;!*-]*)?", re.ASCII)
"""A page of the operators', without the part that all have: it leads nowhere else."""


async def sign_in(request: Request) -> Response:
    """GET and POST /operators/sign-in: the form, and a session. Neither where a proxy names the user."""
    settings = get_services(request).settings
    if not settings.has_operators:
        raise HTTPException(404, "Not Found")
    if settings.operator_header:
        return _redirect(request)
    if request.method != "POST":
        return _asked(request)
    try:
        require_own_page(request)
        await get_services(request).address_limits.count_sign_in(client_address(request))
        return _signed_in(request, await read_fields(request))
    except PaidupError as error:
        return await error_page(request, error, None)


def _asked(request: Request) -> Response:
    following = request.query_params.get("next", "")
    if session_of(request, get_services(request).settings):
        return _redirect(request, following)
    from_elsewhere = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
    if from_elsewhere and "again" not in request.query_params:
        # A link on another site led here: the browser keeps the cookie back (SameSite=Strict) until a page of
        # this server goes on.
        return render(request, "continue.html", {"next": following})
    ended = "Your session has ended. Nothing was changed." if "unsent" in request.query_params else ""
    return _form(request, {"next": following}, ended, 200)


def _signed_in(request: Request, fields: dict[str, str]) -> Response:
    settings = get_services(request).settings
    name, role = fields.get("name", "").strip(), role_of(settings, fields.get("token", "").strip())
    if not 0 < len(name) <= MAX_NAME or not re.match(PRINTABLE, name):
        return _form(request, fields, "Please give your name: the audit log shows who acted.")
    if role is None:
        return _form(request, fields, "This is not the operators' token.")
    response = _redirect(request, fields.get("next", ""))
    response.set_cookie(
        COOKIE,
        new_session(settings, role, name),
        max_age=SESSION_S,
        path=address(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


def _form(request: Request, fields: dict[str, str], problem: str, status: int = 422) -> Response:
    following, name = fields.get("next", ""), fields.get("name", "")
    view = {"next": following, "name": name, "problem": problem}
    return render(request, "sign_in.html", view, status)


def _redirect(request: Request, following: str = "") -> Response:
    where = following if NEXT.fullmatch(following) and ".." not in unquote(following) else ""
    # Relative to this server: behind a proxy, it does not know its own address.
    return RedirectResponse(f"{address(request)}{where}", 303, {"Cache-Control": "no-store"})


@for_readers
async def sign_out(request: Request, operator: PageUser) -> Response:
    """POST /operators/sign-out: forget the session."""
    if not operator.signed_in:
        raise InvalidInput("There is no session to end.")
    await read_form(request, operator)
    response = RedirectResponse(address(request, "sign-in"), 303, {"Cache-Control": "no-store"})
    response.delete_cookie(COOKIE, path=address(request), httponly=True, samesite="strict")
    return response


ROUTES = [
    Route(f"{ROOT}/sign-in", sign_in, methods=["GET", "POST"]),
    Route(f"{ROOT}/sign-out", sign_out, methods=["POST"]),
]
