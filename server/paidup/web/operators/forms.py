"""Forms of the operators' pages: each carries a token that only its operator's page has, for an hour.

A browser sends the session's cookie, or a proxy names the user, also for other sites' pages: so a POST has to
come from a page of this server, and to bring that page's token.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.requests import Request
from starlette.responses import Response

from paidup.errors import InvalidInput, NotAllowed
from paidup.settings import Settings
from paidup.web.dependencies import get_services
from paidup.web.http import read_body
from paidup.web.operators.access import PageUser, require_own_page, signer
from paidup.web.operators.rendering import render

FORM_S = 3600
TOKEN_FIELD = "form_token"  # noqa: S105
FORM_TYPE = "application/x-www-form-urlencoded"
MAX_FIELDS = 40


def form_token(request: Request, operator: PageUser) -> str:
    """The token of this operator's forms. It is for people: a program's request has none."""
    return str(_tokens(get_services(request).settings).dumps(operator.session))


def show(
    request: Request, operator: PageUser, template: str, view: dict[str, Any], status: int = 200
) -> Response:
    """A page for an operator, whose forms have their token. `units`: the names, where there are several."""
    given = {"operator": operator, "form_token": form_token(request, operator)}
    units = get_services(request).catalogue.named_units
    return render(request, template, {**given, "units": units, **view}, status)


async def read_form(request: Request, operator: PageUser) -> dict[str, str]:
    """The fields of a form that this operator's own page has sent. Raises NotAllowed, InvalidInput."""
    require_own_page(request)
    fields = await read_fields(request)
    try:
        session = _tokens(get_services(request).settings).loads(fields.get(TOKEN_FIELD, ""), max_age=FORM_S)
    except BadData:
        session = None
    if not operator.session or session != operator.session:
        raise NotAllowed(
            "This form has expired, or is of another session. Nothing was changed: open it again."
        )
    return fields


async def read_fields(request: Request) -> dict[str, str]:
    """The fields of a form. Of several with one name, the last. Raises InvalidInput, HTTPException 413."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise InvalidInput(f"A form is sent as {FORM_TYPE}.")
    body = await read_body(request, get_services(request).settings.request_max_bytes)
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:  # not ASCII, not UTF-8 where it is escaped, or too many
        raise InvalidInput("The form is not valid.") from None
    return {name: value.replace("\r\n", "\n") for name, value in pairs}


def _tokens(settings: Settings) -> URLSafeTimedSerializer:
    return signer(settings.secret_key, "paidup.operators.form.v1")
