"""Record the README's animation in a demo of its own: `python -m tests.browser.film`.

The frames are those that Chromium painted, with their real durations, plus a pause for each caption. The
webhook is delayed by a minute; Stripe answers after half a second. The captions are added.
"""

from __future__ import annotations

import asyncio
import base64
import io
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import expect

from tests.browser.pictures import IMAGES, POSTER, console
from tests.browser.story import VISA_WITH_3DS, Shopper, running_demo, shopping
from tests.support.browsers import running_browser

MOST_BYTES = 600_000
SIZE = {"width": 1080, "height": 700}
SHOWN = (810, 525)
READ_MS = 1_600  # how long each caption is shown before the next step
LAST_MS = 4_000
SHORTEST_MS = 40
CAPTION = """
  (text) => {
    let caption = document.getElementById("caption");
    if (!caption) {
      const sheet = new CSSStyleSheet();
      sheet.replaceSync(`#caption { position: fixed; inset: auto 0 0 0; margin: 0; padding: 0.7rem 2.5rem;
        background: #17171c; color: #f3f2ef; font-size: 1.25rem; z-index: 9; }`);
      document.adoptedStyleSheets.push(sheet);
      caption = document.body.appendChild(Object.assign(document.createElement("p"), { id: "caption" }));
    }
    caption.textContent = text;
  }
"""


class Film:
    """The frames that Chromium painted, each with its time in seconds."""

    def __init__(self) -> None:
        self.frames: list[tuple[float, Image.Image]] = []

    @classmethod
    @asynccontextmanager
    async def of(cls, shopper: Shopper) -> AsyncIterator[Film]:
        film = cls()
        devtools = await shopper.context.new_cdp_session(shopper.page)

        async def painted(event: dict[str, Any]) -> None:
            await devtools.send("Page.screencastFrameAck", {"sessionId": event["sessionId"]})
            picture = Image.open(io.BytesIO(base64.b64decode(event["data"])))
            film.frames.append((event["metadata"]["timestamp"], picture.convert("RGB").resize(SHOWN)))

        devtools.on("Page.screencastFrame", lambda event: asyncio.ensure_future(painted(event)))
        await devtools.send("Page.startScreencast", {"format": "png", "everyNthFrame": 2})
        yield film
        await devtools.send("Page.stopScreencast")

    def save(self, path: Path) -> None:
        self.frames.sort(key=lambda frame: frame[0])
        times = [time for time, _ in self.frames]
        lasts = [round((after - time) * 1000) for time, after in pairwise(times)] + [LAST_MS]
        first, *rest = [picture for _, picture in self.frames]
        first.save(
            path,
            save_all=True,
            append_images=rest,
            duration=[max(SHORTEST_MS, last) for last in lasts],
            loop=0,
            quality=55,
            method=6,
        )


async def play(shopper: Shopper) -> None:
    """Ask for a poster, choose a plan, pay and pass the bank's check. The poster is then printed."""
    page = shopper.page

    async def say(text: str) -> None:
        await page.evaluate(CAPTION, text)
        await page.wait_for_timeout(READ_MS)

    await say("A customer without credits asks for a poster.")
    await shopper.ask_for_poster()
    await expect(page.get_by_test_id("plan-pro")).to_be_visible()
    await say("They need credits: they choose a plan, pay by card …")
    await shopper.choose()
    await shopper.stripe_side.conditions(webhook_delay_ms=60_000)
    await shopper.pay(VISA_WITH_3DS)
    await expect(shopper.bank.locator("#test-source-authorize-3ds")).to_be_focused()
    await say("… and complete the bank’s check (3DS).")
    await shopper.stripe_side.conditions(api_latency_ms=500)
    await page.evaluate(CAPTION, "Paid. The webhook is a minute late; Paidup asks Stripe directly.")
    await shopper.answer_bank()
    await expect(shopper.posters).to_have_count(1)
    await expect(shopper.balance).to_have_text("1,990")
    await say("Active, and the poster is printed. The late webhook will not add credits a second time.")


async def main() -> None:
    path = IMAGES / "activation.webp"
    with tempfile.TemporaryDirectory(prefix="pu-") as folder, running_demo(Path(folder)) as demo:
        looks: dict[str, Any] = {"viewport": SIZE, "reduced_motion": "no-preference"}
        async with running_browser(desktop=True) as browser, shopping(browser, demo, **looks) as shopper:
            await shopper.arrive()
            await shopper.page.evaluate(f"sessionStorage.setItem('halftone:poster', '{POSTER}')")
            async with Film.of(shopper) as film:
                await play(shopper)
    film.save(path)
    size = path.stat().st_size
    console.print(f"{path.name}: {len(film.frames)} frames, {size // 1000} kB")
    assert size <= MOST_BYTES, f"{path.name} takes {size} bytes"


if __name__ == "__main__":
    asyncio.run(main())
