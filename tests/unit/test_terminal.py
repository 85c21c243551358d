"""What the commands print where their output is piped."""

from __future__ import annotations

import subprocess
import sys

ENDLESS = """
from paidup.runtime.terminal import WholeLines
while True:
    WholeLines().print("a line")
"""


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    """As `| head -1` does: the pipe is closed while lines are still to come."""
    command = [sys.executable, "-c", ENDLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        assert writer.stdout.readline() == "a line\n"
        writer.stdout.close()
        assert (writer.stderr.read(), writer.wait(60)) == ("", 1)
