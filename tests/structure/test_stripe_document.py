"""Checks docs/stripe.md: its permissions are the code's, and every test that its table cites exists."""

from __future__ import annotations

import re

import pytest

from paidup.stripe_api.permissions import PERMISSIONS, SETUP_PERMISSIONS
from tests.structure.sources import ROOT

DOCUMENT = (ROOT / "docs" / "stripe.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the table under this heading, without its head."""
    section = re.split(r"^## ", DOCUMENT.partition(f"\n## {heading}\n")[2], flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_permissions_are_those_that_the_doctor_tries() -> None:
    listed = table("Restricted keys")
    serving = {(name, access) for name, access, _ in listed if access}
    setting_up = {(name, access) for name, _, access in listed if access}
    assert serving == {(one.resource, one.access) for one in PERMISSIONS}
    assert setting_up == {(one.resource, one.access) for one in SETUP_PERMISSIONS}


@pytest.mark.parametrize("row", table("What is supported"), ids=lambda row: str(row[0]))
def test_a_feature_says_what_is_done_and_its_tests_exist(row: list[str]) -> None:
    """A feature without a test is one that says no."""
    _, done, cited = row
    names = re.findall("`(test_[a-z0-9_]+)`", cited)
    assert names or re.match("no\\b|not yet|does nothing", done), done
    assert set(names) <= TESTS, set(names) - TESTS


TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}
