"""A page with `<paidup-activation>` under a strict policy; the test itself answers all its requests.

There is no server and no port: requests and WebSockets are intercepted in the browser.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, ConsoleMessage, Error, Locator, Page, Route, WebSocketRoute, expect

from tests.browser.clean_contexts import USUAL_LOOKS, clean_context
from tests.support.waiting import wait_until

CLIENT = Path(__file__).parents[2] / "client_demo" / "paidup_demo" / "sdk"
ORIGIN = "http://paidup.test"
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self' ws://paidup.test; base-uri 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE = """<!doctype html><html lang="en"><head><title>Activating</title>
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<script type="module" src="/element/activation.js"></script></head>
<body><main><h1>Halftone</h1>%s</main></body></html>"""
PLAIN = '<paidup-activation invoice="in_1" ticket="first"></paidup-activation>'

DECLINED = {"code": "card_declined", "message": "Your card was declined.", "decline_code": None}
REFUSED = "the server responded with a status of"  # what Chromium logs of a ticket that the test refuses


@dataclass
class Screen:
    """One page with the element.

    `sockets`: what the page opened, newest last; `said`: what it said on them; `closed`: how many of them it
    has left; `asked`: its requests; `refusal`: the HTTP status that it gets instead of tickets.
    """

    page: Page
    body: str = PLAIN
    sockets: list[WebSocketRoute] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    closed: int = 0
    asked: list[str] = field(default_factory=list)
    refusal: int | None = None
    troubles: list[str] = field(default_factory=list)
    version: int = 0

    @property
    def element(self) -> Locator:
        return self.page.locator("paidup-activation").first

    @property
    def heading(self) -> Locator:
        """The one that is shown."""
        return self.element.locator(".block[data-current] .heading")

    @property
    def text(self) -> Locator:
        return self.element.locator(".block[data-current] .text")

    async def open(self, body: str = PLAIN) -> None:
        """Go to a page with `body` on it; its element is defined when this returns."""
        self.body = body
        await self.page.goto(ORIGIN)
        await self.page.evaluate("customElements.whenDefined('paidup-activation').then(() => {})")

    async def say(self, status: str, stage: str | None = None, **more: Any) -> None:
        """The server tells of the invoice, on the newest socket; returns once the element has heard."""
        await self.until_sockets(max(1, len(self.sockets)))
        self.version += 1
        frame = {
            "type": "status", "invoice": "in_1", "version": self.version, "status": status,
            "stage": stage or status, "plan": "pro", "credits_granted": 0, "balance": 0, "via": None,
            "at": "2026-11-23T09:00:00.000Z", "error": None, **more,
        }  # fmt: skip
        self.sockets[-1].send(json.dumps(frame))
        await self.page.wait_for_function(
            f"document.querySelector('paidup-activation').status?.version === {self.version}"
        )

    async def until_sockets(self, count: int) -> None:
        await wait_until(lambda: len(self.sockets) >= count)

    async def call(self, script: str) -> Any:
        """Run an expression that knows the element as `it`."""
        return await self.element.evaluate(f"it => {script}")

    async def show(self, state: str) -> None:
        """Bring the element into any of its states."""
        if state == "refused":
            self.refusal = 410
            await self.call("{ it.removeAttribute('ticket'); it.setAttribute('invoice', 'in_9'); }")
        elif state == "waiting":
            await self.say("open", "waiting")
        elif state == "verifying":
            await self.say("open", "verifying")
        elif state in ("awaiting_payment", "delayed", "provisioning"):
            await self.say("open", state)
        elif state == "action_required":
            await self.say("requires_action", "action_required")
        elif state == "failed":
            await self.say("failed", error=DECLINED)
        elif state == "reversed":
            await self.say("reversed", "void")
        elif state == "active":
            await self.call("it.confirmed('succeeded')")
            await self.say("active", credits_granted=2000, balance=2040, via="verification")
        else:
            await self.say(state)
        await expect(self.element.locator(f".screen[data-state={state}]")).to_be_visible()

    # The server

    def accept(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        socket.on_message(lambda message: self.said.append(str(message)))
        socket.on_close(self.note_closed)

    def note_closed(self, _code: int | None, _reason: str | None) -> None:
        self.closed += 1

    async def answer(self, route: Route) -> None:
        path = route.request.url.removeprefix(ORIGIN).partition("?")[0]
        if path == "/":
            headers = {"Content-Security-Policy": POLICY}
            await route.fulfill(body=PAGE % self.body, content_type="text/html", headers=headers)
        elif path.startswith("/api/"):
            self.asked.append(f"{route.request.method} {path}")
            fresh = {"ticket": f"fresh-{len(self.asked)}"}
            await route.fulfill(status=self.refusal or 200, json={} if self.refusal else fresh)
        else:
            await route.fulfill(path=CLIENT / path.lstrip("/"))

    def note_thrown(self, error: Error) -> None:
        self.troubles.append(f"thrown: {error}")

    def note_logged(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and REFUSED not in message.text:
            self.troubles.append(f"logged: {message.text}")


@asynccontextmanager
async def showing(browser: Browser, **looks: Any) -> AsyncIterator[Screen]:
    """A page for elements; `looks` are options of a browser context. No motion unless they say so."""
    async with clean_context(browser, [ORIGIN], {**USUAL_LOOKS, **looks}) as context:
        page = await context.new_page()
        screen = Screen(page)
        page.on("pageerror", screen.note_thrown)
        page.on("console", screen.note_logged)
        await page.route(f"{ORIGIN}/**", screen.answer)
        await page.route_web_socket("ws://paidup.test/**", screen.accept)
        yield screen
