"""Only templates have markup, and they mark nothing as safe: the operators' pages escape all values."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError

from paidup.web.operators import rendering
from tests.support.processes import ROOT

PACKAGE = ROOT / "server/paidup/web/operators"
TEMPLATES = sorted((PACKAGE / "templates").iterdir())
UNESCAPED = re.compile(
    r"\|\s*(safe|forceescape|xmlattr|tojson)\b|autoescape|Markup|__html__|href=\"\{\{ (?!url)"
)


def test_no_template_marks_a_value_as_safe() -> None:
    """Nor turns escaping off, nor links to an address that is not made by `url`."""
    assert TEMPLATES
    found = {file.name: UNESCAPED.findall(file.read_text()) for file in TEMPLATES}
    assert {name: marks for name, marks in found.items() if marks} == {}


def test_no_module_writes_markup() -> None:
    """It would have to be marked as safe."""
    found = [
        file.name
        for file in PACKAGE.glob("*.py")
        if re.search(r"markupsafe|Markup\b[^ ]|<\w+[ >]", file.read_text())
    ]
    assert found == []


def test_a_value_is_escaped_and_a_missing_one_is_an_error() -> None:
    environment = rendering._PAGES
    hostile = '<b>"{{ 7*7 }}'
    assert environment.from_string("{{ x }}").render(x=hostile) == "&lt;b&gt;&#34;{{ 7*7 }}"
    with pytest.raises(UndefinedError):
        environment.from_string("{{ x }}").render()
