"""Random schedules of tabs, pages, cards and webhooks end well. `python -m tests.schedules` runs many."""

from __future__ import annotations

from pathlib import Path

from tests.schedules.run import run_schedules

FEW = 12


async def test_no_schedule_ends_with_two_subscriptions_or_an_unflagged_payment(tmp_path: Path) -> None:
    """S39, S40, S46: and every payment is credited once, whichever events are late, doubled or lost."""
    assert await run_schedules(FEW, 0, tmp_path) == []
