"""What the benches print and keep: medians by round, ratios to the floor, and the machine."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=130)


def arguments(benchmark: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of a benchmark whose results can be kept: `tests.bench.goals.finish` writes them."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.bench.{benchmark}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="file for the results")
    return parser


@dataclass
class Figure:
    """One figure: what was measured of whom, a value a round; and single samples for its picture."""

    title: str
    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, who: str, **values: float) -> None:
        """One round's values."""
        row = self.rounds.setdefault(who, {})
        for what, value in values.items():
            row.setdefault(what, []).append(value)

    def median(self, who: str, what: str) -> float:
        return statistics.median(self.rounds[who][what])

    def ratio(self, what: str, who: str, floor: str) -> float:
        """The median of each round's ratio."""
        pairs = zip(self.rounds[who][what], self.rounds[floor][what], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def show(self) -> None:
        columns = list(dict.fromkeys(what for row in self.rounds.values() for what in row))
        table = Table(title=self.title, min_width=min(len(self.title), 120), title_justify="left")
        table.add_column("")
        for what in columns:
            table.add_column(what.replace("_", " "), justify="right")
        for who, row in self.rounds.items():
            cells = [figure_text(statistics.median(row[what])) if what in row else "" for what in columns]
            table.add_row(who, *cells)
        console.print(table)
        console.print()

    def as_json(self) -> dict[str, Any]:
        return {"title": self.title, "rounds": self.rounds, "samples": self.samples}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Figure:
        return cls(**kept)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def machine(postgres: str, valkey: str) -> str:
    names = ("uvicorn", "starlette", "websockets", "uvloop", "redis", "hiredis", "tortoise-orm", "asyncpg")
    parts = ", ".join(f"{name} {version(name)}" for name in names)
    return (
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"PostgreSQL {postgres}, Valkey {valkey}, {parts}"
    )


def figure_text(value: float) -> str:
    """With as many digits as are worth reading."""
    if value and abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"
