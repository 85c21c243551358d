"""The return page in a real Chromium: from Stripe's page to the credits, whatever the browser has left."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import pytest_asyncio
from msgspec.structs import force_setattr
from playwright.async_api import Browser, BrowserContext, Page, expect
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from paidup.app import create_app
from paidup.db.models import Account, CheckoutSession, LedgerEntry
from tests.browser.looks import (
    FULL_STOP_IS_LAST,
    NOTE_SHIFTS,
    expect_at_rest,
    expect_no_violations,
    expect_to_fit,
)
from tests.conftest import World
from tests.support.checkout_shop import CheckoutShop
from tests.support.contracts import checked_session
from tests.support.paidup import ORIGIN, Paidup, serving, settings
from tests.support.processes import free_port
from tests.support.stripe_sandbox import StripeSide

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("return-page")]

SHOP = ORIGIN
START = f"{SHOP}/start?welcome=1"
ACTIVE, UNPAID = "Your plan is active", "Not paid yet"


class Place:
    """One server that no webhook reaches, one sandbox, and what a customer does between them."""

    def __init__(self, paidup: Paidup, shop: CheckoutShop, browser: Browser, product: dict[str, str]) -> None:
        self.paidup = paidup
        self.shop = shop
        self.browser = browser
        self._product = product

    def product_page(self, html: str) -> str:
        """The address of a page of the product's; served, since Chromium lets no other reach this machine."""
        script = '<script type="module" src="/sdk/latest/element/activation.js"></script>'
        self._product["html"] = f"<!doctype html>{script}<body>{html}</body>"
        return f"{self.paidup.url}/product"

    def address(self, session: str) -> str:
        return f"{self.paidup.url}/activate?session_id={session}"

    async def open_session(self, known: bool = True, **form: Any) -> str:
        """A session of ada's that leads to our page; `known`: the server has heard of it."""
        back = self.address("{CHECKOUT_SESSION_ID}").replace("%7B", "{").replace("%7D", "}")
        session = await self.shop.open(client_reference_id="ada", success_url=back, **form)
        if known:
            await self.paidup.services.checkouts.verify(session)
            await CheckoutSession.filter(id=session).update(return_to=START)
        return session

    @asynccontextmanager
    async def profile(self, **options: Any) -> AsyncIterator[BrowserContext]:
        """A fresh browser: no cookie, no storage. The product's pages are imitated; ours are not."""
        context = await self.browser.new_context(**{"reduced_motion": "reduce", **options})
        await context.route(
            f"{SHOP}/**", lambda route: route.fulfill(body="<h1>Shop</h1>", content_type="text/html")
        )
        yield context
        await context.close()

    @asynccontextmanager
    async def returning(self, session: str, **options: Any) -> AsyncIterator[Page]:
        """A page of a fresh browser at the session's return address. No error may be logged."""
        async with self.profile(**options) as context:
            page = await context.new_page()
            troubles: list[str] = []
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on(
                "console", lambda message: troubles.append(message.text) if message.type == "error" else None
            )
            await page.goto(self.address(session))
            yield page
            assert troubles == []


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def place(
    browser: Browser, valkey: str, sandbox_url: str, sqlite_template: Path
) -> AsyncIterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="pu-"))
    shutil.copy(sqlite_template, folder / "paidup.db")
    async with AsyncExitStack() as stack, checked_session() as http:
        side = StripeSide(sandbox_url, http)
        await side.begin()
        world = World(stack, valkey, f"sqlite://{folder / 'paidup.db'}", side, http, folder)
        product: dict[str, str] = {}

        async def product_page(_: Request) -> Response:
            return HTMLResponse(product["html"])

        port = free_port()
        configured = settings(**world.given(port=port))
        app = create_app(configured, extra_routes=[Route("/product", product_page)])
        paidup = await stack.enter_async_context(serving(configured, http, port, app=app))
        await Account.create(external_id="ada")
        yield Place(paidup, CheckoutShop(side), browser, product)
    shutil.rmtree(folder, ignore_errors=True)


def heading(page: Page) -> Any:
    return page.locator("h1")


async def grants(session: str) -> int:
    """How often the session was credited."""
    row = await CheckoutSession.get(id=session)
    return await LedgerEntry.filter(kind="grant", grant__invoice_id=row.invoice or "").count()


async def pay_on_stripes_page(page: Page) -> None:
    """Type a card that the bank accepts, and pay; Stripe then redirects."""
    for field, value in (("number", "4242424242424242"), ("expiry", "12 / 34"), ("cvc", "123")):
        await page.locator(f"#{field}").fill(value)
    if await page.locator("#email").is_editable():
        await page.locator("#email").fill("ada@example.com")
    await page.locator("#pay").click()


async def ask_again(page: Page) -> None:
    """Press "Check again", unless the page has changed by itself already."""
    await page.evaluate("document.getElementById('again').click()")


async def test_from_stripes_page_to_the_credits_and_on(place: Place) -> None:
    """S38: active on the first paint although no webhook ever comes; then the customer is taken on, once."""
    session = await place.open_session()
    made = await place.shop.stripe.api("GET", f"checkout/sessions/{session}")
    async with place.profile() as context:
        page = await context.new_page()
        first: list[str] = []
        page.on("response", lambda answer: first.append(answer.url) if "/activate?" in answer.url else None)
        await page.goto(made["url"])
        await pay_on_stripes_page(page)
        await page.wait_for_url("**/activate?*")
        assert ACTIVE in await page.content()
        await expect(heading(page)).to_have_text(ACTIVE)
        await expect(page.get_by_role("link", name="Continue")).to_have_attribute("href", START)
        await page.wait_for_url(START)
        assert len(first) == 1
        await page.go_back()
        assert "/activate" not in page.url, "back leads past the page that was replaced"
    assert await grants(session) == 1


async def test_an_open_page_is_told_by_its_socket(place: Place) -> None:
    """S07, S38: two pages, of two browsers without a cookie, are both told while they are open."""
    session = await place.open_session()
    async with place.returning(session) as one, place.returning(session) as other:
        for page in (one, other):
            await expect(heading(page)).to_have_text(UNPAID)
        await place.shop.pay(session)
        await ask_again(one)
        await asyncio.gather(*(expect(heading(page)).to_have_text(ACTIVE) for page in (one, other)))
        await asyncio.gather(*(page.wait_for_url(START) for page in (one, other)))
    assert await grants(session) == 1


async def test_the_page_opens_its_socket_although_its_own_origin_is_not_listed(place: Place) -> None:
    """S38: Paidup's address is not among ALLOWED_ORIGINS, and the page need not poll."""
    session = await place.open_session()
    async with place.profile() as context:
        page = await context.new_page()
        async with page.expect_websocket() as opened:
            await page.goto(place.address(session))
        socket = await opened.value
        assert socket.url.endswith(f"/ws/checkout/{session}")
        if not socket.is_closed():
            await socket.wait_for_event("framereceived", lambda frame: "awaiting_payment" in frame)
        await expect(heading(page)).to_have_text(UNPAID)


async def test_without_javascript_the_page_refreshes_itself_to_the_end(place: Place) -> None:
    """S38: each state by the server's HTML alone, and the redirect by a refresh."""
    session = await place.open_session()
    async with place.returning(session, java_script_enabled=False) as page:
        await expect(heading(page)).to_have_text(UNPAID)
        await place.shop.pay(session)
        await expect(heading(page)).to_have_text(ACTIVE)
        await page.wait_for_url(START)
    assert await grants(session) == 1


async def test_with_javascript_nothing_is_reloaded(place: Place) -> None:
    """The refresh is for pages without a script: with one, the page is loaded once and changes."""
    session = await place.open_session()
    async with place.returning(session) as page:
        await page.evaluate("window.same = true")
        await place.shop.pay(session)
        await ask_again(page)
        await expect(heading(page)).to_have_text(ACTIVE)
        assert await page.evaluate("window.same")


async def test_the_tab_is_told_when_the_popup_was_closed(place: Place) -> None:
    """S47: Stripe's page was a popup that is gone; the page that opened it has the element, and is told."""
    session = await place.open_session(known=False)
    async with place.profile() as context:
        page = await context.new_page()
        await page.goto(place.product_page(f'<paidup-activation checkout="{session}"></paidup-activation>'))
        popup = await context.new_page()
        await popup.goto((await place.shop.stripe.api("GET", f"checkout/sessions/{session}"))["url"])
        await place.shop.pay(session)
        await popup.close()
        shown = page.locator("paidup-activation .block[data-current] .heading")
        await page.locator("paidup-activation").evaluate("element => element.verify()")
        await expect(shown).to_have_text(ACTIVE)
    assert await grants(session) == 1


async def test_a_session_of_another_account_or_of_none_opens_nothing(place: Place) -> None:
    """S49: an unknown id is said to be unknown, and leads nowhere."""
    async with place.profile() as context:
        page = await context.new_page()
        for made_up in ("cs_test_another1stripe1account", "cs_live_another", "'><script>", ""):
            answer = await page.goto(place.address(made_up))
            assert answer is not None
            assert answer.status == 404
            await expect(heading(page)).to_have_text("We don’t know this payment")
            await expect(page.get_by_role("link")).to_have_count(0)


LOOKS = [
    {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    for width, scheme in ((1280, "light"), (390, "dark"), (320, "light"))
]


@pytest.mark.parametrize("looks", LOOKS, ids=lambda looks: f"{looks['viewport']['width']}")
async def test_the_page_is_accessible_and_does_not_shift(place: Place, looks: dict[str, Any]) -> None:
    """axe-core finds nothing, nothing is too wide, and the script changes nothing that is written already."""
    unpaid, paid, expired = [await place.open_session() for _ in range(3)]
    await place.shop.pay(paid)
    await place.shop.stripe.api("POST", f"checkout/sessions/{expired}/expire")
    async with place.profile(**looks) as context:
        # The page of a plan that is active would go on while it is looked at: 204 lets it stay.
        await context.route(f"{SHOP}/**", lambda route: route.fulfill(status=204))
        for session, state in (
            (unpaid, "awaiting_payment"),
            (paid, "active"),
            (expired, "void"),
            ("cs_test_no", "unknown"),
        ):
            page = await context.new_page()
            await page.add_init_script(NOTE_SHIFTS)
            await _open_decided(page, place.address(session), state)
            await expect_no_violations(page)
            await expect_to_fit(page, looks["viewport"]["width"])
            await expect_at_rest(page)
            if state == "awaiting_payment":  # in a language that is read from the right, and has no words
                await page.evaluate("document.documentElement.dir = 'rtl'")
                assert await page.locator(".words p").evaluate(FULL_STOP_IS_LAST)
            await page.close()


async def _open_decided(page: Page, address: str, state: str) -> None:
    """Open it as it is where Stripe answers in time; on a slow machine its first paint may say less."""
    await page.goto(urljoin(address, "/healthz"))  # as from Stripe's page: there is a way back
    async with asyncio.timeout(120):
        while True:
            answer = await page.goto(address, wait_until="networkidle")
            assert answer is not None
            if f'data-state="{state}"' in await answer.text():
                break
    await expect(page.locator("main")).to_have_attribute("data-state", state)


async def test_the_screen_reader_hears_the_change_once(place: Place) -> None:
    """The words are a live region that is only written where they change."""
    session = await place.open_session()
    async with place.returning(session) as page:
        await expect(heading(page)).to_have_text(UNPAID)
        await page.evaluate("""() => {
            window.written = [];
            const note = (found) => written.push(...found.map(({ target }) => target.nodeName));
            const region = document.querySelector('[role=status]');
            const changes = { childList: true, subtree: true, characterData: true };
            new MutationObserver(note).observe(region, changes);
        }""")
        await place.shop.pay(session)
        await ask_again(page)
        await expect(heading(page)).to_have_text(ACTIVE)
        assert sorted(set(await page.evaluate("written"))) == ["H1", "P"]


async def test_a_first_tab_is_told_that_the_second_has_paid(place: Place) -> None:
    """S43: its own purchase was given up for the second tab's; it ends with the plan that is active."""
    eve = place.paidup.customer("eve")
    given_up = await eve.buy("basic")
    address = place.product_page(
        f'<paidup-activation invoice="{given_up["invoice"]}" ticket="{given_up["ticket"]}">'
        "</paidup-activation>"
        "<script>document.querySelector('paidup-activation').headers = "
        f"{{ Authorization: 'Bearer {eve.token()}' }};</script>"
    )
    configured = place.paidup.services.settings
    force_setattr(configured, "allowed_origins", place.paidup.url)
    async with place.profile() as context:
        page = await context.new_page()
        await page.goto(address)
        shown = page.locator("paidup-activation .block[data-current] .heading")
        await expect(shown).to_have_text(UNPAID)
        second = await eve.buy("pro")  # in another tab
        await expect(shown).to_have_text("This payment was canceled")
        await place.shop.stripe.confirm(second["client_secret"])
        await place.paidup.services.verification.verify(second["invoice"])
        await expect(shown).to_have_text(ACTIVE)
        text = page.locator("paidup-activation .block[data-current] .text")
        await expect(text).to_have_text("2,000 credits are in your account, ready to use.")
    force_setattr(configured, "allowed_origins", ORIGIN)


async def test_a_payment_that_names_nobody_is_claimed_while_its_page_is_open(place: Place) -> None:
    """S41, S42: it says "paid, not assigned"; they sign up in another tab, and the page is active."""
    session = await place.shop.open()
    await place.shop.pay(session)
    async with place.returning(session) as page:
        await expect(page.locator("main")).to_contain_text("could not be assigned to an account yet")
        link = f"/api/checkout/{session}/claim-link"
        _, made = await place.paidup.customer("backend").call("POST", link, scope="backend")
        zoe = place.paidup.customer("zoe")
        status, claimed = await zoe.call("POST", "/api/claims", {"claim": made["claim"]})
        assert (status, claimed["status"]) == (200, "active")
        await expect(heading(page)).to_have_text(ACTIVE)
    assert await zoe.balance() == 2000
