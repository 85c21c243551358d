"""pytest fixtures for tests of your own product: `paidup_sandbox` and `paidup_server`.

pytest loads this module wherever Paidup is installed, so it imports nothing of Paidup until a fixture is
used. docs/testing.md explains the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paidup_demo.testing import PaidupServer, Sandbox


RUNNING: pytest.StashKey[Sandbox] = pytest.StashKey()
"""The sandbox of this session."""


@pytest.fixture(scope="session")
def paidup_settings() -> dict[str, str]:
    """Settings of the test's Paidup, by their names in .env. Define it in your conftest.py to change them."""
    return {}


@pytest.fixture(scope="session")
def paidup_sandbox(request: pytest.FixtureRequest, paidup_settings: dict[str, str]) -> Iterator[Sandbox]:
    """An imitation of Stripe with the prices of your plans, one for all tests.

    Each test begins with normal conditions.
    """
    from paidup.settings import PACKAGED_PLANS  # noqa: PLC0415
    from paidup_demo.testing import running_sandbox  # noqa: PLC0415

    plans = Path(paidup_settings.get("PLANS_FILE") or PACKAGED_PLANS)
    with running_sandbox(plans, paidup_settings.get("ALLOWED_ORIGINS", "")) as sandbox:
        request.session.stash[RUNNING] = sandbox
        yield sandbox


@pytest.fixture(scope="session")
def paidup_server(paidup_sandbox: Sandbox, paidup_settings: dict[str, str]) -> Iterator[PaidupServer]:
    """A Paidup at that sandbox, one for all tests: use a new user id in each."""
    from paidup_demo.testing import running_paidup  # noqa: PLC0415

    given = dict(paidup_settings)
    if "PLANS_FILE" in given:  # the server runs in a directory of its own
        given["PLANS_FILE"] = str(Path(given["PLANS_FILE"]).resolve())
    with running_paidup(paidup_sandbox, given) as server:
        yield server


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Normal conditions again. Before the fixtures end: after the last test, the sandbox ends with them."""
    sandbox = item.session.stash.get(RUNNING, None)
    if sandbox is not None and "paidup_sandbox" in getattr(item, "fixturenames", ()):
        sandbox.reset_conditions()
