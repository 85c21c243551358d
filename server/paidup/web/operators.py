"""GET /operators: what is pending, parked and alarming, and the whole story of one invoice.

Owns the operators' token and the rendering; what it shows is gathered by `explain.py`, the
same as on the command line. There is no page at all while OPERATOR_TOKEN is empty. Refuses
to change anything: every request reads, and no script runs on the page. All text is escaped,
since customers choose some of it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tortoise.expressions import Q

from paidup import __version__
from paidup.clock import now
from paidup.db.connection import storage_errors
from paidup.db.models import Invoice, StripeEvent, TimelineEntry
from paidup.domain.decisions import InvoiceStatus
from paidup.domain.messages import Stage, stage_of
from paidup.operations.explain import (
    KEPT_SHOWN,
    Explanation,
    InvoiceReport,
    StoredEvent,
    event_recommendation,
    explain,
    format_detail,
    headline,
    moment,
    span,
    stored_event,
    time_of_day,
)
from paidup.payments.outcomes import EventOutcome
from paidup.reconciliation.alarms import Alarm
from paidup.services import Services
from paidup.web.http import json_response
from paidup.web.problems import problem

SHOWN = 100
LONGEST = 255
"""Characters of a name: what Stripe gives, and more than an external id has."""
UNHANDLED_AFTER = timedelta(seconds=60)
"""An event that nobody has tried for so long is shown beside those that failed."""
CHALLENGE = 'Basic realm="Paidup operators", charset="UTF-8"'

_PAGE = (Path(__file__).parent / "operators.html").read_text()
_STYLE = _PAGE.partition("<style>")[2].partition("</style>")[0]
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}


# What is shown


class Pending(msgspec.Struct, frozen=True):
    """An invoice whose wait is not over. `last` is the newest step of its timeline."""

    invoice: str
    account: str
    plan: str | None
    status: InvoiceStatus
    stage: Stage
    created_at: datetime
    next_check_at: datetime | None
    last: str | None
    last_at: datetime | None


class SettledInvoice(msgspec.Struct, frozen=True):
    invoice: str
    account: str
    plan: str | None
    credits: int
    via: str | None
    settled_at: datetime | None
    created_at: datetime


class Overview(msgspec.Struct, frozen=True):
    """The newest `SHOWN` of each; the totals count all. `kept` are events of types that nobody handles."""

    at: datetime
    alarms: list[Alarm]
    pending: list[Pending]
    pending_total: int
    parked: list[StoredEvent]
    parked_total: int
    kept: list[StoredEvent]
    settled: list[SettledInvoice]


async def look(alarms: Sequence[Alarm]) -> Overview:
    """What an operator should see first. Raises StorageUnavailable."""
    at = now()
    with storage_errors():
        waiting = Invoice.filter(next_check_at__isnull=False)
        tried = Q(attempts__gt=0) | Q(received_at__lt=at - UNHANDLED_AFTER)
        stuck = StripeEvent.filter(tried, handled_at__isnull=True)
        kept = StripeEvent.filter(outcome=EventOutcome.UNHANDLED_TYPE, received_at__gte=at - KEPT_SHOWN)
        settled = Invoice.filter(settled_at__not_isnull=True).order_by("-settled_at").limit(SHOWN)
        return Overview(
            at=at,
            alarms=list(alarms),
            pending=await _pending(
                await waiting.order_by("-created_at").limit(SHOWN).select_related("account")
            ),
            pending_total=await waiting.count(),
            parked=[stored_event(row) for row in await stuck.order_by("-received_at").limit(SHOWN)],
            parked_total=await stuck.count(),
            kept=[stored_event(row) for row in await kept.order_by("-received_at").limit(SHOWN)],
            settled=[_settlement(row) for row in await settled.select_related("account")],
        )


async def _pending(rows: Sequence[Invoice]) -> list[Pending]:
    last: dict[str, TimelineEntry] = {}
    async for entry in TimelineEntry.filter(invoice__in=[row.id for row in rows]).order_by("at", "id"):
        last[entry.invoice] = entry
    return [_pending_one(row, last.get(row.id)) for row in rows]


def _pending_one(row: Invoice, last: TimelineEntry | None) -> Pending:
    return Pending(
        invoice=row.id,
        account=row.account.external_id,
        plan=row.plan,
        status=row.status,
        stage=stage_of(row.status),
        created_at=row.created_at,
        next_check_at=row.next_check_at,
        last=last.event_type if last else None,
        last_at=last.at if last else None,
    )


def _settlement(row: Invoice) -> SettledInvoice:
    return SettledInvoice(
        invoice=row.id,
        account=row.account.external_id,
        plan=row.plan,
        credits=row.credits_quoted,
        via=row.settled_via,
        settled_at=row.settled_at,
        created_at=row.created_at,
    )


# The requests


async def overview(request: Request) -> Response:
    """GET /operators: the lists."""
    services: Services = request.app.state.services
    shown = await look(await services.alarms.current())
    if _wants_json(request):
        return json_response(shown)
    return _page(request, "Overview", _overview_body(shown), shown.at)


async def one_invoice(request: Request) -> Response:
    """GET /operators/invoices/{invoice}: its story."""
    return await _explained(request, request.path_params["invoice"])


async def find(request: Request) -> Response:
    """GET /operators/find?ref=...: the same, by anything that `paidup explain` takes."""
    return await _explained(request, request.query_params.get("ref", "").strip())


async def _explained(request: Request, reference: str) -> Response:
    if "\0" in reference or len(reference) > LONGEST:  # no row holds such a name
        raise HTTPException(404, "There is nothing of that name.")
    found = await explain(reference)
    status = 200 if found.found else 404
    if _wants_json(request):
        return json_response(found, status)
    return _page(request, reference, _explanation_body(found), found.at, status)


def _for_operators(
    handler: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """`handler`, for those who know the token."""

    async def guarded(request: Request) -> Response:
        services: Services = request.app.state.services
        token = services.settings.operator_token
        if not token:
            raise HTTPException(404, "Not Found")
        if not _knows(request.headers.get("authorization", ""), token):
            refused = problem(
                401, "not-authenticated", "Authentication required", "The operators' token is needed."
            )
            refused.headers["WWW-Authenticate"] = CHALLENGE
            return refused
        return await handler(request)

    return guarded


def _knows(header: str, token: str) -> bool:
    """Whether the header carries the token: as a bearer, or as the password of any user."""
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given.strip(), validate=True).decode().partition(":")[2]
        except ValueError:  # no base64, no ASCII, no UTF-8
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode(), token.encode())


def _wants_json(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "application/json" in accepted and "text/html" not in accepted


# HTML: what is no Html is escaped


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def _html(value: object) -> str:
    return value if isinstance(value, Html) else escape("" if value is None else str(value))


def _tag(name: str, content: object, of: str = "") -> Html:
    attribute = f' class="{escape(of)}"' if of else ""
    return Html(f"<{name}{attribute}>{_html(content)}</{name}>")


def _link(invoice: str) -> Html:
    return Html(f'<a href="/operators/invoices/{quote(invoice, safe="")}">{escape(invoice)}</a>')


def _joined(parts: Iterable[object]) -> Html:
    return Html("".join(map(_html, parts)))


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> Html:
    """A table; a head that begins with # is a column of numbers."""
    if not rows:
        return _tag("p", empty, "note")
    kinds = ["n" if head.startswith("#") else "" for head in heads]
    head = _joined(_tag("th", head.removeprefix("#"), kind) for head, kind in zip(heads, kinds, strict=True))
    body = _joined(
        _tag("tr", _joined(_tag("td", cell, kind) for cell, kind in zip(row, kinds, strict=True)))
        for row in rows
    )
    table = _tag("table", _joined([_tag("thead", _tag("tr", head)), _tag("tbody", body)]))
    return Html(f'<div class="scroll" tabindex="0">{table}</div>')


def _page(request: Request, title: str, body: Html, at: datetime, status: int = 200) -> Response:
    # No name can smuggle in another placeholder: substitution looks at the template once.
    page = Template(_PAGE).substitute(
        title=_html(title),
        body=body,
        footer=_html(f"{moment(at)} · Paidup {__version__} · nothing here changes anything"),
    )
    # Under the prefix of an application that we are mounted in. Text has no quotation mark: it is escaped.
    page = page.replace('"/operators', f'"{escape(request.scope["root_path"])}/operators')
    return Response(page, status, HEADERS, media_type="text/html")


def _ago(at: datetime | None, then: datetime | None) -> str:
    return f"{span(at - then)} ago" if at and then else ""


def _due(at: datetime, then: datetime | None) -> Html:
    if then is None:
        return _tag("span", "given up", "bad")
    late = at - then
    if late > UNHANDLED_AFTER:
        return _tag("span", f"overdue by {span(late)}", "bad")
    return _tag("span", "now" if late > timedelta() else f"in {span(late)}")


def _overview_body(shown: Overview) -> Html:
    at = shown.at
    return _joined(
        [
            *(_tag("p", alarm.text, "alarm") for alarm in shown.alarms),
            "" if shown.alarms else _tag("p", "No alarm.", "good"),
            _heading("Events that could not be handled", shown.parked_total, len(shown.parked)),
            _table(
                ("event", "type", "invoice", "received", "#tries", "next", "why", "to do"),
                [_event_row(event, at) for event in shown.parked],
                "None.",
            ),
            _heading("Pending invoices", shown.pending_total, len(shown.pending)),
            _table(
                ("invoice", "account", "plan", "stage", "age", "last step", "next check"),
                [_pending_row(row, at) for row in shown.pending],
                "None.",
            ),
            _heading("Recent settlements", len(shown.settled), len(shown.settled)),
            _table(
                ("invoice", "account", "plan", "#credits", "via", "settled", "after"),
                [_settled_row(row, at) for row in shown.settled],
                "None yet.",
            ),
            _heading(
                f"Events of types that nobody handles, {span(KEPT_SHOWN)}", len(shown.kept), len(shown.kept)
            ),
            _table(
                ("event", "type", "received"),
                [(event.id, event.type, _ago(at, event.received_at)) for event in shown.kept],
                "None.",
            ),
        ]
    )


def _heading(words: str, total: int, shown: int) -> Html:
    count = f"{total}" if total == shown else f"{total}, the newest {shown} shown"
    return _tag("h2", _joined([words, " ", _tag("small", count)]))


def _event_row(event: StoredEvent, at: datetime) -> list[object]:
    why = (
        f"{event.error or event.outcome or 'not tried yet'}{f' ({event.unplaced})' if event.unplaced else ''}"
    )
    about = _link(event.invoice) if event.invoice else ""
    return [
        *(event.id, event.type, about, _ago(at, event.received_at), event.attempts),
        *("" if event.handled_at else _due(at, event.next_attempt_at), why, event_recommendation(event)),
    ]


def _pending_row(row: Pending, at: datetime) -> list[object]:
    last = f"{row.last} {_ago(at, row.last_at)}" if row.last else "none"
    failed = row.status is InvoiceStatus.FAILED
    return [
        *(_link(row.invoice), row.account, row.plan, _tag("span", row.stage, "warn" if failed else "")),
        *(span(at - row.created_at), last, _due(at, row.next_check_at)),
    ]


def _settled_row(row: SettledInvoice, at: datetime) -> list[object]:
    took = span(row.settled_at - row.created_at) if row.settled_at else ""
    return [
        *(_link(row.invoice), row.account, row.plan, row.credits),
        *(row.via, _ago(at, row.settled_at), took),
    ]


def _explanation_body(found: Explanation) -> Html:
    if not found.found:
        return _tag(
            "p", "Nothing here: no invoice, PaymentIntent, subscription, customer or external id.", "note"
        )
    parts: list[object] = []
    if found.account is not None:
        parts.append(_tag("p", f"Account {found.account}: balance {found.balance}"))
    parts += [_story_body(story, found.at) for story in found.stories]
    if found.older:
        parts.append(_tag("p", f"{found.older} older invoices are not shown.", "note"))
    if found.unplaced:
        parts.append(_heading("Events that had no effect", len(found.unplaced), len(found.unplaced)))
        heads = ("event", "type", "invoice", "received", "#tries", "next", "why", "to do")
        parts.append(_table(heads, [_event_row(event, found.at) for event in found.unplaced], ""))
    return _joined(parts)


def _story_body(story: InvoiceReport, at: datetime) -> Html:
    facts = _joined(_joined([_tag("dt", name), _tag("dd", value)]) for name, value in headline(story))
    steps = [
        (time_of_day(step.at), f"+{step.after_ms}", step.what, format_detail(step.detail))
        for step in story.steps
    ]
    events = [
        (event.id, event.type, event.attempts, event.outcome or event.error or "not handled yet")
        for event in story.events
    ]
    return _joined(
        [
            _tag("h2", _link(story.invoice)),
            _tag("p", story.recommendation, "todo"),
            _tag("dl", facts),
            *(_tag("p", f"Awaited: {wait}") for wait in story.awaited),
            _table(("at (UTC)", "#ms", "what", "detail"), steps, "No step was noted."),
            _tag("h2", "Its events"),
            _table(("event", "type", "#tries", "outcome"), events, "None is stored."),
        ]
    )


ROUTES = [
    Route("/operators", _for_operators(overview), methods=["GET"]),
    Route("/operators/find", _for_operators(find), methods=["GET"]),
    Route("/operators/invoices/{invoice}", _for_operators(one_invoice), methods=["GET"]),
]
