"""A pseudo terminal: what programs write to it arrives in a file."""

from __future__ import annotations

import os
import pty
import threading
from pathlib import Path
from typing import BinaryIO


def terminal(log: Path) -> BinaryIO:
    """A terminal to write to. A thread copies it to `log` until the last that has it open is gone."""
    master, slave = pty.openpty()
    threading.Thread(target=_copy, args=(master, log), daemon=True).start()
    return os.fdopen(slave, "wb", buffering=0)


def _copy(master: int, log: Path) -> None:
    with os.fdopen(master, "rb", buffering=0) as source, log.open("ab", buffering=0) as target:
        try:
            while part := source.read(65_536):
                target.write(part)
        except OSError:  # EIO: nobody has it open any more
            pass
