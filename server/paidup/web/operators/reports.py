"""What the page of an invoice, or of any reference, shows: its facts, and its timeline as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from paidup.operations.checkout_report import session_summary
from paidup.operations.formatting import summary
from paidup.operations.invoice_report import Explanation, InvoiceReport
from paidup.web.operators.timeline_lanes import Timeline, build_timeline
from paidup.web.operators.timeline_picture import NARROW, WIDE, Picture, draw


@dataclass(frozen=True)
class ShownSession:
    id: str
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class ShownInvoice:
    """`description` says what the pictures show. Without a timeline there are none."""

    report: InvoiceReport
    facts: list[tuple[str, str]]
    timeline: Timeline | None
    wide: Picture | None
    narrow: Picture | None
    description: str


def shown_sessions(explanation: Explanation) -> list[ShownSession]:
    return [ShownSession(each.checkout, session_summary(each)) for each in explanation.sessions]


def shown_invoices(explanation: Explanation) -> list[ShownInvoice]:
    return [_shown(report, explanation.at) for report in explanation.invoices]


def _shown(report: InvoiceReport, at: datetime) -> ShownInvoice:
    is_over = report.details is not None and report.details.status.terminal
    timeline = build_timeline(report.timeline, is_over, at)
    if timeline is None:
        return ShownInvoice(report, summary(report), None, None, None, "")
    lanes = " ".join(f"{lane.name}: {lane.summary}." for lane in timeline.lanes)
    description = f"Timeline of {report.invoice}. {timeline.headline} {lanes}"
    pictures = draw(timeline, WIDE), draw(timeline, NARROW)
    return ShownInvoice(report, summary(report), timeline, *pictures, description)
