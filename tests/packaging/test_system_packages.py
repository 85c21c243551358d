"""`make test` on a bare machine: what cannot be installed is named in one line, and nothing passes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.system_packages import missing_packages


def test_what_cannot_be_installed_is_named_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.system_packages"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "chromium" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("browser_tests", "needed"), [("0", False), ("", True)])
def test_chromium_is_needed_unless_its_tests_are_left_out(
    browser_tests: str, needed: bool, tmp_path: Path
) -> None:
    missing = missing_packages({"PATH": str(tmp_path), "BROWSER_TESTS": browser_tests})
    assert ("chromium-headless-shell" in missing) is needed
