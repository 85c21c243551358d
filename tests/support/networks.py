"""Customers in a real browser, behind proxies of their networks, before one server: for tests and a bench."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from playwright.async_api import Browser, BrowserContext, Page
from starlette.responses import HTMLResponse
from starlette.routing import Route

from paidup.app import create_app
from tests.support.contracts import checked_session
from tests.support.hostile_proxies import (
    Buffers,
    CutsIdle,
    HostileProxy,
    NoUpgrades,
    Seen,
    StripsSubprotocol,
)
from tests.support.paidup import WEBHOOK_SECRET, Paidup, serving, settings
from tests.support.processes import free_port
from tests.support.stripe_sandbox import StripeSide

IDLE_LIMIT_S = 4.0
"""In place of 20 s, and HEARTBEAT_S is shortened from 15 s in proportion."""
HEARTBEAT_S = IDLE_LIMIT_S * 15 / 20
PAGE = "/page-of-the-tests"
SLOWER = 5
"""By how much longer the client waits for anything than it would: the machine may be busy."""
WATCH = """async ([invoice, ticket, token, slower]) => {
  const { activate } = await import("/sdk/latest/paidup.js");
  const seams = { setTimeout: (run, ms) => setTimeout(run, ms * slower) };
  window.activation = activate({ invoice, ticket, headers: { Authorization: `Bearer ${token}` }, seams });
  activation.finished.then(() => (window.toldAt = Date.now()));
}"""
AWAITED = "activation.stage === 'awaiting_payment' ? activation.transport : null"
TOLD = "activation.finished.then(({ status }) => [status, activation.transport, toldAt])"


async def _page(_: Any) -> HTMLResponse:
    return HTMLResponse(
        '<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>Shop</title></html>'
    )


@dataclass
class Networks:
    """The server, its proxies by name (`direct` is none), and Stripe's side."""

    paidup: Paidup
    stripe_side: StripeSide
    proxies: dict[str, HostileProxy]
    _customers: int = 0

    @asynccontextmanager
    async def shopper(self, browser: Browser, network: str) -> AsyncIterator[NetworkShopper]:
        """Somebody whose browser is in this network, whose proxy begins to count."""
        proxy = self.proxies[network]
        proxy.seen = Seen()
        async with await browser.new_context() as context:
            yield NetworkShopper(self, context, proxy)

    async def purchase(self) -> tuple[Any, str]:
        """A new customer's purchase, and their token."""
        self._customers += 1
        customer = self.paidup.customer(f"networked-{self._customers}")
        return await customer.buy(), customer.token()


@dataclass
class NetworkShopper:
    networks: Networks
    context: BrowserContext
    proxy: HostileProxy

    @asynccontextmanager
    async def waiting(self, slower: float = SLOWER) -> AsyncIterator[Waiting]:
        """A page that waits for a payment and has been told that it is awaited."""
        purchase, token = await self.networks.purchase()
        page = await self.context.new_page()
        await page.goto(self.proxy.url + PAGE)
        await page.evaluate(WATCH, [purchase["invoice"], purchase["ticket"], token, slower])
        transport = await (await page.wait_for_function(AWAITED, timeout=120_000)).json_value()
        yield Waiting(page, purchase["client_secret"], str(transport), self.networks.stripe_side)
        await page.close()


@dataclass
class Waiting:
    """`transport`: what the page has been told by."""

    page: Page
    client_secret: str
    transport: str
    _stripe_side: StripeSide

    async def pay(self) -> tuple[str, str, float]:
        """Pay, and wait until the page knows: the status, by which transport, and when (Unix, ms)."""
        await self._stripe_side.confirm(self.client_secret)
        async with asyncio.timeout(120):
            status, transport, at = await self.page.evaluate(TOLD)
        return status, transport, at


@asynccontextmanager
async def running_networks(
    sandbox: str, valkey: str, database_url: str, folder: Path
) -> AsyncIterator[Networks]:
    """One server behind all kinds of proxies. The sandbox is emptied first."""
    async with AsyncExitStack() as stack:
        # One connection for each call: a kept-alive one may be closing.
        calls = aiohttp.TCPConnector(force_close=True)
        http = await stack.enter_async_context(checked_session(connector=calls))
        stripe_side = StripeSide(sandbox, http)
        await stripe_side.control("reset")
        await stripe_side.create_prices()
        port = free_port()
        target = ("127.0.0.1", port)
        proxies: dict[str, HostileProxy] = {
            "direct": HostileProxy(*target),
            "403": NoUpgrades(*target, "403"),
            "426": NoUpgrades(*target, "426"),
            "reset": NoUpgrades(*target, "reset"),
            "200": NoUpgrades(*target, "200"),
            "strips the subprotocol": StripsSubprotocol(*target),
            "buffers 4 KiB": Buffers(*target),
            "buffers to the end": Buffers(*target, blocks=False),
            "cuts idle": CutsIdle(*target, IDLE_LIMIT_S),
        }
        for proxy in proxies.values():
            await stack.enter_async_context(proxy.laid())
        configured = settings(
            redis_url=valkey,
            database_url=database_url,
            stripe_api_base=sandbox,
            data_dir=folder,
            port=port,
            heartbeat_s=HEARTBEAT_S,
            allowed_origins=",".join(proxy.url for proxy in proxies.values()),
        )
        app = create_app(configured, extra_routes=[Route(PAGE, _page)])
        paidup = await stack.enter_async_context(serving(configured, http, port, app=app))
        url = f"{paidup.url}/webhooks/stripe"
        await stripe_side.control("webhook_endpoints", {"url": url, "secret": WEBHOOK_SECRET})
        yield Networks(paidup, stripe_side, proxies)
