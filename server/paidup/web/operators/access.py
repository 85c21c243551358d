"""Who an operator is, and what they may do: read, or act.

- A program sends OPERATOR_TOKEN or OPERATOR_READ_TOKEN as a bearer token.
- With OPERATOR_HEADER, a trusted proxy (FORWARDED_ALLOW_IPS) names the user of each request.
- Otherwise a person signs in with one of the tokens, and gets a session: a signed cookie that expires. It is
  signed with SECRET_KEY and the token, so a new token ends all of its sessions.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import msgspec
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from paidup.errors import NotAllowed, NotAuthenticated, PaidupError
from paidup.settings import Settings
from paidup.web.dependencies import get_services
from paidup.web.http import PRINTABLE, is_own_origin
from paidup.web.http_limits import FROM_PROXY
from paidup.web.operator_token import Role, bearer_token, role_of
from paidup.web.operators.rendering import ROOT, address, render
from paidup.web.problems import on_paidup_error

COOKIE = "paidup_operator"
SESSION_S = 8 * 3600
MAX_NAME = 200


@dataclass(frozen=True)
class PageUser:
    """`name` is what the audit log shows. `session` is what the tokens of their forms are bound to."""

    name: str
    may_act: bool
    session: str
    signed_in: bool = False
    """By a session, which can be ended."""


Page = Callable[[Request, PageUser], Awaitable[Response]]


def for_readers(page: Page) -> Callable[[Request], Awaitable[Response]]:
    """Wrap a page so that it needs an operator. Browsers get errors as pages, programs as JSON."""

    async def guarded(request: Request) -> Response:
        if not get_services(request).settings.has_operators:
            raise HTTPException(404, "Not Found")
        operator = None
        try:
            operator = identify(request)
            if operator is not None:
                if operator.session and "origin" in request.headers:
                    # A page's own request, no link: CORS may let other origins read, also with cookies.
                    require_own_page(request)
                return await page(request, operator)
        except PaidupError as error:
            return await error_page(request, error, operator)
        if wants_page(request):
            return _ask_to_sign_in(request)
        raise NotAuthenticated("The operators' token is needed, as a bearer token.")

    return guarded


def for_writers(page: Page) -> Callable[[Request], Awaitable[Response]]:
    """The same for a page that changes something."""

    async def writing(request: Request, operator: PageUser) -> Response:
        if not operator.may_act:
            raise NotAllowed("You may read these pages, and not act on them.")
        return await page(request, operator)

    return for_readers(writing)


def identify(request: Request) -> PageUser | None:
    """Whose request it is; None where they have to sign in. Raises NotAllowed where no proxy names them."""
    settings = get_services(request).settings
    if program := role_of(settings, bearer_token(request)):
        return PageUser(program, program is Role.WRITER, "")
    if settings.operator_header:
        user = _named_by_proxy(request, settings)
        return PageUser(user, settings.may_write(user), f"user:{user}")
    return session_of(request, settings)


# A proxy that names the user


def _named_by_proxy(request: Request, settings: Settings) -> str:
    header = settings.operator_header
    if FROM_PROXY not in request.scope.get("extensions", {}):
        raise NotAllowed(
            f"{header} names the user, and is believed from a proxy in FORWARDED_ALLOW_IPS only: this request"
            " did not come through one, or the server is not `paidup serve`."
        )
    given = [value.strip() for value in request.headers.getlist(header)]
    if len(given) != 1 or not 0 < len(given[0]) <= MAX_NAME or not re.match(PRINTABLE, given[0]):
        raise NotAllowed(f"The proxy did not name one user in {header}.")
    return given[0]


def require_own_page(request: Request) -> None:
    """Raises NotAllowed where a page of another site sent the request, or no page did."""
    site = request.headers.get("sec-fetch-site")
    own = (
        is_own_origin(request.headers.get("origin"), request.headers)
        if site is None
        else site == "same-origin"
    )
    if not own:
        raise NotAllowed("This request is not from a page of this server. Nothing was changed.")


# Sessions


def new_session(settings: Settings, role: Role, name: str) -> str:
    """The value of a session's cookie."""
    wanted = next(serializer for is_of, serializer in _serializers(settings) if is_of is role)
    return str(wanted.dumps([secrets.token_urlsafe(12), name]))


def session_of(request: Request, settings: Settings) -> PageUser | None:
    cookie = request.cookies.get(COOKIE, "")
    for role, serializer in _serializers(settings) if cookie else ():
        try:
            session, name = serializer.loads(cookie, max_age=SESSION_S)
        except BadData:
            continue
        return PageUser(name, role is Role.WRITER, f"session:{session}", signed_in=True)
    return None


def _serializers(settings: Settings) -> Iterator[tuple[Role, URLSafeTimedSerializer]]:
    for role, token in ((Role.WRITER, settings.operator_token), (Role.READER, settings.operator_read_token)):
        if token:
            key = msgspec.json.encode([settings.secret_key, token])
            yield role, signer(key, f"paidup.operators.session.{role}.v1")


def signer(key: bytes | str, salt: str) -> URLSafeTimedSerializer:
    options = {"digest_method": hashlib.sha256, "key_derivation": "hmac"}
    return URLSafeTimedSerializer(key, salt=salt, signer_kwargs=options)


# Answers


def wants_page(request: Request) -> bool:
    """A browser does. A program that says nothing gets JSON where it is refused."""
    return "text/html" in request.headers.get("accept", "")


def wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "") and not wants_page(request)


def _ask_to_sign_in(request: Request) -> Response:
    here = request.url.path.removeprefix(request.scope.get("root_path", "")).removeprefix(ROOT)
    where = f"{here}?{request.url.query}" if request.url.query else here
    unsent = request.method == "POST" and here.startswith("/actions/")  # its form is opened again
    wanted = where if unsent or request.method == "GET" else None
    there = address(request, "sign-in", next=wanted, unsent=1 if unsent else None)
    return RedirectResponse(there, 303, {"Cache-Control": "no-store"})


async def error_page(request: Request, error: PaidupError, operator: PageUser | None) -> Response:
    """A problem as a page for a browser, and as it is for a program."""
    response = await on_paidup_error(request, error)
    if not wants_page(request):
        return response
    problem = msgspec.json.decode(bytes(response.body))
    shown = replace(operator, signed_in=False) if operator else None
    view = {"operator": shown, "title": problem["title"], "text": problem["detail"]}
    page = render(request, "error.html", view, response.status_code)
    if "retry-after" in response.headers:
        page.headers["Retry-After"] = response.headers["retry-after"]
    return page
