"""The results of `paidup doctor`, and their table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from rich.table import Table
from rich.text import Text

from paidup.errors import ConfigurationError


class State(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Check(msgspec.Struct, frozen=True):
    """One result. `recommendation` and `see` (a link into the checklist) are None if the state is ok."""

    name: str
    state: State
    text: str
    recommendation: str | None = None
    see: str | None = None


def ok(name: str, text: str) -> Check:
    return Check(name, State.OK, text)


def warn(name: str, text: str, recommendation: str) -> Check:
    return Check(name, State.WARN, text, recommendation, checklist_link(name))


def fail(name: str, text: str, recommendation: str) -> Check:
    return Check(name, State.FAIL, text, recommendation, checklist_link(name))


def checklist_link(name: str) -> str:
    """Return the link to the check's section of the checklist."""
    return f"docs/going-live.md#{name.replace(' ', '-')}"


def any_failed(checks: Sequence[Check]) -> bool:
    return any(check.state is State.FAIL for check in checks)


def invalid_settings(error: ConfigurationError) -> list[Check]:
    """Return the results for invalid settings; no other check can run then."""
    return [fail("settings", problem, "see docs/settings.md") for problem in error.problems]


_COLORS = {State.OK: "green", State.WARN: "yellow", State.FAIL: "red"}


def render_table(checks: Sequence[Check]) -> Table:
    table = Table.grid(padding=(0, 2))
    for check in checks:
        text = Text(check.text)
        if check.recommendation:
            text.append(f"\n-> {check.recommendation}", style="bold")
            text.append(f" ({check.see})", style="dim")
        table.add_row(Text(check.state, style=_COLORS[check.state]), Text(check.name), text)
    return table
