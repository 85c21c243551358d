"""The goals of this project's speed, and the table of what was reached, from the results of benchmarks.

A goal names the benchmark that measures it, and where its results have it. `python -m tests.bench` runs the
benchmarks and prints the whole table; each benchmark alone prints its own rows.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.report import Figure, figure_text

console = Console(width=200)
ALL = "*"
"""In place of who was measured: the one with the highest value counts."""
COLUMNS = ("figure", "floor", "Paidup", "ratio or amount", "goal", "reached")

Results = Mapping[str, Mapping[str, Figure]]
"""The figures of each benchmark, by their names."""


class Counts(Enum):
    """What of the measured value is compared with the goal."""

    AMOUNT = auto()
    """The median of all rounds."""
    WORST = auto()
    """The highest of all rounds."""
    RATIO = auto()
    """To the floor of the same round."""
    BEYOND = auto()
    """What it is more than the floor of the same run."""


@dataclass(frozen=True)
class Goal:
    what: str
    benchmark: str
    figure: str
    who: str
    value: str
    bound: float
    unit: str = ""
    floor: str = ""
    counts: Counts = Counts.AMOUNT
    at_least: bool = False

    @property
    def text(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self._with_unit(f'{self.bound:,g}')}"

    def reached(self, amount: float) -> bool:
        return amount >= self.bound if self.at_least else amount <= self.bound

    def row(self, results: Results) -> tuple[str, ...] | None:
        """Its cells, or None where the results do not have it."""
        figure = results.get(self.benchmark, {}).get(self.figure)
        if figure is None or not (who := self._measured(figure)):
            return None
        mine = figure.median(who, self.value)
        theirs = figure.median(self.floor, self.value) if self.floor else None
        amount = self._amount(figure, who)
        return (
            f"{self.what}: {who}" if self.who == ALL else self.what,
            "" if theirs is None else figure_text(theirs),
            figure_text(mine),
            self._with_unit(figure_text(amount)),
            self.text,
            "yes" if self.reached(amount) else "no",
        )

    def _measured(self, figure: Figure) -> str:
        having = [who for who, row in figure.rounds.items() if self.value in row]
        if self.who == ALL:
            return max(having, key=lambda who: figure.median(who, self.value), default="")
        return self.who if self.who in having and (not self.floor or self.floor in having) else ""

    def _amount(self, figure: Figure, who: str) -> float:
        if self.counts is Counts.RATIO:
            return figure.ratio(self.value, who, self.floor)
        if self.counts is Counts.WORST:
            return max(figure.rounds[who][self.value])
        beyond = figure.median(self.floor, self.value) if self.counts is Counts.BEYOND else 0.0
        return figure.median(who, self.value) - beyond

    def _with_unit(self, amount: str) -> str:
        return f"{amount}{self.unit if self.unit.startswith('/') else f' {self.unit}'}".rstrip()


RAW, PRODUCT, FLOOR = "raw Redis subscriber", "Paidup", "floor"
ROUND_TRIP = "floor: one Stripe round trip"
DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
WEBHOOKS = {"settles": "settling", "nothing new": "nothing new", "payments": "whole payments"}
READS = ("/api/entitlements", "/api/credits", "/api/invoices/{invoice}")
RATIO, BEYOND = Counts.RATIO, Counts.BEYOND


def _messages() -> Iterable[Goal]:
    for share, bound in (("p50", 1.4), ("p99", 1.8)):
        what = f"from publishing to receiving, {share} in ms"
        yield Goal(what, "sockets", "latency", PRODUCT, share, bound, "times", RAW, RATIO)
    for what, value in (("messages lost", "lost"), ("messages received twice", "twice")):
        yield Goal(what, "sockets", "throughput", PRODUCT, value, 0, counts=Counts.WORST)
    yield Goal("messages sent", "sockets", "throughput", PRODUCT, "a_second", 50_000, "/s", at_least=True)
    yield Goal("memory of a waiting socket", "sockets", "memory", PRODUCT, "bytes_a_socket", 13_000, "B")
    yield Goal("connects", "sockets", "connects", PRODUCT, "a_second", 4_000, "/s", at_least=True)
    for what, value in (("told", "not_told"), ("granted once", "not_granted")):
        text = f"under load, paid and not {what}"
        yield Goal(text, "sockets", "load", "all who paid", value, 0, counts=Counts.WORST)
    what, who = "under load, from the commit to the socket, p99", "commit to socket, ms"
    yield Goal(what, "sockets", "load", who, "p99", 25, "ms")


def _waiting() -> Iterable[Goal]:
    cpu, socket, polling = "cpu_us_a_second", "a waiting socket", "polling each second"
    yield Goal("CPU of a waiting socket, a second", "sockets", "cpu", socket, cpu, 10, "µs")
    what, verified = "CPU of one once all were verified", "a waiting socket, once all were verified"
    yield Goal(what, "sockets", "cpu", verified, cpu, 10, "µs")
    what = "CPU of polling, and of a socket, µs a second"
    yield Goal(what, "sockets", "cpu", polling, cpu, 50, "times", socket, RATIO, at_least=True)
    what, value = "told by polling, and by a socket, ms", "told_after_ms"
    yield Goal(what, "sockets", "cpu", polling, value, 100, "times", socket, RATIO, at_least=True)
    for name, database in DATABASES.items():
        what = f"CPU of one verification, {database}"
        yield Goal(what, "verifications", name, "one verification", "cpu_ms", 2, "ms")
    what, who = "reads of Stripe for 60 activations at once", "60 activations at once, webhooks dead"
    yield Goal(what, "reads", "reads", who, "reads", 66)


def _spends() -> Iterable[Goal]:
    for name, one, many in (("postgresql", 1_000, 1_500), ("sqlite", 1_000, 1_000)):
        for whose, bound in (("one account", one), ("100 accounts", many)):
            for what in ("spend", "reserve", "commit") if name == "postgresql" else ("spend",):
                who = f"HTTP, {what}, {whose}"
                text = f"{what}, {whose}, {DATABASES[name]}"
                yield Goal(text, "spends", name, who, "a_second", bound, "/s", at_least=True)
            text = f"p99 of a spend at half of that, {whose}, {DATABASES[name]}"
            yield Goal(text, "spends", name, f"HTTP, spend, {whose}", "p99_ms", 25, "ms")


def _requests() -> Iterable[Goal]:
    alone, together = ("cpu_ms", "one after another"), ("cpu_ms_at_once", "16 at once")
    for name, (value, how) in (("sqlite", alone), ("postgresql", alone), ("postgresql", together)):
        for path in READS:
            what = f"CPU of `GET {path}`, {DATABASES[name]}, {how}"
            yield Goal(what, "entitlements", name, f"GET {path}", value, 0.3, "ms")
    for kind, named in WEBHOOKS.items():
        figure, what = f"{kind}, 1 process", f"webhooks a second, {named}"
        yield Goal(what, "webhooks", figure, PRODUCT, "a_second", 0.5, "times", FLOOR, RATIO, at_least=True)


def _activations() -> Iterable[Goal]:
    for name, database in DATABASES.items():
        for who in ("open before it", "opened after the payment"):
            what = f"activation at the server, {who}, {database}, ms"
            yield Goal(what, "activation_server", name, who, "ms", 5, "ms", ROUND_TRIP, BEYOND)
    for when in ("webhooks at once", "webhooks after 5 s"):
        what = f"in the page until painted, {when}, ms"
        yield Goal(what, "activation", when, PRODUCT, "painted_ms", 12, "ms", ROUND_TRIP, BEYOND)


def _growth() -> Iterable[Goal]:
    what = "a request beside many rows, times one beside few, the slowest"
    yield Goal(what, "growth", "requests", ALL, "last_to_first", 1.1, "times")
    what = "the reconciler's sweeps together, the same"
    yield Goal(what, "growth", "sweeps", "all", "last_to_first", 1.1, "times")
    for name, database in DATABASES.items():
        what = f"a spend of an account with 100,000 entries, times a new one's, {database}"
        yield Goal(what, "accounts", name, "spend", "ratio", 1.1, "times")


def _starts() -> Iterable[Goal]:
    for who, bound in (("paidup --help", 0.15), ("paidup serve", 0.8), ("paidup demo", 1.5)):
        yield Goal(f"`{who}` answers after", "start", "start", who, "s", bound, "s")


GOALS = (
    *_messages(),
    *_waiting(),
    *_spends(),
    *_requests(),
    *_activations(),
    *_growth(),
    *_starts(),
)


def goals_of(benchmark: str) -> list[Goal]:
    return [goal for goal in GOALS if goal.benchmark == benchmark]


def show(results: Results, goals: Iterable[Goal] = GOALS) -> list[Goal]:
    """Print the table. Returns the goals for which there is no result."""
    table, missing = Table(box=box.MARKDOWN), list[Goal]()
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("figure", "reached") else "right")
    for goal in goals:
        if row := goal.row(results):
            table.add_row(*row)
        else:
            missing.append(goal)
    if table.rows:
        console.print(table)
    return missing


def finish(options: Namespace, benchmark: str, figures: Mapping[str, Figure], where: str = "") -> None:
    """End a benchmark: print its rows of the table, and keep its results where `--json` says."""
    show({benchmark: figures}, goals_of(benchmark))
    if options.json:
        results = {name: figure.as_json() for name, figure in figures.items()}
        options.json.write_text(json.dumps({"machine": where, "figures": results}))


def read(kept: Mapping[str, Any]) -> Results:
    """The results of benchmarks, of the JSON that each of them kept."""
    return {
        name: {figure: Figure.from_json(each) for figure, each in result["figures"].items()}
        for name, result in kept.items()
    }


def read_file(file: Path) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(file.read_text())
    return kept
