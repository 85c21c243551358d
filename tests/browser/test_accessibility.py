"""The demo's accessibility: phones, zoom, keyboard, screen readers, reduced motion, slow networks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route, expect

from tests.browser.looks import (
    expect_at_rest,
    expect_no_violations,
    expect_to_fit,
    luminance,
    screen,
    tab_to,
)
from tests.browser.story import DECLINED, VISA_WITH_3DS, Demo, Shopper, shopping
from tests.browser.test_demo import UNREACHABLE, expect_active
from tests.support.network import Cable
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.xdist_group("everybody"),
]

SLOW_TIMERS = """
  const prompt = window.setTimeout;
  const whole = (ms) => Math.max(1, Math.ceil((ms || 0) / 1000)) * 1000;
  window.setTimeout = (run, ms, ...rest) => prompt(run, whole(ms), ...rest);
"""
"""Timers as in a background tab: whole seconds, at least one."""


# ---- Layout


async def expect_fine(page: Page, width: int) -> None:
    await expect_to_fit(page, width)
    await expect_no_violations(page)


@pytest.mark.parametrize(
    ("shopper", "width", "scheme"),
    [screen(390, "light"), screen(320, "dark"), screen(640, "light", zoom=2)],
    indirect=["shopper"],
)
async def test_every_screen_fits_and_can_be_read(shopper: Shopper, width: int, scheme: str) -> None:
    """No view scrolls sideways, on a phone or at 200 % zoom; dark is dark; axe-core finds nothing in any."""
    page = shopper.page
    await shopper.arrive()
    paper, ink = await page.evaluate(
        "() => { const { backgroundColor, color } = getComputedStyle(document.documentElement);"
        " return [backgroundColor, color]; }"
    )
    assert (luminance(paper) < luminance(ink)) == (scheme == "dark")
    await page.get_by_test_id("conditions").locator("summary").click()
    await expect_fine(page, width)
    await shopper.ask_for_poster()
    await expect(page.get_by_test_id("plan-pro")).to_be_visible()
    await expect_fine(page, width)
    await shopper.choose()
    await shopper.pay(DECLINED)
    await expect(page.get_by_test_id("card-error")).to_have_text("Your card was declined.")
    await expect_fine(page, width)
    await shopper.stripe_side.conditions(**UNREACHABLE)
    await shopper.pay(VISA_WITH_3DS)
    await expect(shopper.bank.locator("#test-source-authorize-3ds")).to_be_visible()
    frame: Any = await page.locator("iframe").bounding_box()
    assert frame["x"] >= 0
    assert frame["x"] + frame["width"] <= width
    await expect_no_violations(page)
    await shopper.answer_bank()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    await expect_fine(page, width)
    await shopper.stripe_side.control("conditions/reset")
    await expect_active(shopper)
    await expect_fine(page, width)


@pytest.mark.parametrize("shopper", [{"viewport": {"width": 1280, "height": 800}}], indirect=True)
async def test_nothing_moves_about_by_itself(shopper: Shopper) -> None:
    """From the first paint to the poster no layout shift but in answer to the customer's own hand.

    The timeline's events come late, as on a busy machine: not within half a second of a click.
    """

    async def late(route: Route) -> None:
        await expect(shopper.page.get_by_test_id("activated")).to_be_visible()
        await route.continue_()

    await shopper.page.route("**/demo/timeline/invoices/in_*", late)
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(webhook_drop=True, api_latency_ms=1_500)
    await shopper.pay(VISA_WITH_3DS)
    await shopper.answer_bank()
    await expect(shopper.stage).to_have_attribute("data-stage", "verifying")
    await expect_active(shopper)
    await expect(shopper.page.get_by_test_id("timeline-headline")).to_contain_text("Confirmed by")
    await expect_at_rest(shopper.page)


@pytest.mark.parametrize(
    ("shopper", "motion"),
    [pytest.param({"reduced_motion": motion}, motion, id=motion) for motion in ("reduce", "no-preference")],
    indirect=["shopper"],
)
async def test_reduced_motion_is_respected(shopper: Shopper, motion: str) -> None:
    """With reduced motion neither the wait nor the success is animated; otherwise both are."""
    running = "document.getAnimations().filter(({ playState }) => playState === 'running').length"
    await shopper.page.add_init_script(
        "window.animated = 0; addEventListener('animationstart', () => window.animated++, true)"
    )
    await shopper.reach_card_form()
    await shopper.stripe_side.conditions(**UNREACHABLE)
    await shopper.pay()
    await expect(shopper.heading).to_have_text("Activating your Pro plan")
    moving = await shopper.page.evaluate(running)
    await shopper.stripe_side.control("conditions/reset")
    await expect_active(shopper)
    assert (moving > 0) == (motion == "no-preference")
    assert (await shopper.page.evaluate("window.animated") > 0) == (motion == "no-preference")


# ---- Keyboard and screen readers


async def test_the_keyboard_alone_buys_a_plan(shopper: Shopper) -> None:
    """Tab, Enter and the digits of the card are enough for all of it, the bank's check included."""
    page = shopper.page
    await shopper.arrive()
    await tab_to(page, page.get_by_test_id("make-poster"))
    await page.keyboard.press("Enter")
    await expect(page.locator("#plans-title")).to_be_focused()
    await tab_to(page, page.get_by_test_id("plan-pro"))
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Card number")).to_be_focused()
    await page.keyboard.type(VISA_WITH_3DS.replace(" ", "") + "1240" + "123")
    await page.keyboard.press("Enter")
    await expect(shopper.bank.locator("#test-source-authorize-3ds")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect_active(shopper)
    await expect(page.locator("#done-title")).to_be_focused()
    await tab_to(page, page.get_by_test_id("make-another"))
    await page.keyboard.press("Enter")
    await expect(shopper.posters).to_have_count(2)


async def test_escape_in_the_banks_check_gives_up_and_the_card_form_says_so(shopper: Shopper) -> None:
    """Closing the bank's window charges nothing; the form says so and has the focus again."""
    await shopper.reach_card_form()
    await shopper.pay(VISA_WITH_3DS)
    await expect(shopper.bank.locator("#test-source-authorize-3ds")).to_be_focused()
    await shopper.page.keyboard.press("Escape")
    await expect(shopper.page.get_by_test_id("card-error")).to_contain_text("Nothing was charged.")
    await expect(shopper.page.get_by_test_id("pay")).to_be_focused()


# ---- Slow networks


@pytest_asyncio.fixture(loop_scope="session")
async def cable() -> AsyncIterator[Cable]:
    async with Cable.laid() as cable:
        yield cable


async def test_a_cut_network_and_slow_timers_end_at_active(
    browser: Browser, demo: Demo, cable: Cable
) -> None:
    """S31: ten seconds without network and throttled timers: the page still becomes active."""
    looks = {"reduced_motion": "reduce", "proxy": {"server": cable.url}}
    async with shopping(browser, demo, **looks) as shopper:
        await shopper.page.clock.install()
        await shopper.page.add_init_script(SLOW_TIMERS)
        await shopper.reach_card_form()
        await shopper.stripe_side.conditions(webhook_drop=True, api_latency_ms=2_000)
        await shopper.pay(VISA_WITH_3DS)
        await shopper.answer_bank()
        await expect(shopper.stage).to_have_attribute("data-stage", "verifying")
        cable.pull()
        await expect(shopper.stage).to_contain_text("The connection was lost. We are reconnecting")
        await shopper.page.clock.run_for(10_000)
        await wait_until(lambda: cable.refused > 0)
        await expect(shopper.heading).to_have_text("Activating your Pro plan")
        cable.plug()
        # The reconciler's check may be due before the page is back.
        await expect_active(shopper, re.compile("verification|reconciliation"))
        assert "failed" not in await shopper.stages()
        # The network is cut while a request or a handshake is under way, or between them.
        cut = re.compile("net::ERR|WebSocket connection to .* failed: Connection closed before")
        assert [trouble for trouble in shopper.troubles if not cut.search(trouble)] == []
