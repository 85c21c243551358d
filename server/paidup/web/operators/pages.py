"""The operators' pages that only show: an overview, what was searched for, and all that is known of it.

The overview, an invoice and a search are JSON for `Accept: application/json`.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from paidup.errors import NotFound
from paidup.operations.account_report import report_account
from paidup.operations.audit_log import MAX_LISTED, list_corrections
from paidup.operations.event_deliveries import read_delivery
from paidup.operations.explain import explain
from paidup.operations.overview import load_overview
from paidup.operations.search import Found, Kind, find_matches, read_event
from paidup.operations.unhandled_events import SHOWN_FOR
from paidup.web.dependencies import get_services
from paidup.web.http import json_response, whole_number
from paidup.web.operators import actions_page, sign_in
from paidup.web.operators.access import PageUser, for_readers, wants_json
from paidup.web.operators.action_words import revoked_in
from paidup.web.operators.forms import show
from paidup.web.operators.rendering import ROOT, address
from paidup.web.operators.reports import shown_invoices, shown_sessions

MAX_REFERENCE_LENGTH = 255
"""Characters. Stripe's ids and external ids are not longer."""


@for_readers
async def show_overview(request: Request, operator: PageUser) -> Response:
    """GET /operators: alarms and lists."""
    overview = await load_overview(await get_services(request).alarms.current())
    if wants_json(request):
        return json_response(overview)
    view = {"overview": overview, "unhandled_for": SHOWN_FOR, "here": "overview"}
    return show(request, operator, "overview.html", view)


@for_readers
async def show_invoice(request: Request, operator: PageUser) -> Response:
    """GET /operators/invoices/{invoice}: all that is known of one invoice or Checkout Session."""
    reference = request.path_params["invoice"]
    if not _may_exist(reference):
        raise NotFound("Nothing matches this reference.")
    explanation = await explain(reference)
    if wants_json(request):
        return json_response(explanation, 200 if explanation.found else 404)
    if not explanation.found:
        return _nothing_found(request, operator, reference)
    view: dict[str, Any] = {
        "explanation": explanation,
        "invoices": shown_invoices(explanation, get_services(request).catalogue.named_units),
        "sessions": shown_sessions(explanation),
        "revoked": revoked_in(explanation.corrections),
    }
    return show(request, operator, "explanation.html", view)


@for_readers
async def find(request: Request, operator: PageUser) -> Response:
    """GET /operators/find?ref=...: the one page that it leads to, or a list. As JSON, `paidup explain`'s."""
    reference = request.query_params.get("ref", "").strip()
    if not _may_exist(reference):
        raise NotFound("Nothing matches this reference.")
    if wants_json(request):
        explanation = await explain(reference)
        return json_response(explanation, 200 if explanation.found else 404)
    found = await find_matches(reference) if reference else []
    if len(found) == 1:
        path, query = _page_of(found[0])
        return RedirectResponse(address(request, *path, **query), 303, {"Cache-Control": "no-store"})
    if not found:
        return _nothing_found(request, operator, reference)
    matches = [(each, *_page_of(each)) for each in found]
    return show(request, operator, "matches.html", {"searched": reference, "matches": matches})


def _may_exist(reference: str) -> bool:
    return "\0" not in reference and len(reference) <= MAX_REFERENCE_LENGTH  # PostgreSQL rejects NUL


def _nothing_found(request: Request, operator: PageUser, reference: str) -> Response:
    return show(request, operator, "nothing_found.html", {"searched": reference}, 404)


def _page_of(found: Found) -> tuple[tuple[str, ...], dict[str, str]]:
    """The path and the query of its page."""
    match found.kind:
        case Kind.ACCOUNT | Kind.EVENT:
            return (found.kind,), {"id": found.id}
        case Kind.INVOICE:
            return ("invoices", found.id), {}
        case Kind.DELIVERY:
            return ("deliveries", found.id), {}
        case Kind.CORRECTION:
            return ("audit-log",), {"done": found.id}


@for_readers
async def show_account(request: Request, operator: PageUser) -> Response:
    """GET /operators/account?id=...: balance, grants, entries, payments, corrections, deliveries."""
    named = request.query_params.get("id", "")
    if not named or not _may_exist(named):
        raise NotFound("There is no such account.")
    report = await report_account(named, whole_number(request, "before"))
    view = {
        "report": report,
        "named": named,
        "before": request.query_params.get("before", ""),
        "done": next(
            (each for each in report.corrections if each.id == request.query_params.get("done")), None
        ),
        "revoked": revoked_in(report.corrections),
    }
    return show(request, operator, "account.html", view)


@for_readers
async def show_event(request: Request, operator: PageUser) -> Response:
    """GET /operators/event?id=...: one of Stripe's events, with its payload."""
    named = request.query_params.get("id", "")
    if not named or not _may_exist(named):
        raise NotFound("There is no such event.")
    return show(request, operator, "event.html", {"report": await read_event(named)})


@for_readers
async def show_delivery(request: Request, operator: PageUser) -> Response:
    """GET /operators/deliveries/{delivery}: an outbound event as one endpoint got it, and its answer."""
    named = request.path_params["delivery"]
    if not (named.isascii() and named.isdecimal() and len(named) <= 18):
        raise NotFound("There is no such delivery.")
    return show(request, operator, "delivery.html", {"delivery": await read_delivery(int(named))})


@for_readers
async def show_audit_log(request: Request, operator: PageUser) -> Response:
    """GET /operators/audit-log: what operators have done, newest first; with `until`, from that row on."""
    done, until = (request.query_params.get(name, "") for name in ("done", "until"))
    newest = found = await list_corrections(limit=MAX_LISTED + 1)
    if begins := until or (done if done not in {each.id for each in newest[:MAX_LISTED]} else ""):
        found = await list_corrections(limit=MAX_LISTED + 1, until=begins) or newest
    corrections = found[:MAX_LISTED]
    view = {
        "corrections": corrections,
        "done": done,
        "is_newest": found is newest,
        "older": found[MAX_LISTED].id if len(found) > MAX_LISTED else "",
        "revoked": revoked_in(corrections),
        "here": "audit-log",
    }
    return show(request, operator, "audit_log.html", view)


ROUTES = [
    Route(ROOT, show_overview, methods=["GET"]),
    Route(f"{ROOT}/find", find, methods=["GET"]),
    Route(f"{ROOT}/invoices/{{invoice}}", show_invoice, methods=["GET"]),
    Route(f"{ROOT}/account", show_account, methods=["GET"]),
    Route(f"{ROOT}/event", show_event, methods=["GET"]),
    Route(f"{ROOT}/deliveries/{{delivery}}", show_delivery, methods=["GET"]),
    Route(f"{ROOT}/audit-log", show_audit_log, methods=["GET"]),
    *actions_page.ROUTES,
    *sign_in.ROUTES,
]
