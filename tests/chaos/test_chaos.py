"""The chaos test, for a few seconds, in processes of its own. `make chaos` runs longer."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.processes import Child

SHORT = ("--purchases", "40", "--seconds", "5", "--quiet", "3", "--kill-every", "0.7", "--logs")
WITHIN_S = 280.0


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_whatever_is_killed_every_paid_invoice_is_credited_once_and_every_watcher_told(
    database: str, tmp_path: Path
) -> None:
    """S02, S10, S11, S12, S13, S14, S16, S17, S18, S19, S20, S29, S33, S34, S37, all at once and at random.

    The three sources have three seconds of quiet; what only a list of Stripe's would show a minute later
    is settled by what `paidup backfill` does. The long run waits for them instead.
    """
    arguments = ["-m", "tests.chaos", "--database", database, *SHORT]
    hammer = Child(arguments, {}, tmp_path / "hammer.log", forked=True)
    try:
        code = hammer.process.wait(WITHIN_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        hammer.stop()
    assert code == 0, hammer.output
