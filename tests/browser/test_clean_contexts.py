"""A browser context that is used again has nothing of the test before."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, BrowserContext, Page

from tests.browser.clean_contexts import USUAL_LOOKS, clean_context
from tests.browser.elements import ORIGIN

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("element")]

OTHER = "http://other.test"
STORE = """
  document.cookie = "name=ada";
  localStorage.setItem("name", "ada");
  sessionStorage.setItem("name", "ada");
  new Promise((done) => indexedDB.open("ada").onsuccess = done).then(() => null);
"""
STORED = """
  async () => [document.cookie, localStorage.length, sessionStorage.length, await indexedDB.databases()]
"""


async def visit(context: BrowserContext, origin: str) -> Page:
    page = await context.new_page()
    await page.route(f"{origin}/**", lambda route: route.fulfill(body="<p>shop", content_type="text/html"))
    await page.goto(f"{origin}/")
    return page


@pytest.mark.parametrize("origin", [ORIGIN, OTHER])
async def test_a_context_that_is_used_again_has_no_cookie_no_storage_and_no_tab(
    browser: Browser, origin: str
) -> None:
    async with clean_context(browser, [ORIGIN, OTHER], USUAL_LOOKS) as first:
        page = await visit(first, origin)
        await page.evaluate(STORE)
        assert (await page.evaluate(STORED))[:3] == ["name=ada", 1, 1]
        await first.set_offline(True)
    async with clean_context(browser, [ORIGIN, OTHER], USUAL_LOOKS) as second:
        assert second is first
        assert [tab.url for tab in second.pages] == ["about:blank"]
        page = await visit(second, origin)
        assert await page.evaluate(STORED) == ["", 0, 0, []]
        assert await page.evaluate("navigator.onLine") is True


async def test_a_context_is_lent_to_one_at_a_time_and_others_looks_get_their_own(browser: Browser) -> None:
    async with (
        clean_context(browser, [], USUAL_LOOKS) as first,
        clean_context(browser, [], USUAL_LOOKS) as second,
        clean_context(browser, [], {"viewport": {"width": 320, "height": 700}}) as narrow,
    ):
        assert len({first, second, narrow}) == 3
    assert narrow not in browser.contexts


async def test_a_context_whose_clock_was_changed_is_not_used_again(browser: Browser) -> None:
    async with clean_context(browser, [], USUAL_LOOKS) as first:
        page = await visit(first, ORIGIN)
        await page.clock.install()
    assert first not in browser.contexts
