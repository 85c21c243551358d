"""What any page must be, whoever looks at it: wide enough for a phone, readable by a machine, at rest.

Owns how that is found out in a real Chromium: axe-core for what can be judged by rule, the boxes of all that
is visible, and the browser's own record of what moved about.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Locator, Page

from tests.support.node import MODULES

AXE = MODULES / "axe-core" / "axe.min.js"
RUN_AXE = """
  async (within) => {
    const { violations } = await axe.run(within, { resultTypes: ["violations"] });
    return violations.map(({ id, help, nodes }) =>
      `${id}: ${help}: ` + nodes.map(({ target }) => target.join(" ")).join(", "));
  }
"""
TOO_WIDE = """
  [...document.querySelectorAll("body *")]
    .filter((node) => node.checkVisibility() && !node.closest(".burst")
      && node.getBoundingClientRect().right > innerWidth + 0.5)
    .map((node) => node.outerHTML.slice(0, 80))
"""
NOTE_SHIFTS = """
  window.shifts = [];
  new PerformanceObserver((list) => {
    for (const { value, hadRecentInput, sources } of list.getEntries())
      if (!hadRecentInput)
        window.shifts.push([value, sources.map(({ node }) => node?.id || node?.className)]);
  }).observe({ type: "layout-shift", buffered: true });
"""
"""An init script. What moves within half a second of a click or a key answers it, and does not count."""


async def expect_no_violations(page: Page, within: str = "body") -> None:
    """axe-core finds nothing: names, roles, contrast, headings, landmarks, focus."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: `make test` does it")
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    assert await page.evaluate(RUN_AXE, within) == []


async def expect_to_fit(page: Page, width: int) -> None:
    """Nothing scrolls sideways."""
    assert await page.evaluate(TOO_WIDE) == []
    assert await page.evaluate("document.documentElement.scrollWidth") == width


async def expect_at_rest(page: Page, at_most: float = 0.02) -> None:
    """Since the page was opened nothing has moved about by itself that a reader would notice."""
    shifts: list[Any] = await page.evaluate("window.shifts")
    assert sum(value for value, _ in shifts) < at_most, shifts


async def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until `wanted` has the focus, as one does without a mouse."""
    for _ in range(25):
        if await wanted.evaluate("node => node === node.getRootNode().activeElement"):
            return
        await page.keyboard.press("Tab")
    raise AssertionError(f"Tab never came to {wanted}")


def luminance(colour: str) -> int:
    """Of `rgb(1, 2, 3)`; only good for comparing."""
    return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(", "))


def screen(width: int, scheme: str, zoom: int = 1) -> Any:
    """A window of `width` CSS pixels, as a test's parameter; zoomed in, a laptop has few of them as well."""
    looks = {
        "viewport": {"width": width, "height": 844 // zoom},
        "color_scheme": scheme,
        "device_scale_factor": zoom,
    }
    return pytest.param(looks, width, scheme, id=f"{width}-{scheme}")
