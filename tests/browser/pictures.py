"""`python -m tests.browser.pictures [NAME ...]`: takes the documents' screenshots from its own demo.

Each is the page as it is, at one device pixel a pixel: every screen, and the timeline.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, expect
from rich.console import Console

from tests.browser.story import (
    DECLINED,
    VISA_WITH_3DS,
    Demo,
    Shopper,
    running_demo,
    shopping,
)
from tests.support.browsers import running_browser

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 120_000
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 720}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
OPERATOR_TOKEN = "token-for-the-pictures"
POSTER = "poster-15"  # the seed: the same poster every time

console = Console()


async def home(shopper: Shopper) -> None:
    await shopper.arrive()
    await expect(shopper.page.get_by_test_id("make-poster")).to_be_visible()


async def plans(shopper: Shopper) -> None:
    await home(shopper)
    await shopper.page.evaluate(f"sessionStorage.setItem('halftone:poster', '{POSTER}')")
    await shopper.ask_for_poster()
    await expect(shopper.page.get_by_test_id("plan-pro")).to_be_visible()


async def declined(shopper: Shopper) -> None:
    await plans(shopper)
    await shopper.choose()
    await shopper.pay(DECLINED)
    await expect(shopper.page.get_by_test_id("card-error")).to_have_text("Your card was declined.")


async def challenge(shopper: Shopper) -> None:
    await plans(shopper)
    await shopper.choose()
    await shopper.stripe_side.conditions(webhook_delay_ms=60_000)
    await shopper.pay(VISA_WITH_3DS)
    await expect(shopper.bank.locator("#test-source-authorize-3ds")).to_be_focused()


async def activating(shopper: Shopper) -> None:
    await challenge(shopper)
    await shopper.stripe_side.conditions(api_latency_ms=4_000)  # so that verification is caught at work
    await shopper.answer_bank()
    await expect(shopper.stage).to_have_attribute("data-stage", "verifying")


async def delayed(shopper: Shopper) -> None:
    await shopper.page.clock.install()
    await challenge(shopper)
    await shopper.stripe_side.conditions(api_down=True)
    await shopper.answer_bank()
    await expect(shopper.stage).to_be_visible()
    await shopper.page.clock.fast_forward(31_000)
    await expect(shopper.stage).to_have_attribute("data-stage", "delayed")


async def processing(shopper: Shopper) -> None:
    await plans(shopper)
    await shopper.choose()
    await shopper.stripe_side.conditions(processing_ms=60_000)
    await shopper.pay()
    await expect(shopper.stage).to_have_attribute("data-stage", "processing")


async def failed(shopper: Shopper) -> None:
    await plans(shopper)
    await shopper.choose()
    await shopper.stripe_side.conditions(processing_ms=100, processing_outcome="failed")
    await shopper.pay()
    await expect(shopper.stage).to_have_attribute("data-stage", "failed")


async def active(shopper: Shopper) -> None:
    await challenge(shopper)
    await shopper.answer_bank()
    await expect(shopper.posters).to_have_count(1)
    await expect(shopper.balance).to_have_text("1,990")


async def timeline(shopper: Shopper) -> None:
    """Pay with the webhook a minute late, and compare under the same conditions; takes two minutes."""
    page = shopper.page
    await plans(shopper)
    await page.get_by_test_id("conditions").locator("summary").click()
    await page.get_by_role("button", name="Webhook is a minute late").click()
    await shopper.choose()
    await shopper.pay(VISA_WITH_3DS)
    await shopper.answer_bank()
    await expect(page.get_by_test_id("timeline-headline")).to_contain_text(
        "before the webhook", timeout=90_000
    )
    await page.get_by_role("button", name="Compare them").click()
    await expect(page.get_by_test_id("comparison-result")).to_contain_text("alone it took", timeout=90_000)


async def account(shopper: Shopper) -> None:
    """A plan, a poster, an upgrade, a month later: the balance and how it came about."""
    await shopper.subscribe("basic")
    await shopper.print_posters(1)
    await shopper.change_to("pro")
    await shopper.see_account()
    plan = shopper.page.get_by_test_id("plan-text")
    await expect(plan).to_contain_text("2,000 credits")  # the upgrade has been read
    renews = await plan.inner_text()
    await shopper.move_clock("1 month")
    await expect(shopper.rows.filter(has_text="+2,000").first).to_be_visible()
    await expect(plan).not_to_have_text(renews, timeout=20_000)
    await shopper.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")


SCREENS = [home, plans, declined, challenge, activating, delayed, processing, failed, active, account]
"""Each is taken twice: a light desktop and a dark phone."""


async def operators(shopper: Shopper) -> None:
    """What an operator sees of a customer whose webhook came late: three pictures, on a desk."""
    await challenge(shopper)
    await shopper.stripe_side.conditions(webhook_delay_ms=12_000, api_latency_ms=300)
    await shopper.answer_bank()
    await expect(shopper.balance).to_have_text("1,990")
    await shopper.print_posters(2)
    page = shopper.page
    await page.goto(f"{shopper.demo.url}/operators")
    await page.get_by_label("Your name").fill("grace")
    await page.get_by_label("Operators’ token").fill(OPERATOR_TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await page.locator("td[data-name=Account] a").first.click()
    await page.set_viewport_size({"width": 1180, "height": 900})
    await take(IMAGES / "operators-account.png", shopper)
    await page.get_by_role("link", name="Give credits").click()
    await page.get_by_label("Credits", exact=True).fill("500")
    await page.get_by_label("Reason").fill("A day of outage")
    await page.get_by_role("button", name="Continue").click()
    await page.set_viewport_size({"width": 1180, "height": 400})
    await take(IMAGES / "operators-confirm.png", shopper)
    await page.get_by_role("link", name="Overview").click()
    await page.locator("td[data-name=Invoice] a").first.click()
    for _ in range(60):
        if "before the webhook" in await page.locator(".timeline").inner_text():
            break
        await page.wait_for_timeout(500)
        await page.reload()
    await take(IMAGES / "operators-timeline.png", shopper, ".timeline")


async def take(path: Path, shopper: Shopper, part: str | None = None) -> None:
    """The window as it is, or one part of the page."""
    if part:
        await shopper.page.locator(part).screenshot(path=path, scale="css")
    else:
        await shopper.page.evaluate("scrollTo(0, 0)")
        await shopper.page.screenshot(path=path, scale="css")
    press(path)


def press(path: Path) -> None:
    """As small as it gets: a palette is enough for what is flat."""
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
    size = path.stat().st_size
    assert size <= MOST_BYTES, f"{path.name} takes {size} bytes"
    console.print(f"{path.name}: {size // 1000} kB")


async def take_all(demo: Demo, browser: Browser, names: Sequence[str]) -> None:
    """Those of these names, or every one."""
    for kind, looks in (("", DESK), ("-phone", PHONE)):
        for story in [*SCREENS, timeline]:
            if names and story.__name__ not in names:
                continue
            part = None if story is not timeline else ".backstage" if looks is DESK else "#timeline"
            async with shopping(browser, demo, reduced_motion="reduce", **looks) as shopper:
                await story(shopper)
                await take(IMAGES / f"{story.__name__}{kind}.png", shopper, part)
    if not names or operators.__name__ in names:
        async with shopping(browser, demo, reduced_motion="reduce", **DESK) as shopper:
            await operators(shopper)


async def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="pu-") as folder,
        running_demo(Path(folder), OPERATOR_TOKEN=OPERATOR_TOKEN) as demo,
    ):
        async with running_browser(desktop=True) as browser:
            await take_all(demo, browser, sys.argv[1:])


if __name__ == "__main__":
    asyncio.run(main())
