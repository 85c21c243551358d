"""Benches whose counts must hold at any size and under any load; their times are for `make bench`."""

from __future__ import annotations

from tests.bench import returns


def test_some_returns_find_their_credits() -> None:
    """S38: with webhooks on the first paint; without them each becomes active, credited exactly once."""
    found = returns.run((3, 3))
    assert found.first_paint == 3
    assert len(found.until_active) == 3
    assert returns.figures(found)[1] == ("the credits on the first paint", "100.00%")
