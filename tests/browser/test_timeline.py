"""The race view: what the picture says is what happened, whatever the weather and whoever is away.

Each test is a purchase by a customer of his own in a real Chromium; the figures on the page are compared with
the invoice's timeline. A server that is replaced refuses connections for a while: no trouble of the page's.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import APIRequestContext, Locator, Route, expect

from tests.browser.looks import expect_no_violations, expect_to_fit
from tests.browser.story import Shopper
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.xdist_group("everybody")]

SERVER_AWAY = re.compile(r"ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|response code: 503")
FIRST_LOOK_MS = 200
COUNT_FRAMES = """
  window.framesAsked = 0;
  const ask = window.requestAnimationFrame;
  window.requestAnimationFrame = (draw) => (window.framesAsked++, ask.call(window, draw));
"""


class RaceView:
    """What the page shows of the race."""

    def __init__(self, shopper: Shopper) -> None:
        self.shopper = shopper

    @property
    def headline(self) -> Locator:
        return self.shopper.page.get_by_test_id("race-headline")

    @property
    def rows(self) -> Locator:
        return self.shopper.page.locator("#race-rows tr")

    def marks(self, lane: str, look: str) -> Locator:
        picture = self.shopper.page.get_by_test_id("race-picture")
        return picture.locator(f"[data-lane={lane}] [data-look={look}]")

    async def choose(self, preset: str) -> None:
        panel = self.shopper.page.get_by_test_id("conditions")
        if await panel.get_attribute("open") is None:
            await panel.locator("summary").click()
        await panel.get_by_role("button", name=preset).click()
        await expect(panel.locator("[data-summary]")).to_have_text(preset)

    async def buy(self, preset: str | None = None, **weather: Any) -> str:
        """A plan, paid under these conditions; its invoice."""
        await self.shopper.arrive()
        if preset:
            await self.choose(preset)
        await self.shopper.ask_for_poster()
        await self.shopper.choose()
        if weather:
            await self.shopper.stripe_side.conditions(**weather)
        invoice = (await self.shopper.pending())["invoice"]
        await self.shopper.pay()
        return str(invoice)

    async def timeline(self, invoice: str, what: str, **detail: str) -> list[float]:
        """When `what` happened, as the server has it: ms since 1970."""
        steps = (await self.shopper.api("GET", f"/demo/race/{invoice}"))["steps"]
        wanted = detail.items()
        return [s["at"] for s in steps if s["what"] == what and wanted <= s["detail"].items()]


@pytest.fixture
def race(shopper: Shopper) -> RaceView:
    return RaceView(shopper)


@pytest.mark.parametrize("shopper", [{"viewport": {"width": 320, "height": 700}}], indirect=True, ids=["320"])
async def test_verification_wins_and_the_late_webhook_is_drawn_when_it_comes(race: RaceView) -> None:
    """The margin in words is that of the timeline, to the last digit shown; a small phone holds it all."""
    page = race.shopper.page
    invoice = await race.buy("Webhook is a minute late", webhook_delay_ms=2500)
    await expect(race.headline).to_have_text("Verification won. The webhook is still on its way.")
    await expect(race.marks("verification", "won")).not_to_have_count(0)
    await expect(race.marks("webhook", "late")).to_have_count(0)
    await expect(race.headline).to_contain_text(" s before the webhook.")
    headline = await race.headline.inner_text()
    said = re.fullmatch(r"Verification won, ([\d.]+)\ss before the webhook\.", headline)
    assert said
    (settled,) = await race.timeline(invoice, "settled", source="verification")
    came = min(await race.timeline(invoice, "webhook_received"))
    assert float(said[1]) == pytest.approx((came - settled) / 1000, abs=0.051)
    await expect(race.marks("webhook", "late")).not_to_have_count(0)
    await expect(race.rows.filter(has_text="The bank said yes.")).to_contain_text("0 ms")
    await expect_to_fit(page, 320)
    await expect_no_violations(page)
    await page.reload()  # the latest purchase, with the marks that only this browser knows
    await expect(race.headline).to_have_text(headline)
    await expect(race.rows.filter(has_text="The screen says active.")).to_have_count(1)


async def test_the_activation_has_the_processor_to_itself_at_first(race: RaceView) -> None:
    """The race is asked for, and drawn, only a moment after the bank has said yes."""
    await race.buy()
    await expect(race.headline).to_contain_text("won")
    waited: float = await race.shopper.page.evaluate("""() => {
      const [confirmed] = performance.getEntriesByName("paidup:confirmed");
      const looks = performance.getEntriesByType("resource").filter((it) =>
        it.name.includes("/demo/race/in_"));
      return Math.min(...looks.map((look) => look.startTime)) - confirmed.startTime;
    }""")
    assert waited >= FIRST_LOOK_MS


async def test_an_answer_that_was_cut_off_is_no_picture(race: RaceView) -> None:
    """The connection ended in the middle of it: the page asks again, and draws nothing of it meanwhile."""
    page = race.shopper.page

    async def cut_off(route: Route) -> None:
        await route.fulfill(status=200, content_type="application/json", body='{"invoice": "in_')

    await page.route("**/demo/race/in_*", cut_off, times=2)
    async with page.expect_response("**/demo/race/in_*"):
        await race.buy()
    await page.set_viewport_size({"width": 700, "height": 700})
    await expect(race.headline).to_contain_text("won")


@pytest.mark.parametrize("shopper", [{"reduced_motion": "no-preference"}], indirect=True, ids=["moving"])
async def test_a_page_at_rest_asks_for_no_frame(race: RaceView) -> None:
    """The picture moves while something is still to come; then nothing keeps the processor awake."""
    page = race.shopper.page
    await page.add_init_script(COUNT_FRAMES)
    await race.buy("Webhook is a minute late", webhook_delay_ms=2500)
    await expect(race.headline).to_have_text("Verification won. The webhook is still on its way.")
    moving = await page.evaluate("framesAsked")
    await page.wait_for_function("before => framesAsked > before", arg=moving, polling=100)
    await expect(race.headline).to_contain_text(" s before the webhook.")

    async def at_rest() -> bool:
        """Whether for longer than the slowest picture takes, nothing was drawn."""
        meanwhile: int = await page.evaluate(
            "before => new Promise((done) => setTimeout(() => done(framesAsked - before), 1500))",
            await page.evaluate("framesAsked"),
        )
        return meanwhile == 0

    await wait_until(at_rest)


async def test_a_deploy_in_the_middle_ends_at_active(race: RaceView) -> None:
    """The server is replaced while it asks Stripe: the socket is lost and comes back, in the picture too."""
    shopper = race.shopper
    invoice = await race.buy("Deploy in the middle")
    await expect(shopper.page.get_by_test_id("activated")).to_be_visible(timeout=40_000)
    await expect(race.headline).to_contain_text("won")
    await expect(race.rows.filter(has_text="A new one is up.")).to_have_count(1)
    await expect(race.rows.filter(has_text="Closed by the server: restarting.")).not_to_have_count(0)
    await expect(race.shopper.page.locator("#race-picture .race-away")).not_to_have_count(0)
    assert len(await race.timeline(invoice, "settled")) == 1
    shopper.troubles[:] = [trouble for trouble in shopper.troubles if not SERVER_AWAY.search(trouble)]


async def test_a_tab_closed_after_paying_is_credited_by_another_road(race: RaceView) -> None:
    """The tab is really left; the page that stands in for it opens no socket, and looks on."""
    shopper = race.shopper
    invoice = await race.buy("Tab closed after paying", webhook_drop=False, webhook_delay_ms=1000)
    await expect(shopper.page.get_by_role("heading", name="This tab is closed.")).to_be_visible()
    await expect(race.headline).to_contain_text(re.compile("^The (webhook|reconciler) won"))
    await expect(race.rows.filter(has_text="The tab is closed.")).to_have_count(1)
    assert await race.timeline(invoice, "socket_opened") == []
    await expect_no_violations(shopper.page)
    await shopper.page.get_by_role("link", name="Open the tab again").click()
    await expect(shopper.balance).to_have_text("2,000")


async def test_a_socket_that_is_cut_comes_back_and_the_picture_shows_it(race: RaceView) -> None:
    """Pressed while no road is open; once Stripe answers, the new socket is told."""
    shopper = race.shopper
    invoice = await race.buy(webhook_drop=True, rate_limited=True)
    await expect(shopper.heading).to_have_text("Activating your Pro plan")

    async def opened(times: int) -> bool:
        return len(await race.timeline(invoice, "socket_opened")) >= times

    await wait_until(lambda: opened(1))
    await shopper.page.get_by_test_id("conditions").locator("summary").click()
    await shopper.page.get_by_role("button", name="Cut the socket").click()
    await wait_until(lambda: opened(2))
    await expect(race.rows.filter(has_text="Lost.")).to_have_count(1)
    await shopper.stripe_side.control("conditions/reset")
    await expect(shopper.page.get_by_test_id("activated")).to_be_visible()


async def test_the_same_purchase_in_other_ways_takes_longer(race: RaceView) -> None:
    """Real customers, really timed: Paidup before polling, polling before the webhook alone."""
    page = race.shopper.page
    await race.buy(webhook_delay_ms=1500)
    await expect(race.headline).to_contain_text("won")
    await page.get_by_role("button", name="Race them").click()
    said = page.get_by_test_id("others-said")
    await expect(said).to_contain_text("With the webhook alone it took", timeout=20_000)
    text = await said.inner_text()
    went_on = seconds(re.findall(r"could go on after (\S+\sm?s)", text))
    polling = seconds(re.findall(r"Polling took (\S+\sm?s)", text))
    alone = seconds(re.findall(r"alone it took (\S+\sm?s)", text))
    assert went_on < polling < alone
    assert polling >= 1
    assert "Stripe was asked once" in text
    await expect(page.locator("#others-picture [data-look=won]")).to_have_count(3)


def seconds(said: list[str]) -> float:
    """Of the one length of time that was found, such as `41 ms` or `4.9 s`."""
    (text,) = said
    value, unit = text.split()
    return float(value) / (1000 if unit == "ms" else 1)


async def test_nobody_but_the_customer_sees_his_race(race: RaceView) -> None:
    """Another customer is told that there is none; a page from elsewhere may bring about nothing."""
    shopper = race.shopper
    invoice = await race.buy()
    await expect(race.headline).to_contain_text("won")
    url, own = shopper.demo.url, {"Origin": shopper.demo.url}
    elsewhere = {"Origin": "http://evil.example"}
    cut = {"what": "socket", "invoice": invoice}
    request = shopper.context.request
    for body in ({"what": "restart"}, cut):
        refused = await request.post(f"{url}/demo/race/moments", data=body, headers=elsewhere)
        assert refused.status == 403
    assert (await request.post(f"{url}/demo/race/others", headers=elsewhere)).status == 403
    async with another_browser(shopper) as request:
        await request.post(f"{url}/demo/customer")
        assert (await request.get(f"{url}/demo/race/{invoice}")).status == 404
        assert (await request.post(f"{url}/demo/race/moments", data=cut, headers=own)).status == 404


@asynccontextmanager
async def another_browser(shopper: Shopper) -> AsyncIterator[APIRequestContext]:
    """Its requests; the customer's own page goes on looking at his race, with his cookie."""
    browser = shopper.context.browser
    assert browser is not None
    context = await browser.new_context()
    try:
        yield context.request
    finally:
        await context.close()
