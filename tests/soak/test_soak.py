"""The soak, shortly, in processes of its own; `make soak` lasts longer and allows less."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.processes import Child

SHORT = ("--minutes", "0.1", "--rate", "60", "--memory", "60", "--descriptors", "200")
"""So few customers that what is loaded late weighs; a leak of 45 KiB, or of every fifth socket, shows."""
WITHIN_S = 280.0


def test_customers_come_and_go_and_nothing_of_them_is_left(tmp_path: Path) -> None:
    """S06, S32: sockets, channels, descriptors and questions to Stripe end with those who waited."""
    soak = Child(["-m", "tests.soak", *SHORT], {}, tmp_path / "soak.log")
    try:
        code = soak.process.wait(WITHIN_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        soak.stop()
    assert code == 0, soak.output
