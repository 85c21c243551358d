"""Render an explanation for a terminal. Text from outside is never interpreted as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from paidup.operations.checkout_report import session_summary
from paidup.operations.event_deliveries import DeliveryDetails
from paidup.operations.formatting import format_detail, format_time, summary
from paidup.operations.invoice_report import (
    Explanation,
    InvoiceReport,
    SessionDetails,
    StoredEvent,
    TimelineEvent,
)
from paidup.operations.recommendations import describe_event, event_recommendation


def render_explanation(explanation: Explanation) -> RenderableType:
    """Render the whole explanation."""
    parts: list[RenderableType] = []
    if explanation.account is not None:
        parts.append(Text(f"Account {explanation.account}: balance {explanation.balances}", style="bold"))
        if not (explanation.invoices or explanation.sessions or explanation.other_events):
            parts.append(Text("No payment: this customer has not chosen a plan yet."))
    parts += [Text(f"By an operator: {each.summary}") for each in explanation.corrections]
    for session in explanation.sessions:
        parts += [Text(), *_render_session(session)]
    for report in explanation.invoices:
        parts += [Text(), *_render_invoice(report)]
    if explanation.older_invoices:
        parts.append(
            Text(f"... and {explanation.older_invoices} older invoices: pass the id of one to see it.")
        )
    for event in explanation.other_events:
        parts += [Text(), Text(describe_event(event, explanation.at)), _advice(event_recommendation(event))]
    return Group(*parts)


def _render_session(details: SessionDetails) -> Iterable[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    for name, value in session_summary(details):
        grid.add_row(Text(name, style="dim"), Text(value))
    yield Text(details.checkout, style="bold underline")
    yield grid


def _render_invoice(report: InvoiceReport) -> Iterable[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    for name, value in summary(report):
        grid.add_row(Text(name, style="dim"), Text(value))
    yield Text(report.invoice, style="bold underline")
    yield grid
    if report.timeline:
        yield _render_timeline(report.timeline)
    if report.events:
        yield _render_events(report.events)
    if report.deliveries:
        yield _render_deliveries(report.deliveries)
    for step in report.pending_steps:
        yield Text(f"Pending: {step}")
    yield _advice(report.recommendation)


def _render_timeline(timeline: Sequence[TimelineEvent]) -> Table:
    table = _table("Timeline", "at (UTC)", "ms", "event", "detail")
    table.columns[1].justify = "right"
    for event in timeline:
        detail = escape(format_detail(event.detail))
        table.add_row(format_time(event.at), f"+{event.after_ms}", escape(event.event_type), detail)
    return table


def _render_events(events: Sequence[StoredEvent]) -> Table:
    table = _table("Events", "event", "type", "tries", "outcome")
    for event in events:
        outcome = event.outcome or event.error or "not handled yet"
        table.add_row(escape(event.id), escape(event.type), str(event.attempts), escape(outcome))
    return table


def _render_deliveries(deliveries: Sequence[DeliveryDetails]) -> Table:
    table = _table("Told to your backend", "at (UTC)", "event", "type", "endpoint", "tries", "outcome")
    for each in reversed(deliveries):
        row = (each.event, each.type, each.endpoint, str(each.attempts), each.outcome)
        table.add_row(format_time(each.newest_at), *map(escape, row))
    return table


def _table(title: str, *headers: str) -> Table:
    """Create a table that folds long cells, so that ids can be copied."""
    table = Table(title=title, title_justify="left")
    for header in headers:
        table.add_column(header, overflow="fold")
    return table


def _advice(sentence: str) -> Text:
    return Text(f"To do: {sentence}", style="bold")
