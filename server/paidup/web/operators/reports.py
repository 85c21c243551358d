"""What the page of an invoice, or of any reference, shows: its facts, and its timeline as pictures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from paidup.operations.checkout_report import session_summary
from paidup.operations.formatting import format_detail, format_duration
from paidup.operations.invoice_report import Explanation, InvoiceReport
from paidup.web.operators.timeline_lanes import InvoiceTimeline, build_timeline
from paidup.web.operators.timeline_picture import NARROW, WIDE, Picture, draw
from paidup.web.operators.words import credits, moment, number, words_of


@dataclass(frozen=True)
class ShownSession:
    id: str
    facts: list[tuple[str, str]]


@dataclass(frozen=True)
class Fact:
    name: str
    value: str
    is_id: bool = False


@dataclass(frozen=True)
class ShownInvoice:
    """`description` says what the pictures show. Without a timeline there are none."""

    report: InvoiceReport
    facts: list[Fact]
    timeline: InvoiceTimeline | None
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
        return ShownInvoice(report, _facts(report), None, None, None, "")
    lanes = " ".join(f"{lane.name}: {lane.summary}." for lane in timeline.lanes)
    description = f"InvoiceTimeline of {report.invoice}. {timeline.headline} {lanes}"
    pictures = draw(timeline, WIDE), draw(timeline, NARROW)
    return ShownInvoice(report, _facts(report), timeline, *pictures, description)


def _facts(report: InvoiceReport) -> list[Fact]:
    """What is known beside its status and its amount, which its heading has."""
    details = report.details
    if details is None:
        return []
    settled = details.settled_at and format_duration(details.settled_at - details.created_at)
    took_back = [f"{credits(details.credits_reversed)} reversed"] if details.credits_reversed else []
    frozen: Counter[str] = Counter()
    for grant in report.grants:
        frozen[grant.unit or ""] += grant.frozen
    for unit, withheld in frozen.items():
        if withheld:
            took_back.append(f"{number(withheld)} {unit} withheld by a dispute".replace("  ", " "))
    found = [
        Fact("Stage", words_of(details.stage)),
        Fact("Plan", details.plan or ""),
        Fact("Credits", number(details.credits)),
        Fact("Billing reason", words_of(details.billing_reason or "")),
        Fact("PaymentIntent", details.payment_intent or "", is_id=True),
        Fact("Subscription", details.subscription or "", is_id=True),
        Fact("Customer", details.customer, is_id=True),
        Fact("Created", moment(details.created_at)),
        Fact("Settled", f"by {details.settled_via}, after {settled}" if settled else ""),
        Fact("Taken back", ", ".join(took_back)),
        Fact("Error", format_detail(details.error) if details.error else ""),
        Fact("Told to browsers", f"version {details.published_version} of {details.version}"),
    ]
    return [fact for fact in found if fact.value]
