"""What the page of an invoice, or of any reference, shows: its facts, and its timeline as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from paidup.operations.checkout_report import session_summary
from paidup.operations.formatting import format_detail, format_duration, granted_of_others
from paidup.operations.invoice_report import Explanation, InvoiceReport
from paidup.web.operators.timeline_lanes import InvoiceTimeline, build_timeline
from paidup.web.operators.timeline_picture import NARROW, WIDE, Picture, draw
from paidup.web.operators.words import amount, credits, moment, words_of


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


def shown_invoices(explanation: Explanation, units: Sequence[str] = ()) -> list[ShownInvoice]:
    """`units`: the names, where there are several."""
    return [_shown(report, explanation.at, units) for report in explanation.invoices]


def _shown(report: InvoiceReport, at: datetime, units: Sequence[str]) -> ShownInvoice:
    is_over = report.details is not None and report.details.status.terminal
    timeline = build_timeline(report.timeline, is_over, at)
    if timeline is None:
        return ShownInvoice(report, _facts(report, units), None, None, None, "")
    lanes = " ".join(f"{lane.name}: {lane.summary}." for lane in timeline.lanes)
    description = f"InvoiceTimeline of {report.invoice}. {timeline.headline} {lanes}"
    pictures = draw(timeline, WIDE), draw(timeline, NARROW)
    return ShownInvoice(report, _facts(report, units), timeline, *pictures, description)


def _facts(report: InvoiceReport, units: Sequence[str]) -> list[Fact]:
    """What is known beside its status and its amount, which its heading has."""
    details = report.details
    if details is None:
        return []
    settled = details.settled_at and format_duration(details.settled_at - details.created_at)
    reversed_ = details.credits_reversed
    took_back = [f"{credits(reversed_, '', units)} reversed"] if reversed_ else []
    frozen: Counter[str] = Counter()
    for grant in report.grants:
        frozen[grant.unit or ""] += grant.frozen
    took_back += [
        f"{amount(count, unit, units)} withheld by a dispute" for unit, count in frozen.items() if count
    ]
    given = {"": details.credits, **granted_of_others(report)}
    each = [amount(count, unit, units) for unit, count in given.items()]
    found = [
        Fact("Stage", words_of(details.stage)),
        Fact("Plan", details.plan or ""),
        Fact("Credits", ", ".join(each)),
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
