"""Format durations, times, amounts and the key facts of an invoice for people."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from paidup.operations.invoice_report import InvoiceReport

_GRANTED = ("live", "expired")


def format_duration(duration: timedelta) -> str:
    """Format a duration without its sign: 480 ms, 12 s, 5 min, 3 h, 2 d."""
    seconds = abs(duration.total_seconds())
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def format_amount(amount_minor: int, currency: str) -> str:
    """Format an amount in the currency's smallest unit, as Stripe does."""
    return f"{amount_minor} {currency} (smallest unit)"


def format_datetime(at: datetime) -> str:
    """Format a date and time in UTC, to the millisecond."""
    return f"{at:%Y-%m-%d} {format_time(at)} UTC"


def format_time(at: datetime) -> str:
    """Format a time of day, to the millisecond."""
    return f"{at:%H:%M:%S}.{at.microsecond // 1000:03}"


def format_detail(detail: dict[str, Any]) -> str:
    """Format the detail of a timeline entry in one line."""
    return ", ".join(f"{name}={_format_value(value)}" for name, value in detail.items() if value is not None)


def _format_value(value: Any) -> str:
    return "+".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def granted_of_others(report: InvoiceReport) -> dict[str, int]:
    """What was granted of other units than the default one."""
    others: Counter[str] = Counter()
    for grant in report.grants:
        if grant.unit and grant.state in _GRANTED:
            others[grant.unit] += grant.credits
    return dict(others)


def _granted(report: InvoiceReport) -> str:
    """What the invoice gives with its payment, and what was granted of other units."""
    credits = report.details.credits if report.details else 0
    others = (f"{number} {unit}" for unit, number in granted_of_others(report).items())
    return ", ".join((f"{credits} credits", *others))


def summary(report: InvoiceReport) -> list[tuple[str, str]]:
    """Return the key facts of an invoice as names and values."""
    details = report.details
    if details is None:
        return [("status", "unknown invoice")]
    lines = [
        ("status", f"{details.status} (stage {details.stage})"),
        ("account", f"{details.account} ({details.customer})"),
        ("plan", f"{details.plan}, {_granted(report)}, {details.billing_reason}"),
        ("amount", format_amount(details.amount_due_minor, details.currency)),
        ("payment", f"{details.payment_intent or 'none'}, subscription {details.subscription or 'none'}"),
        ("created", format_datetime(details.created_at)),
    ]
    if details.settled_at:
        duration = format_duration(details.settled_at - details.created_at)
        lines.append(
            (
                "settled",
                f"via {details.settled_via} at {format_datetime(details.settled_at)}, after {duration}",
            )
        )
    frozen = sum(grant.frozen for grant in report.grants if not grant.unit)
    if details.credits_reversed or frozen:
        reversed_ = f"{details.credits_reversed} credits reversed, {frozen} withheld by a dispute"
        lines.append(("reversals", reversed_))
    if details.error:
        lines.append(("error", format_detail(details.error)))
    lines.append(("published", f"version {details.published_version} of {details.version}"))
    return lines
