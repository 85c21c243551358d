"""Consoles that never break a line, or an id in it, where their output is piped or kept in a file."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console, ConsoleOptions

UNBROKEN = 10_000
"""Columns of a table that is not shown on a terminal."""
PADDING = re.compile(r" +$", re.MULTILINE)


class WholeLines(Console):
    """On a terminal, tables fit its width, and the terminal wraps long lines itself."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, soft_wrap=True)

    def print(self, *objects: Any, **options: Any) -> None:
        """As in Console, without the spaces that fill the last column of a table, unless on a terminal."""
        if self.file.isatty():
            super().print(*objects, **options)
            return
        with self.capture() as capture:
            super().print(*objects, **options)
        try:
            self.file.write(PADDING.sub("", capture.get()))
            self.file.flush()
        except BrokenPipeError:  # `paidup explain ... | head -1` ends quietly, as with Console's own print
            self.on_broken_pipe()

    @property
    def options(self) -> ConsoleOptions:
        options = super().options
        # Not is_terminal: FORCE_COLOR and TTY_COMPATIBLE make one of a pipe.
        return options if self.file.isatty() else options.update(width=UNBROKEN)
