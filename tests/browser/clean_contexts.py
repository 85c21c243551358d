"""Browser contexts without cookies, storage and tabs. Tests with the usual looks use one after another.

A new context costs half a second of a core: its renderer has to start, and loads everything again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from playwright.async_api import Browser, BrowserContext

USUAL_LOOKS = {"reduced_motion": "reduce"}
"""Without motion, a test is faster."""

REAL_TIME = "[Date, setTimeout].every((each) => /native code/.test(each))"
"""False where a test installed Playwright's clock: it is the whole context's, and stays."""

_kept: WeakKeyDictionary[Browser, dict[str, BrowserContext]] = WeakKeyDictionary()
"""By the script that each runs in its pages. Its first page stays open and empty: the renderer is kept."""


@asynccontextmanager
async def clean_context(
    browser: Browser, origins: Sequence[str], looks: dict[str, Any], script: str = ""
) -> AsyncIterator[BrowserContext]:
    """`origins` are all whose pages may store something; `looks` are options of the context.

    A context that is kept loses its cookies, storage and tabs, and is online again. Its cache stays. It is
    not kept where a test changed its clock.
    """
    kept = _kept.setdefault(browser, {})
    context = kept.pop(script, None) if looks == USUAL_LOOKS else None
    if context is None:
        context = await browser.new_context(**looks)
        await context.add_init_script(script)
        await context.new_page()
    try:
        yield context
    except BaseException:
        await context.close()
        raise
    if looks == USUAL_LOOKS and await context.pages[0].evaluate(REAL_TIME):
        await _clean(context, origins)
        kept[script] = context
    else:
        await context.close()


async def _clean(context: BrowserContext, origins: Sequence[str]) -> None:
    first, *tabs = context.pages
    for tab in tabs:
        await tab.unroute_all(behavior="ignoreErrors")  # a handler may still be at work
        await tab.close()
    await context.set_offline(False)
    await context.clear_cookies()
    devtools = await context.new_cdp_session(first)
    for origin in origins:
        await devtools.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
    await devtools.detach()
