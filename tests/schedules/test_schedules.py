"""Random schedules of tabs, pages, cards and webhooks end well. `python -m tests.schedules` runs many."""

from __future__ import annotations

from pathlib import Path

from paidup.db.connection import migrate
from tests.schedules.run import run_schedules

FEW = 20
FOUND = (1006641,)
"""Seeds that ended wrong once: two requests at once for a page, right after a payment by card."""


async def test_no_schedule_ends_with_two_subscriptions_or_an_unflagged_payment(tmp_path: Path) -> None:
    """S39, S40, S46: and every payment is credited once, whichever events are late, doubled or lost."""
    template = tmp_path / "template.db"
    await migrate(f"sqlite://{template}")
    assert await run_schedules((*range(FEW), *FOUND), template) == []
