"""The table of the goals is made from results; what has none is said, and the document has the same goals."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from unittest.mock import patch

import pytest

from tests.bench import __main__ as all_benchmarks
from tests.bench.goals import ALL, COLUMNS, GOALS, Counts, Goal, read, show
from tests.bench.report import Figure
from tests.structure.sources import ROOT

RATIO = Goal("p50", "sockets", "latency", "Paidup", "p50", 1.4, "times", "raw", Counts.RATIO)
BEYOND = Goal("activation", "activation", "page", "Paidup", "ms", 12, "ms", "trip", Counts.BEYOND)
AT_LEAST = Goal("connects", "sockets", "connects", "Paidup", "a_second", 4_000, "/s", at_least=True)
LOST = Goal("lost", "sockets", "throughput", "Paidup", "lost", 0, counts=Counts.WORST)
SLOWEST = Goal("slowest", "growth", "requests", ALL, "ratio", 1.1, "times")


def measured(**rounds: list[dict[str, float]]) -> Figure:
    figure = Figure("")
    for who, each in rounds.items():
        for values in each:
            figure.add(who, **values)
    return figure


LATENCY = measured(raw=[{"p50": 1}, {"p50": 2}, {"p50": 4}], Paidup=[{"p50": 2}, {"p50": 2.8}, {"p50": 4}])
RESULTS = {
    "sockets": {
        "latency": LATENCY,
        "throughput": measured(Paidup=[{"lost": 0}, {"lost": 2}, {"lost": 0}]),
        "connects": measured(Paidup=[{"a_second": 4_000}, {"a_second": 5_000}, {"a_second": 100}]),
    },
    "activation": {
        "page": measured(trip=[{"ms": 2}] * 5, Paidup=[{"ms": 13}, {"ms": 14.5, "painted_ms": 20}]),
    },
    "growth": {"requests": measured(flat=[{"ratio": 0.9}], grown=[{"ratio": 1.2}], other=[{"ms": 3}])},
}


@pytest.mark.parametrize(
    ("goal", "cells"),
    [
        (RATIO, ("p50", "2.00", "2.80", "1.40 times", "at most 1.4 times", "yes")),
        (BEYOND, ("activation", "2.00", "13.8", "11.8 ms", "at most 12 ms", "yes")),
        (AT_LEAST, ("connects", "", "4,000", "4,000/s", "at least 4,000/s", "yes")),
        (LOST, ("lost", "", "0.0", "2.00", "at most 0", "no")),
        (SLOWEST, ("slowest: grown", "", "1.20", "1.20 times", "at most 1.1 times", "no")),
    ],
)
def test_a_row_has_the_medians_and_what_counts(goal: Goal, cells: tuple[str, ...]) -> None:
    assert goal.row(RESULTS) == cells


def test_a_goal_without_a_result_is_named_and_has_no_row(capsys: pytest.CaptureFixture[str]) -> None:
    absent = Goal("spends", "spends", "sqlite", "HTTP", "a_second", 1_000, at_least=True)
    no_floor = Goal("p50 of none", "sockets", "latency", "Paidup", "p50", 1, "", "none", Counts.RATIO)
    assert show(RESULTS, [absent, RATIO, no_floor]) == [absent, no_floor]
    printed = capsys.readouterr().out
    assert [cell.strip() for cell in printed.splitlines()[1].strip(" |").split("|")] == [*COLUMNS]
    assert "1.40 times" in printed
    assert "spends" not in printed


def test_the_table_is_made_again_from_the_file_that_was_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A benchmark that ran, but did not measure what a goal is about, is an error that names the goal."""
    kept = {
        benchmark: {"machine": "", "figures": {name: figure.as_json() for name, figure in figures.items()}}
        for benchmark, figures in RESULTS.items()
    }
    assert read(json.loads(json.dumps(kept))) == RESULTS
    file = tmp_path / "results.json"
    file.write_text(json.dumps(kept))
    with (
        patch("sys.argv", ["tests.bench", "--read", str(file)]),
        pytest.raises(SystemExit, match="from publishing to receiving"),
    ):
        all_benchmarks.main()
    assert "at least 4,000/s" in capsys.readouterr().out


@pytest.mark.parametrize(("program", "failed"), [("true", "start"), ("false", "start, outbound")])
def test_a_benchmark_that_fails_or_keeps_no_results_is_named(program: str, failed: str) -> None:
    """`outbound` has no goals, so that nothing is to be kept."""
    with (
        patch("sys.argv", ["tests.bench", "--only", "start,outbound"]),
        patch("sys.executable", which(program)),
        pytest.raises(SystemExit, match=f"^failed: {failed}$"),
    ):
        all_benchmarks.main()


def test_every_goal_has_a_benchmark_that_measures_it() -> None:
    for goal in GOALS:
        assert goal.benchmark in all_benchmarks.BENCHMARKS, goal
        source = "".join(
            (ROOT / "tests" / "bench" / f"{module}.py").read_text()
            for module in (goal.benchmark, *(["waits"] if goal.benchmark == "sockets" else []))
        )
        assert f"{goal.value}=" in source or f'"{goal.value}"' in source, goal
    for name in all_benchmarks.BENCHMARKS:
        assert find_spec(f"tests.bench.{name}"), name
    assert len({goal.what for goal in GOALS}) == len(GOALS)


def test_the_document_has_each_goal_as_it_is_printed() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text().partition("\n## Goals\n")[2].partition("\n##")[0]
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    assert rows[0][: len(COLUMNS)] == [*COLUMNS]
    assert [row[4] for row in rows[2:]] == [goal.text for goal in GOALS]
    for row, goal in zip(rows[2:], GOALS, strict=True):
        assert row[0] == goal.what or (goal.who == ALL and row[0].startswith(f"{goal.what}: "))
