"""A progress bar on standard error, where that is a terminal; standard output is for the result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Progress]:
    """One bar of one task, whose field `done` says how far it is. `total` None: not known."""
    from rich.console import Console  # noqa: PLC0415 (it takes long: `paidup serve` imports this module)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    console = Console(stderr=True)
    # isatty: FORCE_COLOR makes a terminal of whatever it is for rich.
    shown = console.is_terminal and sys.stderr.isatty()
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        progress.add_task(description, total=total, done="")
        yield progress


@contextmanager
def progress_steps(description: str, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """Yields what is to be called with the name of each step as it begins; `total` steps, None: not known."""
    with progress_bar(description, total) as progress:
        begun = 0

        def begin(step: str) -> None:
            nonlocal begun
            progress.update(progress.task_ids[0], completed=begun, done=step)
            begun += 1

        yield begin
