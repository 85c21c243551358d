"""The timeline on the page matches the recorded events, under every injected fault.

Each test is a purchase by a new customer in a real Chromium; the figures on the page are compared with the
server's events. A restarting server refuses connections for a while, which is not an error of the page.
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

SERVER_RESTARTING = re.compile(
    r"ERR_CONNECTION_REFUSED|ERR_EMPTY_RESPONSE|ERR_CONNECTION_RESET|response code: 503"
)
FIRST_POLL_MS = 200
NOTE_COVERED = """
  window.covered = [];
  new MutationObserver(() => {
    const labels = document.querySelectorAll("#timeline-picture :is(.timeline-tick, .timeline-now text)");
    const boxes = [...labels].map((label) => [label.textContent, label.getBoundingClientRect()]);
    for (const [index, [text, box]] of boxes.entries())
      for (const [other, { left, right, top, bottom }] of boxes.slice(index + 1))
        if (box.left < right && left < box.right && box.top < bottom && top < box.bottom)
          covered.push([text, other]);
  }).observe(document, { subtree: true, childList: true });
"""
"""Labels of the axis that were ever drawn over each other."""
COUNT_FRAMES = """
  window.framesAsked = 0;
  const ask = window.requestAnimationFrame;
  window.requestAnimationFrame = (draw) => (window.framesAsked++, ask.call(window, draw));
"""


class TimelineView:
    """What the page shows of the timeline_view."""

    def __init__(self, shopper: Shopper) -> None:
        self.shopper = shopper

    @property
    def headline(self) -> Locator:
        return self.shopper.page.get_by_test_id("timeline-headline")

    @property
    def rows(self) -> Locator:
        return self.shopper.page.locator("#timeline-rows tr")

    def marks(self, lane: str, look: str) -> Locator:
        picture = self.shopper.page.get_by_test_id("timeline-picture")
        return picture.locator(f"[data-lane={lane}] [data-look={look}]")

    async def choose(self, preset: str) -> None:
        panel = self.shopper.page.get_by_test_id("conditions")
        if await panel.get_attribute("open") is None:
            await panel.locator("summary").click()
        await panel.get_by_role("button", name=preset).click()
        await expect(panel.locator("[data-summary]")).to_have_text(preset)

    async def buy(self, preset: str | None = None, **conditions: Any) -> str:
        """Pay for a plan under these conditions; returns its invoice."""
        await self.shopper.arrive()
        if preset:
            await self.choose(preset)
        await self.shopper.ask_for_poster()
        await self.shopper.choose()
        if conditions:
            await self.shopper.stripe_side.conditions(**conditions)
        invoice = (await self.shopper.pending())["invoice"]
        await self.shopper.pay()
        return str(invoice)

    async def events(self, invoice: str, type_: str, **detail: str) -> list[float]:
        """When events of this type happened by the server's record, in ms since 1970."""
        events = (await self.shopper.api("GET", f"/demo/timeline/invoices/{invoice}"))["events"]
        wanted = detail.items()
        return [s["at"] for s in events if s["type"] == type_ and wanted <= s["detail"].items()]


@pytest.fixture
def timeline_view(shopper: Shopper) -> TimelineView:
    return TimelineView(shopper)


@pytest.mark.parametrize("shopper", [{"viewport": {"width": 320, "height": 700}}], indirect=True, ids=["320"])
async def test_the_headline_says_by_how_much_verification_was_first(timeline_view: TimelineView) -> None:
    """The difference in the headline is that of the recorded events; the view fits a small phone."""
    page = timeline_view.shopper.page
    await page.add_init_script(NOTE_COVERED)
    invoice = await timeline_view.buy("Webhook is a minute late", webhook_delay_ms=2500)
    await expect(timeline_view.headline).to_have_text("Confirmed by verification. No webhook has come yet.")
    await expect(page.locator(".timeline-now text")).to_be_visible()
    await expect(timeline_view.marks("verification", "first")).not_to_have_count(0)
    await expect(timeline_view.marks("webhook", "late")).to_have_count(0)
    await expect(timeline_view.headline).to_contain_text(" s before the webhook.")
    headline = await timeline_view.headline.inner_text()
    said = re.fullmatch(r"Confirmed by verification, ([\d.]+)\ss before the webhook\.", headline)
    assert said
    (settled,) = await timeline_view.events(invoice, "settled", source="verification")
    came = min(await timeline_view.events(invoice, "webhook_received"))
    assert float(said[1]) == pytest.approx((came - settled) / 1000, abs=0.051)
    await expect(timeline_view.marks("webhook", "late")).not_to_have_count(0)
    await expect(timeline_view.rows.filter(has_text="The bank confirmed.")).to_contain_text("0 ms")
    assert await page.evaluate("window.covered") == []
    await page.locator(".timeline-steps summary").click()
    await expect_to_fit(page, 320)
    await expect_no_violations(page)
    await page.reload()  # the latest purchase, with the marks that only this browser knows
    await expect(timeline_view.headline).to_have_text(headline)
    await expect(timeline_view.rows.filter(has_text="The screen says active.")).to_have_count(1)


SHOWN = {
    "sentence": ("#source-name", r"ready (.+) after your bank"),
    "detail": ("#timeline-detail", r"on the screen after (.+)\.$"),
    "lane": ("[data-lane=browser] .timeline-summary", r"active after (.+)$"),
    "row": ("#timeline-rows tr:has-text('The screen says active.') td:first-child", r"(.+)"),
    "dot": ("[data-lane=browser] [data-look=first] title >> nth=0", r"(.+): the screen says active"),
    "description": ("#timeline-picture > desc", r"Browser: active after ([^.]+(?:\.\d)?\sm?s)\."),
}
"""Where the time until the credits were on the screen is shown."""
TIMELINE = {name: place for name, place in SHOWN.items() if name != "sentence"}
LATER = {
    "sentence": ("#source-reason", r"arrived (.+) later; without Paidup you would have waited for it\.$"),
    "headline": ("[data-testid=timeline-headline]", r"verification, (.+) before the webhook\."),
    "lane": ("[data-lane=webhook] .timeline-summary", r"(.+) later, already credited"),
}
"""Where it is shown by how much the webhook was later."""
MEASURED = """async () => {
  const { formatDuration } = await import("/demo/lib/text.js");
  const [confirmed] = performance.getEntriesByName("paidup:confirmed");
  const [active] = performance.getEntriesByName("paidup:active");
  return formatDuration(active.startTime - confirmed.startTime);
}"""


async def figures(timeline_view: TimelineView, places: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The one figure that each place shows."""
    found = {}
    for name, (where, pattern) in places.items():
        text = await timeline_view.shopper.page.locator(where).first.text_content()
        said = re.search(pattern, text or "")
        assert said, f"{name}: {text}"
        found[name] = said[1].replace("\u00a0", " ")
    return found


async def test_one_measurement_is_one_figure_wherever_it_is_shown(timeline_view: TimelineView) -> None:
    """The wait for the credits, and the webhook's: the same in sentence, headline, picture and table."""
    page = timeline_view.shopper.page
    await timeline_view.buy(webhook_delay_ms=1200)
    await expect(page.locator("#source-reason")).to_contain_text("without Paidup you would have waited")
    await expect(timeline_view.rows.filter(has_text="The screen says active.")).to_have_count(1)
    shown = await figures(timeline_view, SHOWN)
    assert set(shown.values()) == {await page.evaluate(MEASURED)}, shown
    later = await figures(timeline_view, LATER)
    assert len(set(later.values())) == 1, later
    await page.reload()  # the clocks are compared again, and what this browser measured is kept
    await expect(timeline_view.rows.filter(has_text="The screen says active.")).to_have_count(1)
    assert shown == {**shown, **await figures(timeline_view, TIMELINE)}


async def test_a_lost_webhook_is_said_to_be_missing(timeline_view: TimelineView) -> None:
    """It is never on its way, and the sentence says what waiting for it would have meant."""
    page = timeline_view.shopper.page
    await timeline_view.buy(webhook_drop=True)
    reason = page.locator("#source-reason")
    await expect(reason).to_have_text(
        "Stripe’s webhook has not arrived yet; without Paidup you would still be waiting for it."
    )
    await expect(timeline_view.headline).to_have_text("Confirmed by verification. No webhook has come yet.")


async def test_the_timeline_does_not_delay_the_activation(timeline_view: TimelineView) -> None:
    """The timeline is first requested a moment after the bank's confirmation."""
    await timeline_view.buy()
    await expect(timeline_view.headline).to_contain_text("Confirmed by")
    waited: float = await timeline_view.shopper.page.evaluate("""() => {
      const [confirmed] = performance.getEntriesByName("paidup:confirmed");
      const looks = performance.getEntriesByType("resource").filter((it) =>
        it.name.includes("/demo/timeline/invoices/in_"));
      return Math.min(...looks.map((look) => look.startTime)) - confirmed.startTime;
    }""")
    assert waited >= FIRST_POLL_MS


async def test_a_truncated_response_is_not_drawn(timeline_view: TimelineView) -> None:
    """The page requests the timeline again, and draws nothing of the truncated one."""
    page = timeline_view.shopper.page

    async def cut_off(route: Route) -> None:
        await route.fulfill(status=200, content_type="application/json", body='{"invoice": "in_')

    await page.route("**/demo/timeline/invoices/in_*", cut_off, times=2)
    async with page.expect_response("**/demo/timeline/invoices/in_*"):
        await timeline_view.buy()
    await page.set_viewport_size({"width": 700, "height": 700})
    await expect(timeline_view.headline).to_contain_text("Confirmed by")


@pytest.mark.parametrize("shopper", [{"reduced_motion": "no-preference"}], indirect=True, ids=["moving"])
async def test_a_finished_timeline_requests_no_frames(timeline_view: TimelineView) -> None:
    """The picture is animated while events are expected, and not afterwards."""
    page = timeline_view.shopper.page
    await page.add_init_script(COUNT_FRAMES)
    await timeline_view.buy("Webhook is a minute late", webhook_delay_ms=2500)
    await expect(timeline_view.headline).to_have_text("Confirmed by verification. No webhook has come yet.")
    moving = await page.evaluate("framesAsked")
    await page.wait_for_function("before => framesAsked > before", arg=moving, polling=100)
    await expect(timeline_view.headline).to_contain_text(" s before the webhook.")

    async def at_rest() -> bool:
        """Whether nothing was drawn for longer than the slowest redraw interval."""
        meanwhile: int = await page.evaluate(
            "before => new Promise((done) => setTimeout(() => done(framesAsked - before), 1500))",
            await page.evaluate("framesAsked"),
        )
        return meanwhile == 0

    await wait_until(at_rest)


async def test_a_deploy_during_payment_ends_in_credits(timeline_view: TimelineView) -> None:
    """The server restarts while it asks Stripe: the WebSocket reconnects, and the timeline shows both."""
    shopper = timeline_view.shopper
    invoice = await timeline_view.buy("Deploy during payment")
    await expect(shopper.page.get_by_test_id("activated")).to_be_visible(timeout=40_000)
    await expect(timeline_view.headline).to_contain_text("Confirmed by")
    await expect(timeline_view.rows.filter(has_text="A new process is ready.")).to_have_count(1)
    await expect(timeline_view.rows.filter(has_text="Closed by the server: restarting.")).not_to_have_count(0)
    await expect(timeline_view.shopper.page.locator("#timeline-picture .timeline-outage")).not_to_have_count(
        0
    )
    assert len(await timeline_view.events(invoice, "settled")) == 1
    shopper.troubles[:] = [trouble for trouble in shopper.troubles if not SERVER_RESTARTING.search(trouble)]


async def test_a_tab_closed_after_paying_is_credited_by_another_source(timeline_view: TimelineView) -> None:
    """The page is really left; the one shown instead opens no WebSocket."""
    shopper = timeline_view.shopper
    invoice = await timeline_view.buy("Tab closed after paying", webhook_drop=False, webhook_delay_ms=1000)
    await expect(shopper.page.get_by_role("heading", name="This tab is closed.")).to_be_visible()
    await expect(timeline_view.headline).to_contain_text(re.compile("^Confirmed by the (webhook|reconciler)"))
    await expect(timeline_view.rows.filter(has_text="The tab is closed.")).to_have_count(1)
    assert await timeline_view.events(invoice, "socket_opened") == []
    await expect_no_violations(shopper.page)
    await shopper.page.get_by_role("link", name="Open the tab again").click()
    await expect(shopper.page.locator("#banner-text")).to_have_text("Pro is yours: 2,000 credits added.")
    await expect(shopper.balance).to_have_text("1,990")  # the poster that was interrupted is printed


async def test_a_closed_socket_reconnects_and_the_timeline_shows_it(timeline_view: TimelineView) -> None:
    """Pressed while no source can confirm; once Stripe answers, the new WebSocket is updated."""
    shopper = timeline_view.shopper
    invoice = await timeline_view.buy(webhook_drop=True, rate_limited=True)
    await expect(shopper.heading).to_have_text("Activating your Pro plan")

    async def opened(times: int) -> bool:
        return len(await timeline_view.events(invoice, "socket_opened")) >= times

    await wait_until(lambda: opened(1))
    await shopper.page.get_by_test_id("conditions").locator("summary").click()
    await shopper.page.get_by_role("button", name="Close the WebSocket").click()
    await wait_until(lambda: opened(2))
    await expect(timeline_view.rows.filter(has_text="Connection lost.")).to_have_count(1)
    await shopper.stripe_side.control("conditions/reset")
    await expect(shopper.page.get_by_test_id("activated")).to_be_visible()


async def test_polling_and_the_webhook_alone_take_longer(timeline_view: TimelineView) -> None:
    """Three measured purchases: Paidup is faster than polling, polling faster than the webhook alone."""
    page = timeline_view.shopper.page
    await timeline_view.buy(webhook_delay_ms=1500)
    await expect(timeline_view.headline).to_contain_text("Confirmed by")
    await page.get_by_role("button", name="Compare them").click()
    said = page.get_by_test_id("comparison-result")
    await expect(said).to_contain_text("With the webhook alone it took", timeout=20_000)
    text = await said.inner_text()
    paidup = seconds(re.findall(r"With Paidup it took (\S+\sm?s)", text))
    polling = seconds(re.findall(r"With polling it took (\S+\sm?s)", text))
    alone = seconds(re.findall(r"alone it took (\S+\sm?s)", text))
    assert paidup < polling < alone
    assert polling >= 1
    assert "with 1 request to Stripe" in text
    await expect(page.locator("#comparison-picture [data-look=first]")).to_have_count(3)


def seconds(said: list[str]) -> float:
    """Of the one length of time that was found, such as `41 ms` or `4.9 s`."""
    (text,) = said
    value, unit = text.split()
    return float(value) / (1000 if unit == "ms" else 1)


async def test_only_the_customer_sees_their_timeline(timeline_view: TimelineView) -> None:
    """Another customer gets a 404; a page of another origin cannot inject faults."""
    shopper = timeline_view.shopper
    invoice = await timeline_view.buy()
    await expect(timeline_view.headline).to_contain_text("Confirmed by")
    url, own = shopper.demo.url, {"Origin": shopper.demo.url}
    elsewhere = {"Origin": "http://evil.example"}
    cut = {"type": "socket", "invoice": invoice}
    request = shopper.context.request
    for body in ({"type": "restart"}, cut):
        refused = await request.post(f"{url}/demo/timeline/faults", data=body, headers=elsewhere)
        assert refused.status == 403
    assert (await request.post(f"{url}/demo/timeline/comparison", headers=elsewhere)).status == 403
    async with another_browser(shopper) as request:
        await request.post(f"{url}/demo/customer")
        assert (await request.get(f"{url}/demo/timeline/invoices/{invoice}")).status == 404
        assert (await request.post(f"{url}/demo/timeline/faults", data=cut, headers=own)).status == 404


@asynccontextmanager
async def another_browser(shopper: Shopper) -> AsyncIterator[APIRequestContext]:
    """The requests of another browser; the customer's own page keeps its cookie."""
    browser = shopper.context.browser
    assert browser is not None
    context = await browser.new_context()
    try:
        yield context.request
    finally:
        await context.close()
