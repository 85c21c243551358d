"""The pytest plugin, in a product's own tests: pytest run in a folder that has nothing of this repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.structure.sources import ROOT

DOCUMENT = (ROOT / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"(?s)```python\n(.*?)```", DOCUMENT)
SETTINGS_SHOWN = """
import shutil
from pathlib import Path

from paidup.settings import PACKAGED_PLANS

shutil.copy(PACKAGED_PLANS, "plans.toml")


def test_the_settings_are_those_of_the_conftest(paidup_server):
    assert paidup_server.environment["ALLOWED_ORIGINS"] == "http://localhost:5173"
    assert Path(paidup_server.environment["PLANS_FILE"]).samefile("plans.toml")
"""
CONDITIONS_ARE_NORMAL = """


def test_the_conditions_are_normal_again_and_a_top_up_is_paid(paidup_server, paidup_sandbox):
    assert paidup_sandbox.read("conditions")["webhook_drop"] is False
    assert paidup_server.buy("fay", "extra") == 1000
"""
UNUSED = """
import sys


def test_nothing_of_paidup_is_imported():
    loaded = {name for name in sys.modules if name.partition(".")[0] in ("paidup", "paidup_demo")}
    assert loaded == {"paidup_demo", "paidup_demo.pytest_plugin"}
"""


def pytest_in(folder: Path, **variables: str) -> str:
    """The output of a run that must pass."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **variables},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_the_document_pass(tmp_path: Path) -> None:
    """Whatever database the environment names: it is not the tests' one."""
    _, tests, conftest, own = BLOCKS
    (tmp_path / "test_product.py").write_text(tests + own + CONDITIONS_ARE_NORMAL + SETTINGS_SHOWN)
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "backend.py").write_text((ROOT / "docs" / "examples" / "backend.py").read_text())
    used = pytest_in(
        tmp_path, DATABASE_URL="postgresql://nobody@127.0.0.1:1/production", REDIS_URL="redis://x"
    )
    assert "7 passed" in used
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".db", ".json")) == []


def test_without_its_fixtures_nothing_is_imported_or_started(tmp_path: Path) -> None:
    (tmp_path / "test_product.py").write_text(UNUSED)
    assert "1 passed" in pytest_in(tmp_path)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n\n\n@pytest.fixture(scope='session')\n"
        "def paidup_settings():\n    return {'STRIPE_TIMEOUT_S': 'soon'}\n"
    )
    (tmp_path / "test_product.py").write_text("def test_it(paidup_server):\n    pass\n")
    with pytest.raises(AssertionError, match="STRIPE_TIMEOUT_S"):
        pytest_in(tmp_path)
