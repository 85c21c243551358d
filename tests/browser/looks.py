"""Checks for any page in Chromium: axe-core, no horizontal scrolling, no layout shifts."""

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
"""An init script. Shifts within half a second of a click or key press do not count."""


async def expect_no_violations(page: Page, within: str = "body") -> None:
    """Assert that axe-core finds no violations."""
    if not AXE.exists():
        pytest.skip("axe-core is not installed: `make test` does it")
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    assert await page.evaluate(RUN_AXE, within) == []


FULL_STOP_IS_LAST = """(node) => {
  while (node.lastChild) node = node.lastChild;
  const x = (at) => {
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    return range.getBoundingClientRect().x;
  };
  return node.data.endsWith(".") && x(node.length - 1) > x(node.length - 2);
}"""
"""Whether the full stop of an English text is at its right: not in a text that is laid out from the right."""


async def expect_to_fit(page: Page, width: int) -> None:
    """Assert that nothing scrolls horizontally."""
    assert await page.evaluate(TOO_WIDE) == []
    assert await page.evaluate("document.documentElement.scrollWidth") == width


async def expect_at_rest(page: Page, at_most: float = 0.02) -> None:
    """Assert that there was no noticeable layout shift since the page was opened."""
    shifts: list[Any] = await page.evaluate("window.shifts")
    assert sum(value for value, _ in shifts) < at_most, shifts


async def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until `wanted` has the focus."""
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
