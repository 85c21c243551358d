"""S60: networks that let no WebSocket through, with a real Chromium, real proxies and nothing replaced."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from paidup.web.websocket import endpoint
from tests.support.hostile_proxies import CHECKS_PER_LIMIT, CutsIdle
from tests.support.networks import Networks, running_networks
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("element")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def networks(
    sandbox_url: str, valkey: str, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Networks]:
    folder = tmp_path_factory.mktemp("networks")
    shutil.copy(sqlite_template, folder / "paidup.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint, "TICK_S", 0.1)
        async with running_networks(sandbox_url, valkey, f"sqlite://{folder}/paidup.db", folder) as networks:
            yield networks


@pytest.mark.parametrize("network", ["403", "426", "reset", "200", "strips the subprotocol", "buffers 4 KiB"])
async def test_a_customer_without_websockets_is_told_by_a_stream(
    browser: Browser, networks: Networks, network: str
) -> None:
    """S60: after one refused upgrade comes one stream, and it says "active"; nothing is polled."""
    async with networks.shopper(browser, network) as shopper:
        seen = shopper.proxy.seen
        async with shopper.waiting() as waiting:
            assert waiting.transport == "sse"
            status, transport, _ = await waiting.pay()
        assert (status, transport) == ("active", "sse")
        assert (seen.upgrades, seen.streams, seen.polls) == (1, 1, 0)


async def test_what_worked_is_remembered(browser: Browser, networks: Networks) -> None:
    """S60: the next page of the same shop begins with the stream."""
    async with networks.shopper(browser, "403") as shopper:
        async with shopper.waiting():
            pass
        async with shopper.waiting() as again:
            assert again.transport == "sse"
        assert (shopper.proxy.seen.upgrades, shopper.proxy.seen.streams) == (1, 2)


async def test_a_customer_whom_nothing_streams_to_is_told_by_a_poll(
    browser: Browser, networks: Networks
) -> None:
    """S60: a proxy that holds back everything to its end is told apart in seconds; then a GET waits."""
    async with networks.shopper(browser, "buffers to the end") as shopper, shopper.waiting(1) as waiting:
        assert waiting.transport == "long_poll"
        await wait_until(lambda: shopper.proxy.seen.polls)
        assert (await waiting.pay())[:2] == ("active", "long_poll")
        assert (shopper.proxy.seen.upgrades, shopper.proxy.seen.streams) == (1, 1)


async def test_heartbeats_keep_a_proxy_from_cutting_an_idle_socket(
    browser: Browser, networks: Networks
) -> None:
    """S60: what is idle for 20 s is cut (here 4 s, with heartbeats in proportion); a socket never is."""
    proxy = networks.proxies["cuts idle"]
    assert isinstance(proxy, CutsIdle)
    async with networks.shopper(browser, "cuts idle") as shopper, shopper.waiting() as waiting:
        assert waiting.transport == "websocket"
        with pytest.raises(aiohttp.ServerDisconnectedError):  # it does cut: here a long poll, which is silent
            await _long_poll(networks, proxy.url)
        cut = proxy.seen.cut
        await wait_until(lambda: proxy.checks > 1.5 * CHECKS_PER_LIMIT)
        assert (await waiting.pay())[:2] == ("active", "websocket")
        assert (proxy.seen.upgrades, proxy.seen.streams, proxy.seen.cut) == (1, 0, cut)


async def _long_poll(networks: Networks, url: str) -> None:
    purchase, token = await networks.purchase()
    path = f"/api/invoices/{purchase['invoice']}?wait=25&version={purchase['status']['version']}"
    async with aiohttp.ClientSession() as http:
        await http.get(url + path, headers={"Authorization": f"Bearer {token}"})
