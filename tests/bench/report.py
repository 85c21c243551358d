"""What the benches print: medians by round, ratios to the floor, goals, and the machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(width=130)


@dataclass(frozen=True)
class Goal:
    """A bound that the issue sets. `value` is what was reached."""

    what: str
    value: float
    bound: float
    at_most: bool = True

    def __str__(self) -> str:
        reached = self.value <= self.bound if self.at_most else self.value >= self.bound
        limit = f"{'at most' if self.at_most else 'at least'} {self.bound:,g}"
        return (
            f"{self.what}: {_figure(self.value)} (goal: {limit}): {'reached' if reached else 'NOT REACHED'}"
        )


@dataclass
class Figure:
    """One figure: what was measured of whom, a value a round; and single samples for its picture."""

    title: str
    rounds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)

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
            cells = [_figure(statistics.median(row[what])) if what in row else "" for what in columns]
            table.add_row(who, *cells)
        console.print(table)
        for goal in self.goals:
            console.print(f"  {goal}", highlight=False)
        console.print()

    def as_json(self) -> dict[str, Any]:
        goals = [{"what": goal.what, "value": goal.value, "bound": goal.bound} for goal in self.goals]
        return {"title": self.title, "rounds": self.rounds, "goals": goals, "samples": self.samples}


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


def _figure(value: float) -> str:
    if value and abs(value) < 10:
        return f"{value:.2f}"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"
