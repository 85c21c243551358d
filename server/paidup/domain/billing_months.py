"""Billing months: the anchor's day of each month, or the month's last day. Unix seconds, UTC."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime


def add_months(start: int, months: int) -> int:
    """Add months: 31 January plus one month is 28 February, plus two months is 31 March."""
    begin = datetime.fromtimestamp(start, UTC)
    month = begin.month - 1 + months
    year, month = begin.year + month // 12, month % 12 + 1
    day = min(begin.day, calendar.monthrange(year, month)[1])
    return int(begin.replace(year=year, month=month, day=day).timestamp())


def months_between(start: int, end: int) -> list[int]:
    """The start of each month of a period, the first at `start`. The last month may be cut short by `end`."""
    begins, at = [start], add_months(start, 1)
    while at < end:
        begins.append(at)
        at = add_months(start, len(begins))
    return begins
