"""The browser client's tests that need no browser, on Node's runner: `node --test tests/node/*.test.js`."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.node import ENVIRONMENT, FOLDER, MODULES, NODE


def test_the_browser_client_passes_its_own_tests() -> None:
    """Run every `*.test.js` in this folder, and print their output if one fails."""
    if not MODULES.exists():
        pytest.skip("npm's packages are not installed: `make test` does it")
    tests = sorted(FOLDER.glob("*.test.js"))
    command = [str(NODE), "--test", "--test-timeout=60000", "--test-reporter=dot", *map(str, tests)]
    run = subprocess.run(
        command, check=False, cwd=FOLDER, env=ENVIRONMENT, capture_output=True, text=True, timeout=280
    )
    assert tests
    assert run.returncode == 0, run.stdout + run.stderr
