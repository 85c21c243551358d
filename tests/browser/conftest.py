"""One Chromium and one running demo for all tests of a browser; a new customer for each that wants one."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.story import Demo, Shopper, running_demo, shopping
from tests.support.browsers import CHROMIUM, running_browser

expect.set_options(timeout=15_000)  # two cores may be shared with a test that hammers


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    async with running_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    with tempfile.TemporaryDirectory(prefix="pu-") as folder, running_demo(Path(folder)) as demo:
        yield demo


@pytest_asyncio.fixture(loop_scope="session")
async def shopper(browser: Browser, demo: Demo, request: pytest.FixtureRequest) -> AsyncIterator[Shopper]:
    """A customer with an empty purse, in calm weather; his test fails if the page had any trouble.

    Parametrized indirectly, it takes the options of his browser: a width, a colour scheme. He wants no motion
    unless they say so: the press is quick then, and so is the test.
    """
    looks = {"reduced_motion": "reduce", **getattr(request, "param", {})}
    async with shopping(browser, demo, **looks) as shopper:
        yield shopper
    assert shopper.troubles == []
