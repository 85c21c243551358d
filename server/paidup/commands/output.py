"""Where the commands print. It imports little: `paidup --help` and `paidup sandbox` start fast."""

from __future__ import annotations

from paidup.runtime.terminal import WholeLines

console = WholeLines()
error_console = WholeLines(stderr=True)
