"""The forms of actions: filled in, then confirmed with what would change, then done, once.

What a confirmation shows is no estimate: the action is made in its transaction, and rolled back. The key
under which it is done is made with the form, so that a second click finds it done.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from paidup.errors import Conflict, InsufficientCredits, InvalidInput, NotFound, StripeError
from paidup.operations.actions import OperatorActions
from paidup.operations.audit_log import Corrected, Instruction, Previewed
from paidup.web.dependencies import get_services
from paidup.web.operators.access import PageUser, for_writers
from paidup.web.operators.action_forms import ActionForm, Fields, action_forms, reason_of
from paidup.web.operators.action_words import UNDO, changes_of
from paidup.web.operators.forms import read_form, show
from paidup.web.operators.rendering import ROOT, address
from paidup.web.problems import problem_of

KEY = re.compile(rf"page-[\w-]{{16}}|{UNDO}cor_[0-9a-f]{{24}}", re.ASCII)
CONFIRMED, TYPED, EFFECT = "confirmed", "typed", "effect"
REFUSALS = (InvalidInput, NotFound, Conflict, InsufficientCredits, StripeError)
"""What a form shows beside its fields. Anything else is a page of its own."""


@dataclass(frozen=True)
class _Asked:
    name: str
    form: ActionForm
    fields: Fields


@for_writers
async def open_form(request: Request, operator: PageUser) -> Response:
    """GET /operators/actions/{action}: its form; the query fills it in."""
    form = _form_of(request)
    given = {field.name: request.query_params.get(field.name, "") for field in form.fields}
    if (key := request.query_params.get("key", "")).startswith(UNDO):
        given["key"] = key
    return _shown(request, operator, _Asked(request.path_params["action"], form, given))


@for_writers
async def act(request: Request, operator: PageUser) -> Response:
    """POST /operators/actions/{action}: what it would change; with `confirmed`, do it."""
    fields = await read_form(request, operator)
    asked = _Asked(request.path_params["action"], _form_of(request), fields)
    try:
        if fields.get(CONFIRMED) != "yes":
            return await _confirmation(request, operator, asked)
        wanted = asked.form.typed and fields.get(asked.form.typed, "")
        if wanted and fields.get(TYPED, "") != wanted:
            text = f"Please type {wanted} to confirm."
            return await _confirmation(request, operator, asked, text)
        done = await _make(request, operator, asked)
    except Previewed as preview:
        text = "What would change is no longer what this page said. Nothing was changed: please look again."
        return _to_confirm(request, operator, asked, preview.corrected, text, 409)
    except REFUSALS as error:
        status = problem_of(error).status_code
        return _shown(request, operator, asked, _sentence(error), status)
    return _to_done(request, done)


def _to_done(request: Request, done: Corrected) -> Response:
    where = ("account", {"id": done.account}) if done.account else ("audit-log", {})
    url = address(request, where[0], **where[1], done=done.id)
    return RedirectResponse(url, 303, {"Cache-Control": "no-store"})


def _form_of(request: Request) -> ActionForm:
    name = request.path_params["action"]
    form = action_forms(get_services(request).catalogue).get(name)
    if form is None:
        raise NotFound("There is no such action.")
    return form


async def _confirmation(request: Request, operator: PageUser, asked: _Asked, problem: str = "") -> Response:
    try:
        return _to_done(request, await _make(request, operator, asked, preview=True))  # it is done already
    except Previewed as preview:
        return _to_confirm(request, operator, asked, preview.corrected, problem, 422 if problem else 200)


def _to_confirm(
    request: Request, operator: PageUser, asked: _Asked, previewed: Corrected, problem: str, status: int
) -> Response:
    own = ("key", "reason", *(field.name for field in asked.form.fields))
    kept = {name: asked.fields[name] for name in own if name in asked.fields}
    view = {
        "action": asked.name,
        "form": asked.form,
        "says": asked.form.says(asked.fields),
        "changes": changes_of(previewed, get_services(request).catalogue.named_units),
        "reason": previewed.reason,
        "kept": kept,
        "effect": previewed.effect,
        "typed": asked.form.typed and asked.fields[asked.form.typed],
        "problem": problem,
        "back": {
            name: value
            for name, value in kept.items()
            if name != "reason" and (name != "key" or value.startswith(UNDO))
        },
    }
    return show(request, operator, "confirm.html", view, status)


async def _make(request: Request, operator: PageUser, asked: _Asked, preview: bool = False) -> Corrected:
    services, key = get_services(request), asked.fields.get("key", "")
    if not KEY.fullmatch(key):
        raise InvalidInput("The form has no key. Open it again.")
    actions = OperatorActions(services.catalogue, services.verification, services.settlement, services.clock)
    effect = "" if preview else asked.fields.get(EFFECT, "")
    instruction = Instruction(operator.name, reason_of(asked.fields), key, preview, effect)
    return await asked.form.act(actions, asked.fields, instruction)


def _shown(
    request: Request, operator: PageUser, asked: _Asked, problem: str = "", status: int = 200
) -> Response:
    # After a conflict the key may be in use: what is corrected in the form is another request.
    known = asked.fields.get("key", "") if status != 409 else ""
    key = known if KEY.fullmatch(known) else f"page-{secrets.token_urlsafe(12)}"
    view: dict[str, Any] = {"action": asked.name, "form": asked.form, "values": asked.fields}
    return show(request, operator, "action.html", {**view, "key": key, "problem": problem}, status)


def _sentence(error: Exception) -> str:
    if isinstance(error, StripeError):
        return "Stripe did not answer as expected. Nothing was changed here; the error has been logged."
    return str(error)


async def action(request: Request) -> Response:
    """GET and POST /operators/actions/{action}: its form, and what becomes of it."""
    return await (act if request.method == "POST" else open_form)(request)


ROUTES = [Route(f"{ROOT}/actions/{{action}}", action, methods=["GET", "POST"])]
