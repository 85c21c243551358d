"""Months, as billing counts them: the anchor's day of the month, or the last there is. Unix seconds, UTC."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime


def add_months(start: int, months: int) -> int:
    """31 January and one month is 28 February; and two months, 31 March."""
    begin = datetime.fromtimestamp(start, UTC)
    month = begin.month - 1 + months
    year, month = begin.year + month // 12, month % 12 + 1
    day = min(begin.day, calendar.monthrange(year, month)[1])
    return int(begin.replace(year=year, month=month, day=day).timestamp())


def months_between(start: int, end: int) -> list[int]:
    """When each month of the period begins, the first at `start`; the last may be cut short by `end`."""
    begins, at = [start], add_months(start, 1)
    while at < end:
        begins.append(at)
        at = add_months(start, len(begins))
    return begins
