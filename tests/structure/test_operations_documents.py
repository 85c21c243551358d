"""The operators' documents match the code: metrics, alarms, runbook, dashboard and checklist."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from typing import Any

import promql_parser
import pytest
import yaml

from paidup.operations.doctor.report import checklist_link
from paidup.operations.doctor.run import CHECKS
from paidup.reconciliation.alarms import ALARMS
from paidup.runtime.metrics import Metrics
from tests.structure.pages import Page
from tests.structure.sources import ROOT, modules

OPERATIONS = ROOT / "docs" / "operations.md"
CHECKLIST = ROOT / "docs" / "going-live.md"
VARIABLES = {"$__rate_interval": "1m", "$job": "paidup"}
"""Grafana's variables, with example values."""


class DocumentedMetric:
    """A metric's name, kind, labels and series names."""

    def __init__(self, metric: Any) -> None:
        (family,) = metric.collect()
        self.kind = family.type
        self.name = f"{family.name}_total" if self.kind == "counter" else family.name
        self.labels = set(metric._labelnames)
        ends = ("_bucket", "_count", "_sum") if self.kind == "histogram" else ("",)
        self.series = {self.name + end for end in ends}


METRICS = [DocumentedMetric(each) for name, each in vars(Metrics()).items() if name != "registry"]
SERIES = {series: metric for metric in METRICS for series in metric.series}


def sections(text: str, level: str) -> dict[str, str]:
    """Return the text under each heading of this level."""
    parts = re.split(rf"^{level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@cache
def runbook() -> dict[str, str]:
    return sections(sections(OPERATIONS.read_text(), "##")["Runbook"], "###")


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def table(text: str) -> dict[str, list[str]]:
    """Return table rows by the code in their first cell."""
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return {codes(row[0])[0]: [cell.strip() for cell in row] for row in rows}


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_explained_with_its_kind_and_labels(metric: DocumentedMetric) -> None:
    _, kind, words = table(sections(OPERATIONS.read_text(), "##")["Metrics"])[metric.name]
    assert kind.partition(":")[0] == metric.kind
    assert set(codes(kind)) == metric.labels
    assert words
    assert ("seconds" in metric.name) is ("seconds" in words), "the unit"


def test_every_documented_metric_exists() -> None:
    named = table(sections(OPERATIONS.read_text(), "##")["Metrics"])
    assert set(named) == {metric.name for metric in METRICS}


def test_every_alarm_is_explained_with_its_runbook() -> None:
    named = table(sections(OPERATIONS.read_text(), "##")["Alarms"])
    assert set(named) == set(ALARMS)
    for name, (_, words, link) in named.items():
        assert words
        alert = "Paidup" + "".join(part.title() for part in name.split("_"))
        assert f"(#{alert.lower()})" in link
        assert f'{{name="{name}"}}' in expressions()[alert]


@cache
def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((ROOT / "docs" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for rule in alerts()}


def test_every_alert_has_its_entry_in_the_runbook_and_every_entry_its_alert() -> None:
    assert [rule["alert"] for rule in alerts()] == list(runbook())
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}


@pytest.mark.parametrize("name", list(runbook()))
def test_every_runbook_entry_has_the_same_parts(name: str) -> None:
    asked = re.findall(r"^- \*\*(.+?):\*\*", runbook()[name], re.MULTILINE)
    assert asked == ["Meaning", "Customer impact", "Diagnosis", "Mitigation", "Resolved when"]


def test_names_in_the_operations_guide_exist() -> None:
    """Columns, sweeps and log events: each name in the document is in the code."""
    beyond = {"max_connections"}  # PostgreSQL's
    every = {code for _, line in Page(OPERATIONS).prose() for code in codes(line)}
    named = {code for code in every if re.fullmatch(r"[a-z]+(?:_[a-z]+)+", code)}
    assert len(named) > 40
    assert {name for name in named - beyond if not re.search(rf"\b{name}\b", written())} == set()


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((ROOT / "docs" / "grafana.json").read_text())
    return read


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


@pytest.mark.parametrize("expression", [*expressions().values(), *queries()])
def test_queried_series_exist(expression: str) -> None:
    """Each expression is PromQL, and its series, labels and label values are in the code."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(expression), nodes.append)
    grouped, known = set[str](), {"job"}
    for node in nodes:
        match node:
            case promql_parser.VectorSelector(name=name, matchers=matchers):
                labels = {"job"} if name == "up" else {"job", "le", *SERIES[name or ""].labels}
                known |= labels
                for matcher in matchers.matchers:
                    assert matcher.name in labels
                    asked = [] if matcher.name in ("job", "status") else matcher.value.split("|")
                    assert [value for value in asked if f'"{value}"' not in written()] == []
            case promql_parser.AggregateExpr(modifier=modifier) if modifier is not None:
                grouped |= set(modifier.labels)
            case promql_parser.BinaryExpr(modifier=modifier) if modifier is not None and modifier.matching:
                grouped |= set(modifier.matching.labels)
    assert grouped <= known


@cache
def written() -> str:
    return "\n".join(module.text for name, module in modules().items() if name.startswith("paidup."))


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(queries())
    assert [metric.name for metric in METRICS if metric.name not in shown] == []


def test_grafana_can_import_the_dashboard() -> None:
    """Each panel has an id, a position of its own and the data source chosen on import."""
    board = dashboard()
    assert board["schemaVersion"] >= 36
    assert {"uid", "title", "panels", "templating", "time"} <= set(board)
    variables = {each["name"]: each for each in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
            )
        )
        assert not cells & taken, f"{panel['title']} covers another panel"
        assert place["x"] + place["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
            for target in [panel, *panel["targets"]]:
                assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    used = {name for query in queries() for name in re.findall(r"\$(\w+)", query)}
    assert used <= set(variables) | {"__rate_interval"}


def checklist() -> dict[str, str]:
    return sections(CHECKLIST.read_text(), "###")


def test_the_checklist_has_every_check_of_the_doctor() -> None:
    by_a_person = {name for name, words in checklist().items() if words.strip().startswith("*A person.*")}
    assert [name for name in checklist() if name not in by_a_person] == list(CHECKS)
    anchors = Page(CHECKLIST).anchors()
    for name in CHECKS:
        path, _, anchor = checklist_link(name).partition("#")
        assert ROOT / path == CHECKLIST
        assert anchor in anchors


def test_every_defence_in_the_threat_model_names_a_test() -> None:
    """Another test checks that the named tests exist."""
    text = sections((ROOT / "docs" / "security.md").read_text(), "##")["Threats and defences"]
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    claims = [row for row in rows if not row.endswith("| tests |")]
    assert len(rows) - len(claims) == len(re.findall(r"^\|---", text, re.MULTILINE))
    assert [row for row in claims if not re.search(r"\| `test_\w+`(, `test_\w+`)* \|$", row)] == []


def test_no_operator_needs_sql() -> None:
    """Whatever a document for operators tells them to do, a command does it."""
    statement = re.compile(
        r"\b(SELECT .+ FROM|UPDATE \w+ SET|INSERT INTO|DELETE FROM|ALTER TABLE|psql)\b", re.I
    )
    for path in sorted((ROOT / "docs").glob("*.md")):
        for language, text in re.findall(r"^ *```(\w*)\n(.*?)^ *```", path.read_text(), re.M | re.S):
            assert language != "sql", path.name
            if language in ("", "sh", "text", "console"):
                assert not statement.search(text), (path.name, text)
    for name, entry in runbook().items():
        assert not statement.search(entry.replace("`SELECT 1`", "")), name
