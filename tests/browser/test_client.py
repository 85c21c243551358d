"""paidup.js in a real Chromium, with nothing of it replaced: the browser's own sockets, requests and events.

What it promises besides is held by tests/node, where neither a browser nor real time is needed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.elements import Screen, showing
from tests.browser.story import Demo
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("element")]

ACTIVE = {"type": "status", "invoice": "in_1", "version": 2, "status": "active", "stage": "active"}


@pytest_asyncio.fixture(loop_scope="session")
async def screen(browser: Browser) -> AsyncIterator[Screen]:
    """An empty page of the test's own server."""
    async with showing(browser) as screen:
        await screen.open("")
        yield screen
    assert screen.troubles == []


async def run(screen: Screen, script: str) -> Any:
    """Run the body of an asynchronous function that knows what paidup.js exports as `paidup`."""
    return await screen.page.evaluate(
        f"async () => {{ const paidup = await import('/paidup.js'); {script} }}"
    )


async def test_the_pages_own_network_is_the_default(screen: Screen) -> None:
    """No ticket, so it is fetched; then the socket at the page's own address, and its last word ends it."""
    await run(screen, "window.activation = paidup.activate({ invoice: 'in_1' });")
    await screen.until_sockets(1)
    assert screen.asked == ["POST /api/invoices/in_1/ticket"]
    assert screen.sockets[0].url == "ws://paidup.test/ws/invoices/in_1"
    screen.sockets[0].send(json.dumps(ACTIVE))
    ended = "activation.finished.then(({ status }) => [status, activation.connection])"
    assert await screen.page.evaluate(ended) == ["active", "closed"]
    await wait_until(lambda: screen.closed == 1)


async def test_a_refused_ticket_ends_it(screen: Screen) -> None:
    """S28: with an error that says why."""
    screen.refusal = 404
    script = "return paidup.activate({ invoice: 'in_1' }).finished.catch(({ code }) => code);"
    assert await run(screen, script) == "unknown_invoice"


async def test_a_page_back_online_does_not_trust_its_socket(screen: Screen) -> None:
    """S31: the browser's own events wake it: another connection, with a ticket of its own."""
    await run(screen, "window.watch = paidup.watchBalance();")
    await screen.until_sockets(1)
    await screen.page.wait_for_function("watch.connection === 'open'")
    await screen.page.context.set_offline(True)
    await screen.page.context.set_offline(False)
    await screen.until_sockets(2)
    assert screen.asked == ["POST /api/account/ticket"] * 2


LOAD = """([src, integrity]) => new Promise((resolve) => {
  const script = document.createElement("script");
  Object.assign(script, { type: "module", crossOrigin: "", src, integrity });
  script.onload = () => resolve("loaded");
  script.onerror = () => resolve("refused");
  document.head.append(script);
})"""


@pytest.mark.xdist_group("everybody")  # the demo's server
@pytest.mark.parametrize("intact", [True, False])
async def test_a_page_of_another_origin_loads_it_if_the_hash_is_right(
    browser: Browser, demo: Demo, intact: bool
) -> None:
    """From the server itself, as /sdk.json says. https://www.w3.org/TR/sri-2/: any other hash is refused."""
    async with aiohttp.ClientSession() as http, http.get(f"{demo.url}/sdk.json") as answer:
        file = (await answer.json())["files"]["paidup.js"]
    integrity = file["integrity"] if intact else f"sha384-{'A' * 64}"
    async with await browser.new_context() as context:
        page = await context.new_page()
        await page.goto(demo.url.replace("127.0.0.1", "localhost") + "/healthz")  # another origin
        came = await page.evaluate(LOAD, [demo.url + file["path"], integrity])
    assert came == ("loaded" if intact else "refused")
