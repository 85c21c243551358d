"""`python -m tests.browser.pictures`: the pictures of the documents, taken of a demo that runs for it alone.

Each is the page as it is, at one device pixel a pixel, cut off below what it is about, or one part of it.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, expect
from rich.console import Console

from tests.browser.story import VISA_WITH_3DS, Demo, Shopper, running_browser, running_demo, shopping

IMAGES = Path(__file__).parents[2] / "docs" / "images"
MOST_BYTES = 120_000
DESK = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}}
POSTER = "poster-15"  # the seed: the same poster whenever the pictures are taken anew

Take = Callable[[Shopper], Awaitable[None]]
console = Console()


async def plans(shopper: Shopper) -> None:
    await shopper.arrive()
    await shopper.page.evaluate(f"sessionStorage.setItem('halftone:poster', '{POSTER}')")
    await shopper.ask_for_poster()
    await expect(shopper.page.get_by_test_id("plan-pro")).to_be_visible()


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


async def active(shopper: Shopper) -> None:
    await challenge(shopper)
    await shopper.answer_bank()
    await expect(shopper.posters).to_have_count(1)
    await expect(shopper.balance).to_have_text("1,990")


async def race(shopper: Shopper) -> None:
    """Paid with the webhook a minute late; shortened to six seconds, so that it comes while we wait."""
    page = shopper.page
    await plans(shopper)
    await page.get_by_test_id("conditions").locator("summary").click()
    await page.get_by_role("button", name="Webhook is a minute late").click()
    await shopper.choose()
    await shopper.stripe_side.conditions(webhook_delay_ms=6_000)
    await shopper.pay(VISA_WITH_3DS)
    await shopper.answer_bank()
    await expect(page.get_by_test_id("race-headline")).to_contain_text("before the webhook", timeout=20_000)
    await page.get_by_role("button", name="Race them").click()
    await expect(page.get_by_test_id("others-said")).to_contain_text("alone it took", timeout=30_000)


async def account(shopper: Shopper) -> None:
    """A plan, a poster, an upgrade, a month later: the balance and how it came about."""
    await shopper.subscribe("basic")
    await shopper.api("POST", "/api/credits/spend", {"credits": 10, "key": "poster"})
    await shopper.change_to("pro")
    await shopper.see_account()
    plan = shopper.page.get_by_test_id("plan-text")
    renews = await plan.inner_text()
    await shopper.move_clock("1 month")
    await expect(shopper.rows.first).to_contain_text("2,000")
    await expect(plan).not_to_have_text(renews, timeout=20_000)
    await shopper.page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")


PICTURES: list[tuple[str, Take, dict[str, Any], int | str]] = [  # name, story, looks, height or part
    ("plans", plans, DESK, 700),
    ("challenge", challenge, PHONE, 844),
    ("activating", activating, DESK, 700),
    ("active", active, DESK, 410),
    ("race", race, DESK, ".backstage"),
    ("account", account, DESK, 800),
    ("account-dark", account, {**PHONE, "color_scheme": "dark"}, 844),
    ("activating-dark", activating, {**PHONE, "color_scheme": "dark"}, 844),
]


async def take_all(demo: Demo, browser: Browser) -> None:
    for name, take, looks, shown in PICTURES:
        path = IMAGES / f"{name}.png"
        async with shopping(browser, demo, reduced_motion="reduce", **looks) as shopper:
            await take(shopper)
            if isinstance(shown, str):
                await shopper.page.locator(shown).screenshot(path=path, scale="css")
            else:
                clip: Any = {"x": 0, "y": 0, "width": looks["viewport"]["width"], "height": shown}
                await shopper.page.screenshot(path=path, clip=clip, scale="css")
        Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
        size = path.stat().st_size
        assert size <= MOST_BYTES, f"{path.name} takes {size} bytes"
        console.print(f"{path.name}: {size // 1000} kB")


async def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pu-") as folder, running_demo(Path(folder)) as demo:
        async with running_browser() as browser:
            await take_all(demo, browser)


if __name__ == "__main__":
    asyncio.run(main())
