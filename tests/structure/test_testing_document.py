"""docs/testing.md names every condition and call of the sandbox, and everything that the fixtures give."""

from __future__ import annotations

import re

import pytest

from paidup_demo.sandbox.conditions import Conditions
from paidup_demo.sandbox.controls import CONTROLS
from paidup_demo.testing import PaidupServer, Sandbox
from tests.structure.sources import ROOT

CODES = set(re.findall(r"`([^`\n]+)`", (ROOT / "docs" / "testing.md").read_text()))


@pytest.mark.parametrize("name", Conditions.__struct_fields__)
def test_every_condition_is_documented(name: str) -> None:
    assert name in CODES


def test_the_calls_are_those_of_the_sandbox() -> None:
    documented = {code for code in CODES if re.match(r"(GET|POST) /sandbox/", code)}
    assert documented == {f"{method} /sandbox{path}" for method, path, _ in CONTROLS}


@pytest.mark.parametrize("kind", [Sandbox, PaidupServer])
def test_every_method_is_documented(kind: type) -> None:
    documented = {name for code in CODES for name in re.findall(r"(\w+)\(", code)}
    methods = {name for name in vars(kind) if not name.startswith("_") and callable(getattr(kind, name))}
    assert methods - documented == set()
