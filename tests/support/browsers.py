"""The real browser of the tests: Debian's Chromium, driven by Playwright. Nothing is downloaded.

Tests prefer Chromium's headless shell, as Playwright itself does: the same engine, network and protocol
without the parts of a desktop's browser, which take as much of a core as the pages do.
Source: https://developer.chrome.com/blog/chrome-headless-shell
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

BROWSER_TESTS = os.environ.get("BROWSER_TESTS") != "0"
DESKTOP = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SHELL = shutil.which("chromium-headless-shell")
PROGRAM = Path(__file__).with_name("chromium.py")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def running_browser(*arguments: str, desktop: bool = False) -> AsyncIterator[Browser]:
    """The system's Chromium, without a window; `arguments` are more of its command line.

    `desktop` prefers the browser that people use, for what is measured. A test fails where Chromium is
    missing, and is skipped where BROWSER_TESTS=0 says so.
    """
    if not BROWSER_TESTS:
        pytest.skip("BROWSER_TESTS=0")
    program = (DESKTOP or SHELL) if desktop else (SHELL or DESKTOP)
    if program is None:
        pytest.fail("Chromium is not installed: run `make test`, or set BROWSER_TESTS=0")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=PROGRAM,
            args=[*_ARGUMENTS, *arguments],
            env={**os.environ, "CHROMIUM": program},
        )
        yield browser
        await browser.close()
