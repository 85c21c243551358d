"""Benches whose counts must hold at any size and under any load; their times are for `make bench`."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from tests.bench import returns
from tests.bench.webhooks import cpu_s


def test_some_returns_find_their_credits() -> None:
    """S38: with webhooks on the first paint; without them each becomes active, credited exactly once."""
    found = returns.run((3, 3))
    assert found.first_paint == 3
    assert len(found.until_active) == 3
    assert returns.figures(found)[1] == ("the credits on the first paint", "100.00%")


def test_a_process_that_ends_while_the_cpu_time_is_read_ends_no_benchmark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL's autovacuum workers come and go."""
    own = sum(psutil.Process().cpu_times()[:2])

    def ended() -> Any:
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: [SimpleNamespace(cpu_times=ended)])
    assert cpu_s(os.getpid()) >= own
