"""One Chromium and one running demo for all browser tests; a new customer for each test."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.clean_contexts import USUAL_LOOKS
from tests.browser.story import Demo, Shopper, running_demo, shopping
from tests.support.browsers import running_browser

expect.set_options(timeout=15_000)  # two cores may be shared with a test that hammers


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failing browser test reports what happened on the server."""
    report = yield
    demo = item.funcargs.get("demo")
    if report.failed and isinstance(demo, Demo):
        report.sections += [("the demo's log", demo.log.read_text()[-5_000:]), ("webhooks", _webhooks(demo))]
    return report


def _webhooks(demo: Demo) -> str:
    """One line per event of the sandbox, newest first, with its deliveries."""
    try:
        with urllib.request.urlopen(f"{demo.sandbox}/sandbox/events?limit=40", timeout=10) as answer:
            events = json.load(answer)["events"]
    except OSError as error:
        return f"the sandbox does not answer: {error}"
    return "\n".join(
        f"{event['created']} {event['type']} of {event['data']['object'].get('id')}: "
        + "; ".join(f"{sent['status']} {sent['attempts']}" for sent in event["deliveries"])
        for event in events
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with running_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    with tempfile.TemporaryDirectory(prefix="pu-") as folder, running_demo(Path(folder)) as demo:
        yield demo


@pytest_asyncio.fixture(loop_scope="session")
async def shopper(browser: Browser, demo: Demo, request: pytest.FixtureRequest) -> AsyncIterator[Shopper]:
    """A new customer without credits, under normal conditions; the test fails if the page had errors.

    Parametrized indirectly, it takes options of the browser context. Motion is reduced by default, which
    makes the test faster.
    """
    looks = {**USUAL_LOOKS, **getattr(request, "param", {})}
    async with shopping(browser, demo, **looks) as shopper:
        yield shopper
    assert shopper.troubles == []
