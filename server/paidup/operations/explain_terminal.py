"""An explanation as a terminal shows it. What came from outside is never taken as markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from paidup.operations.explain import (
    Explanation,
    InvoiceReport,
    StoredEvent,
    TimelineEvent,
    event_recommendation,
    event_waits,
    format_detail,
    headline,
    time_of_day,
)


def rendered(explanation: Explanation) -> RenderableType:
    """The explanation for people."""
    parts: list[RenderableType] = []
    if explanation.account is not None:
        parts.append(Text(f"Account {explanation.account}: balance {explanation.balance}", style="bold"))
    for story in explanation.stories:
        parts += [Text(), *_rendered_story(story)]
    if explanation.older:
        parts.append(Text(f"... and {explanation.older} older invoices: name one to see it."))
    for event in explanation.unplaced:
        parts += [Text(), Text(event_waits(event, explanation.at)), _advice(event_recommendation(event))]
    return Group(*parts)


def _rendered_story(story: InvoiceReport) -> Iterable[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    for name, value in headline(story):
        grid.add_row(Text(name, style="dim"), Text(value))
    yield Text(story.invoice, style="bold underline")
    yield grid
    if story.steps:
        yield _rendered_steps(story.steps)
    if story.events:
        yield _rendered_events(story.events)
    for wait in story.awaited:
        yield Text(f"Awaited: {wait}")
    yield _advice(story.recommendation)


def _rendered_steps(steps: Sequence[TimelineEvent]) -> Table:
    table = _table("Timeline", "at (UTC)", "ms", "what", "detail")
    table.columns[1].justify = "right"
    for step in steps:
        detail = escape(format_detail(step.detail))
        table.add_row(time_of_day(step.at), f"+{step.after_ms}", escape(step.what), detail)
    return table


def _rendered_events(events: Sequence[StoredEvent]) -> Table:
    table = _table("Events", "event", "type", "tries", "outcome")
    for event in events:
        outcome = event.outcome or event.error or "not handled yet"
        table.add_row(escape(event.id), escape(event.type), str(event.attempts), escape(outcome))
    return table


def _table(title: str, *heads: str) -> Table:
    """A table that shows every id whole: it is what one copies."""
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _advice(sentence: str) -> Text:
    return Text(f"To do: {sentence}", style="bold")
