"""How the operators' pages write numbers, amounts, times and durations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from paidup.operations.formatting import format_duration
from paidup.operations.overview import UNTRIED_AFTER

_WHOLE = frozenset(
    [
        *("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga"),
        *("pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"),
    ]
)
"""https://docs.stripe.com/currencies#zero-decimal. Stripe counts ISK and UGX in hundredths."""
_THOUSANDTHS = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])
"""https://docs.stripe.com/currencies#three-decimal"""


def number(value: int) -> str:
    """1,990; with a minus sign, not a hyphen."""
    return f"{value:,}".replace("-", "−")


def signed(value: int) -> str:
    """+500, −50, 0."""
    return f"+{value:,}" if value > 0 else number(value)


def credits(value: int, unit: str = "", units: Sequence[str] = ()) -> str:
    """1 credit, 1,990 credits; 47 images of that unit. `units`: the names of all, where there are several."""
    one = "credit" if abs(value) == 1 else "credits"
    return f"{number(value)} {unit or (units[0] if units else one)}"


def amount(value: int, unit: str = "", units: Sequence[str] = ()) -> str:
    """The same, or the number alone where there is one unit."""
    return credits(value, unit, units) if units else number(value)


def money(minor: int, currency: str) -> str:
    """29.00 USD. `minor` is in the currency's smallest unit, as Stripe counts it."""
    if currency in _WHOLE:
        return f"{number(minor)} {currency.upper()}"
    digits = 3 if currency in _THOUSANDTHS else 2
    return f"{minor / 10**digits:,.{digits}f} {currency.upper()}".replace("-", "−")


def moment(at: datetime) -> str:
    """27 Nov 2026, 03:35:12 UTC."""
    return f"{at.day} {at:%b %Y, %H:%M:%S} UTC"


def day(at: datetime) -> str:
    """27 Nov 2026."""
    return f"{at.day} {at:%b %Y}"


def ago(then: datetime, at: datetime) -> str:
    """5 min ago."""
    return f"{format_duration(at - then)} ago"


def until(due: datetime, at: datetime) -> str:
    """In 5 min, now, or overdue by 3 h."""
    late = at - due
    if late > UNTRIED_AFTER:
        return f"overdue by {format_duration(late)}"
    return "now" if late > timedelta() else f"in {format_duration(late)}"


def is_late(due: datetime, at: datetime) -> bool:
    return at - due > UNTRIED_AFTER


def duration_ms(milliseconds: float) -> str:
    """41 ms, 4.9 s, 38 s, 2 min 5 s: as the demo's timeline does."""
    if milliseconds < 999.5:
        return f"{round(milliseconds)} ms"
    if milliseconds < 9950:
        return f"{milliseconds / 1000:.1f} s"
    seconds = round(milliseconds / 1000)
    return f"{seconds} s" if seconds < 100 else f"{seconds // 60} min {seconds % 60} s"


def words_of(name: str) -> str:
    """requires_action: requires action."""
    return name.replace("_", " ")
