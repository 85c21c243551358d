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


@pytest.fixture(scope="session")
def paidup_settings() -> dict[str, str]:
    """Settings of the test's Paidup, by their names in .env. Define it in your conftest.py to change them."""
    return {}


@pytest.fixture(scope="session")
def _running_sandbox(paidup_settings: dict[str, str]) -> Iterator[Sandbox]:
    from paidup.settings import PACKAGED_PLANS  # noqa: PLC0415
    from paidup_demo.testing import running_sandbox  # noqa: PLC0415

    with running_sandbox(Path(paidup_settings.get("PLANS_FILE") or PACKAGED_PLANS)) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def _running_paidup(_running_sandbox: Sandbox, paidup_settings: dict[str, str]) -> Iterator[PaidupServer]:
    from paidup_demo.testing import running_paidup  # noqa: PLC0415

    given = dict(paidup_settings)
    if "PLANS_FILE" in given:  # the server runs in a directory of its own
        given["PLANS_FILE"] = str(Path(given["PLANS_FILE"]).resolve())
    with running_paidup(_running_sandbox, given) as server:
        yield server


@pytest.fixture
def paidup_sandbox(_running_sandbox: Sandbox) -> Iterator[Sandbox]:
    """An imitation of Stripe with the prices of your plans; each test begins with normal conditions."""
    yield _running_sandbox
    _running_sandbox.reset_conditions()


@pytest.fixture
def paidup_server(_running_paidup: PaidupServer, paidup_sandbox: Sandbox) -> PaidupServer:
    """A Paidup at that sandbox, one for all tests: use a new user id in each."""
    return _running_paidup
