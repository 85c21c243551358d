"""The steps of a customer in the demo, for browser tests; also starts `paidup demo`.

Every visit is checked for errors: exceptions, logged errors, Content-Security-Policy violations, and
WebSocket frames that docs/asyncapi.yaml does not describe.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Route,
    WebSocket,
    expect,
)

from tests.browser.clean_contexts import clean_context
from tests.browser.looks import NOTE_SHIFTS
from tests.support.contracts import Undocumented, check_frame
from tests.support.processes import Child, free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

VISA = "4242 4242 4242 4242"
VISA_WITH_3DS = "4000 0027 6000 3184"
DECLINED = "4000 0000 0000 0002"

SAVED = {VISA: "pm_card_visa", VISA_WITH_3DS: "pm_card_authenticationRequired"}
"""The same cards by the ids of Stripe's test payment methods."""
FAILS_LATER = "pm_card_chargeCustomerFail"
"""Stripe's test card that can be saved, and is declined whenever it is charged."""

EXPECTED_ERROR = "the server responded with a status of 402"  # too few credits; a card that Stripe declines
NOTE_STAGES = """
  window.stages = [];
  new MutationObserver(() => {
    const { stage } = document.getElementById("stage").dataset;
    if (stage !== window.stages.at(-1)) window.stages.push(stage);
  }).observe(document, { subtree: true, attributeFilter: ["data-stage"] });
"""


@dataclass(frozen=True)
class Demo:
    """Where a running demo is: the page, and the imitation of Stripe."""

    url: str
    sandbox: str
    log: Path


@contextmanager
def running_demo(folder: Path, **settings: str) -> Iterator[Demo]:
    """`paidup demo` in a folder of its own, on free ports."""
    port, sandbox_port = free_port(), free_port()
    environment = {"PORT": str(port), "SANDBOX_PORT": str(sandbox_port), **settings}
    child = Child(["-m", "paidup.cli", "demo"], environment, folder / "demo.log", folder, forked=True)
    try:
        child.wait_for(f"http://127.0.0.1:{port}/readyz")
        yield Demo(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{sandbox_port}", child.log)
    finally:
        child.stop()


@asynccontextmanager
async def shopping(browser: Browser, demo: Demo, **looks: Any) -> AsyncIterator[Shopper]:
    """A new customer of `demo` under normal conditions; `looks` are options of the browser context."""
    # One connection per call: a kept-alive one may be closing by the end of the test.
    calls = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10), connector=calls) as http:
        stripe_side = StripeSide(demo.sandbox, http)
        await stripe_side.control("conditions/reset")
        # Otherwise a clock moved by a year would renew the plans of all earlier customers, too.
        for left in (await stripe_side.api("GET", "subscriptions?limit=100"))["data"]:
            if not left["status"].startswith("incomplete"):
                await stripe_side.api("DELETE", f"subscriptions/{left['id']}")
        origins = (demo.url, demo.sandbox)
        async with clean_context(browser, origins, looks, NOTE_STAGES + NOTE_SHIFTS) as context:
            shopper = Shopper(demo, context, stripe_side)
            await shopper.new_tab()
            yield shopper
        await stripe_side.control("conditions/reset")


async def pay_on_stripes_page(page: Page, card: str = "succeeds", embedded: bool = False) -> None:
    """On the sandbox's page of a Checkout Session, or in its frame: press a test card, and pay."""
    shown = page.frame_locator("iframe[title='Checkout']") if embedded else page.main_frame
    await shown.get_by_role("button", name=f"Test card: {card}").click()
    await shown.get_by_label("Email").fill("ada@example.com")
    await shown.locator("#pay").click()


@dataclass
class Shopper:
    """A customer in their own browser context. Steps are taken in `page`, the newest tab."""

    demo: Demo
    context: BrowserContext
    stripe_side: StripeSide
    troubles: list[str] = field(default_factory=list)
    page: Page = field(init=False)

    # Tabs

    async def new_tab(self) -> Page:
        """An empty tab, in which the next steps are taken."""
        self.page = await self.context.new_page()
        self.page.on("pageerror", self._note_thrown)
        self.page.on("console", self._note_logged)
        self.page.on("websocket", self._listen)
        return self.page

    async def arrive(self, balance: str = "0") -> None:
        """Open the demo; it has loaded once it shows the balance."""
        await self.page.goto(self.demo.url)
        await expect(self.balance).to_have_text(balance)

    # Steps

    async def ask_for_poster(self) -> None:
        await self.page.get_by_test_id("make-poster").click()

    async def choose(self, plan: str = "pro") -> None:
        await self.page.get_by_test_id(f"plan-{plan}").click()
        await expect(self.page.get_by_test_id("card-form")).to_be_visible()

    async def reach_card_form(self) -> None:
        """Go to the card form: ask for a poster without credits and choose a plan."""
        await self.arrive()
        await self.ask_for_poster()
        await self.choose()

    async def pay(self, card: str = VISA) -> None:
        await self.page.get_by_label("Card number").fill(card)
        await self.page.get_by_label("Expiration date").fill("12 / 40")
        await self.page.get_by_label("Security code").fill("123")
        await self.page.get_by_test_id("pay").click()

    async def answer_bank(self, passed: bool = True) -> None:
        name = "authorize" if passed else "fail"
        await self.bank.locator(f"#test-source-{name}-3ds").click()

    # The account

    async def open_account(self) -> None:
        """Use the link in the header, and wait until the page is loaded."""
        await self.page.get_by_test_id("to-account").click()
        await expect(self.account).to_be_visible()

    async def subscribe(self, plan: str = "basic", card: str = VISA, yearly: bool = False) -> None:
        """Buy a plan through the API and open the account page."""
        await self.context.request.post(f"{self.demo.url}/demo/customer")
        order = {"plan": plan, "interval": "year" if yearly else "month"}
        secret = (await self.api("POST", "/api/subscriptions", order))["client_secret"]
        await self.stripe_side.confirm(secret, SAVED[card])
        if card == VISA_WITH_3DS:
            await self.stripe_side.authenticate(secret)
        await wait_until(self._is_active, within=40)  # by the webhook; else by the reconciler
        await self.page.goto(f"{self.demo.url}/#account")
        await expect(self.page.get_by_test_id("plan-text")).to_contain_text("Renews on")

    async def _is_active(self) -> bool:
        credits = await self.api("GET", "/api/credits")
        return credits["activating"] is None and credits["balance"] > 0

    async def see_account(self) -> None:
        """From the success screen to the account page."""
        await self.page.get_by_role("button", name="See your account").click()
        await expect(self.account).to_be_visible()

    async def change_to(self, plan: str) -> None:
        """Press the offer and confirm."""
        await self.page.get_by_test_id(f"offer-{plan}").click()
        await self.page.get_by_test_id("confirm").locator(".primary").click()

    async def move_clock(self, step: str) -> None:
        """`step` is "1 day", "1 month" or "1 year"."""
        await self.page.get_by_role("button", name=f"Move the clock forward by {step}").click()
        await expect(self.page.locator("#clock-note")).to_contain_text(f"{step} later")

    # What the page shows

    @property
    def account(self) -> Locator:
        """The account page, read."""
        return self.page.locator("#view-account[data-read]")

    @property
    def rows(self) -> Locator:
        """The entries of the ledger, newest first."""
        return self.page.get_by_test_id("ledger").locator("[data-entry]")

    @property
    def balance(self) -> Locator:
        return self.page.get_by_test_id("balance")

    @property
    def stage(self) -> Locator:
        return self.page.get_by_test_id("stage")

    @property
    def heading(self) -> Locator:
        """The title of the one view that is shown."""
        return self.page.locator("h1:visible")

    @property
    def source_name(self) -> Locator:
        return self.page.get_by_test_id("source-name")

    @property
    def posters(self) -> Locator:
        return self.page.get_by_test_id("poster")

    @property
    def bank(self) -> Any:
        """The bank's page, in its frame."""
        return self.page.frame_locator("iframe[title^='3-D Secure']")

    async def stages(self) -> list[str]:
        """Every stage that the activating screen has shown in this tab."""
        seen: list[str] = await self.page.evaluate("stages")
        return seen

    async def keep_stripe_js_waiting(self, until: Locator) -> None:
        """Delay Stripe's answer to the page until `until` is visible; the card is charged immediately."""

        async def answer_late(route: Route) -> None:
            answer = await route.fetch()
            await expect(until).to_be_visible()
            await route.fulfill(response=answer)

        await self.page.route("**/v1/payment_intents/*/confirm", answer_late)

    # Server side

    async def api(self, method: str, path: str, body: Any = None) -> Any:
        """An API call with this browser's cookie, not made by the page."""
        answer = await self.context.request.fetch(self.demo.url + path, method=method, data=body)
        assert answer.ok, await answer.text()
        return await answer.json()

    async def print_posters(self, count: int, name: str = "poster") -> None:
        """Print this many posters through the API, 10 credits each."""
        for number in range(count):
            await self.api("POST", "/demo/posters", {"poster": f"{name}-{number}"})

    async def pending(self) -> Any:
        """The pending payment as the server reports it, or None."""
        return (await self.api("GET", "/api/credits"))["activating"]

    async def at_stripe(self, kind: str) -> list[Any]:
        """This customer's `subscriptions` or `payment_intents`, whatever became of them."""
        name = (await self.api("GET", "/demo/config.json"))["customer"]
        everybody = (await self.stripe_side.api("GET", "customers?limit=100"))["data"]
        own = next(customer["id"] for customer in everybody if name in customer["metadata"].values())
        status = "&status=all" if kind == "subscriptions" else ""
        found: list[Any] = (await self.stripe_side.api("GET", f"{kind}?customer={own}{status}"))["data"]
        return found

    def _note_thrown(self, error: Error) -> None:
        self.troubles.append(f"thrown: {error}")

    def _note_logged(self, message: ConsoleMessage) -> None:
        if message.type == "error" and EXPECTED_ERROR not in message.text:
            self.troubles.append(f"logged: {message.text} {message.location.get('url')}")

    def _listen(self, socket: WebSocket) -> None:
        address = urlsplit(socket.url).path
        socket.on("framereceived", lambda frame: self._note_frame(address, frame, "send"))
        socket.on("framesent", lambda frame: self._note_frame(address, frame, "receive"))

    def _note_frame(self, address: str, frame: str | bytes, action: str) -> None:
        try:
            check_frame(address, frame, action)
        except Undocumented as error:
            self.troubles.append(str(error))
