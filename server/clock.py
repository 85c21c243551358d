"""The wall clock, in one place, so that tests can replace it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)


def at_unix(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
