"""The HTML of the operators' pages. Everything that is not `Html` is escaped, and no page runs a script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from paidup import __version__
from paidup.domain.decisions import InvoiceStatus
from paidup.operations.checkout_report import session_summary
from paidup.operations.event_deliveries import DeliveryDetails
from paidup.operations.explain import REFERENCE_KINDS, UNHANDLED_SHOWN_FOR
from paidup.operations.formatting import (
    format_datetime,
    format_detail,
    format_duration,
    format_time,
    summary,
)
from paidup.operations.invoice_report import Explanation, InvoiceReport, SessionDetails, StoredEvent
from paidup.operations.overview import UNTRIED_AFTER, Overview, PendingInvoice, SettledInvoice
from paidup.operations.recommendations import event_recommendation

_TEMPLATE = (Path(__file__).parent / "operators.html").read_text()
_STYLE = _TEMPLATE.partition("<style>")[2].partition("</style>")[0]
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept",
}
_EVENT_FACTS = ("event", "type", "invoice", "received", "tries", "next")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def html_response(request: Request, title: str, body: Html, at: datetime, status: int = 200) -> Response:
    """Render `body` into the page template; the headers forbid scripts, framing and caching."""
    # Substitution is a single pass, so placeholders in the values have no effect.
    page = Template(_TEMPLATE).substitute(
        title=_to_html(title),
        body=body,
        footer=_to_html(f"{format_datetime(at)} · Paidup {__version__} · read-only"),
    )
    # Add the mount prefix, if any. Only links match: a quotation mark in text is escaped.
    page = page.replace('"/operators', f'"{escape(request.scope["root_path"])}/operators')
    return Response(page, status, _HEADERS, media_type="text/html")


def overview_body(overview: Overview) -> Html:
    """Render the lists of the overview."""
    return _join(
        [
            *(_tag("p", alarm.text, "alarm") for alarm in overview.alarms),
            "" if overview.alarms else _tag("p", "No alarms.", "good"),
            *_second_payments(overview),
            *_unclaimed(overview),
            *_failed_events(overview),
            *_pending_invoices(overview),
            *_settled_invoices(overview),
            *_unhandled_events(overview),
        ]
    )


def explanation_body(explanation: Explanation) -> Html:
    """Render all invoices of an explanation."""
    if not explanation.found:
        return _tag("p", f"Not found: no {REFERENCE_KINDS} matches.", "note")
    parts: list[object] = []
    if explanation.account is not None:
        parts.append(_tag("p", f"Account {explanation.account}: balance {explanation.balance}"))
    parts += [_tag("p", f"By an operator: {each.summary}") for each in explanation.corrections]
    parts += [_session_body(details) for details in explanation.sessions]
    parts += [_invoice_body(report) for report in explanation.invoices]
    if explanation.older_invoices:
        parts.append(_tag("p", f"{explanation.older_invoices} older invoices are not shown.", "note"))
    if events := explanation.other_events:
        parts.append(_heading("Events that had no effect", len(events), len(events)))
        parts += [_event_card(event, explanation.at) for event in events]
    return _join(parts)


def _failed_events(overview: Overview) -> list[Html]:
    events = overview.failed_events
    return [
        _heading("Events that could not be handled", overview.failed_events_total, len(events)),
        *(_event_card(event, overview.at) for event in events),
        *([] if events else [_tag("p", "None.", "note")]),
    ]


def _pending_invoices(overview: Overview) -> list[Html]:
    columns = ("invoice", "account", "plan", "stage", "age", "last event", "next check")
    rows = [_pending_row(invoice, overview.at) for invoice in overview.pending]
    return [
        _heading("Pending invoices", overview.pending_total, len(rows)),
        _table(columns, rows, "None."),
    ]


def _settled_invoices(overview: Overview) -> list[Html]:
    columns = ("invoice", "account", "plan", "#credits", "source", "settled", "after")
    rows = [_settled_row(invoice, overview.at) for invoice in overview.settled]
    return [_heading("Recent settlements", len(rows), len(rows)), _table(columns, rows, "None yet.")]


def _unhandled_events(overview: Overview) -> list[Html]:
    rows = [
        (event.id, event.type, _ago(overview.at, event.received_at)) for event in overview.unhandled_events
    ]
    period = format_duration(UNHANDLED_SHOWN_FOR)
    return [
        _heading(f"Events of unhandled types, last {period}", len(rows), len(rows)),
        _table(("event", "type", "received"), rows, "None."),
    ]


def _invoice_body(report: InvoiceReport) -> Html:
    details = _join(_join([_tag("dt", name), _tag("dd", value)]) for name, value in summary(report))
    timeline = [
        (format_time(event.at), f"+{event.after_ms}", event.event_type, format_detail(event.detail))
        for event in report.timeline
    ]
    events = [
        (event.id, event.type, event.attempts, event.outcome or event.error or "not handled yet")
        for event in report.events
    ]
    return _join(
        [
            _tag("h2", _invoice_link(report.invoice)),
            _tag("p", report.recommendation, "todo"),
            _tag("dl", details),
            *(_tag("p", f"Pending: {step}") for step in report.pending_steps),
            _table(("at (UTC)", "#ms", "event", "detail"), timeline, "The timeline is empty."),
            _tag("h2", "Stripe events"),
            _table(("event", "type", "#tries", "outcome"), events, "None stored."),
            *_deliveries(report.deliveries),
        ]
    )


def _deliveries(deliveries: Sequence[DeliveryDetails]) -> list[Html]:
    """What the SaaS's own endpoints were told, where there are any. `paidup deliveries show` has the rest."""
    if not deliveries:
        return []
    columns = ("endpoint", "event", "type", "at (UTC)", "#tries", "outcome")
    rows = [
        (each.endpoint, each.event, each.type, format_time(each.newest_at), each.attempts, each.outcome)
        for each in reversed(deliveries)
    ]
    return [_tag("h2", "Told to your backend"), _table(columns, rows, "")]


def _session_body(details: SessionDetails) -> Html:
    facts = _join(_join([_tag("dt", name), _tag("dd", value)]) for name, value in session_summary(details))
    return _join([_tag("h2", details.checkout), _tag("dl", facts)])


def _second_payments(overview: Overview) -> list[Html]:
    """Purchases that were paid twice, where there are any."""
    if not overview.second_payments:
        return []
    columns = ("Checkout Session", "account", "plan", "paid beside", "completed", "remedy")
    rows = [
        (
            _invoice_link(each.checkout),
            each.account,
            each.plan,
            each.duplicate_of,
            _ago(overview.at, each.completed_at),
            f"paidup resolve {each.checkout} --refund (or --credit, --keep)",
        )
        for each in overview.second_payments
    ]
    return [_heading("Purchases paid twice", len(rows), len(rows)), _table(columns, rows, "")]


def _unclaimed(overview: Overview) -> list[Html]:
    """Payments that belong to nobody yet, where there are any."""
    if not overview.unclaimed:
        return []
    columns = ("Checkout Session", "names", "plan", "customer", "completed", "remedy")
    rows = [
        (
            _invoice_link(each.checkout),
            each.client_reference,
            each.plan,
            each.customer,
            _ago(overview.at, each.completed_at),
            f"paidup claim-link {each.checkout}",
        )
        for each in overview.unclaimed
    ]
    return [
        _heading("Paid, and of no account yet", overview.unclaimed_total, len(rows)),
        _table(columns, rows, ""),
    ]


def _event_card(event: StoredEvent, at: datetime) -> Html:
    """What to do about an event, then why, then its facts."""
    reason = event.error or event.outcome or "not tried yet"
    if event.unknown_reference:
        reason += f" ({event.unknown_reference})"
    facts = (
        event.id,
        event.type,
        _invoice_link(event.invoice) if event.invoice else "",
        _ago(at, event.received_at),
        event.attempts,
        "" if event.handled_at else _due(at, event.next_attempt_at),
    )
    pairs = [
        _tag("div", _join([_tag("dt", name), _tag("dd", fact)]))
        for name, fact in zip(_EVENT_FACTS, facts, strict=True)
        if fact != ""
    ]
    remedy = _tag("p", _tag("strong", event_recommendation(event)))
    card = _join([remedy, _tag("p", f"Reason: {reason}"), _tag("dl", _join(pairs))])
    return _tag("section", card, "card bad-edge" if event.given_up else "card")


def _pending_row(row: PendingInvoice, at: datetime) -> list[object]:
    failed = row.status is InvoiceStatus.FAILED
    return [
        _invoice_link(row.invoice),
        row.account,
        row.plan,
        _tag("span", row.stage, "warn" if failed else ""),
        format_duration(at - row.created_at),
        f"{row.last_event} {_ago(at, row.last_event_at)}" if row.last_event else "none",
        _due(at, row.next_check_at),
    ]


def _settled_row(row: SettledInvoice, at: datetime) -> list[object]:
    duration = format_duration(row.settled_at - row.created_at) if row.settled_at else ""
    settled = _ago(at, row.settled_at)
    return [_invoice_link(row.invoice), row.account, row.plan, row.credits, row.via, settled, duration]


def _ago(at: datetime, then: datetime | None) -> str:
    return f"{format_duration(at - then)} ago" if then else ""


def _due(at: datetime, due_at: datetime | None) -> Html:
    if due_at is None:
        return _tag("span", "given up", "bad")
    late = at - due_at
    if late > UNTRIED_AFTER:
        return _tag("span", f"overdue by {format_duration(late)}", "bad")
    return _tag("span", "now" if late > timedelta() else f"in {format_duration(late)}")


def _heading(text: str, total: int, shown: int) -> Html:
    count = f"{total}" if total == shown else f"{total}, the newest {shown} shown"
    return _tag("h2", _join([text, " ", _tag("small", count)]))


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> Html:
    """Render a table, or the text `empty`. A column whose name starts with # holds numbers."""
    if not rows:
        return _tag("p", empty, "note")
    classes = ["n" if name.startswith("#") else "" for name in columns]
    head = _join(_tag("th", name.removeprefix("#"), css) for name, css in zip(columns, classes, strict=True))
    names = [escape(name.removeprefix("#")) for name in columns]
    body = _join(_tag("tr", _join(map(_cell, names, row, classes))) for row in rows)
    return _tag("table", _join([_tag("thead", _tag("tr", head)), _tag("tbody", body)]))


def _cell(name: str, content: object, css_class: str) -> Html:
    """A cell that also has its column's name, which a narrow screen shows beside it."""
    attribute = f' class="{css_class}"' if css_class else ""
    return Html(f'<td data-name="{name}"{attribute}><span>{_to_html(content)}</span></td>')


def _invoice_link(invoice: str) -> Html:
    return Html(f'<a href="/operators/invoices/{quote(invoice, safe="")}">{escape(invoice)}</a>')


def _tag(name: str, content: object, css_class: str = "") -> Html:
    attribute = f' class="{escape(css_class)}"' if css_class else ""
    return Html(f"<{name}{attribute}>{_to_html(content)}</{name}>")


def _join(parts: Iterable[object]) -> Html:
    return Html("".join(map(_to_html, parts)))


def _to_html(value: object) -> str:
    return value if isinstance(value, Html) else escape("" if value is None else str(value))
