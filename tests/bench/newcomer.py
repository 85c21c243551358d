"""`python -m tests.bench.newcomer`: how long it takes to see the first activation, from nothing but a clone.

Does what the README tells a newcomer, in an empty folder, and times each step: clone, `make demo`, then the
page in a real Chromium: a poster asked for and refused, a plan chosen, a card that needs 3DS paid with, the
bank's check passed, active. Nothing is edited or configured. How long the packages take is the network's and
pip's cache's: they stand alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
from playwright.async_api import expect

from tests.bench.report import console
from tests.browser.story import VISA_WITH_3DS, Demo, shopping
from tests.support.browsers import running_browser
from tests.support.processes import END_WITHIN_S, ROOT, free_port
from tests.support.waiting import wait_until


class Steps:
    """What was done, and how long each step took."""

    def __init__(self) -> None:
        self._since = self._began = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        console.print(f"{now - self._since:7.1f} s  {what}", highlight=False)
        self._since = now

    def end(self) -> None:
        console.print(f"{self._since - self._began:7.1f} s  in all", highlight=False)


@contextmanager
def demo_of(clone: Path) -> Iterator[Demo]:
    """`make demo` in `clone`, on free ports; stopped as by Ctrl-C."""
    log = clone / "demo.log"
    demo = Demo(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}", log)
    ports = {"PORT": demo.url.rpartition(":")[2], "SANDBOX_PORT": demo.sandbox.rpartition(":")[2]}
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {**inherited, **ports}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "demo"], cwd=clone, env=environment, stdout=output, start_new_session=True
        )
    try:
        yield demo
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(END_WITHIN_S)


def run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run(command, cwd=cwd, check=True)


async def is_ready(demo: Demo) -> bool:
    try:
        async with aiohttp.request("GET", f"{demo.url}/readyz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def main() -> None:
    steps = Steps()
    with tempfile.TemporaryDirectory(prefix="pu-") as folder:
        clone = Path(folder) / "paidup"
        run("git", "clone", "--quiet", ROOT, clone)
        steps.done("git clone (from this very folder)")
        run("make", "--silent", ".venv/.product", cwd=clone)
        steps.done("make demo: the packages")
        with demo_of(clone) as demo:
            await wait_until(lambda: is_ready(demo), within=30)
            steps.done("make demo: until the page answers")
            async with running_browser(desktop=True) as browser, shopping(browser, demo) as newcomer:
                await newcomer.reach_card_form()
                await newcomer.pay(VISA_WITH_3DS)
                await newcomer.answer_bank()
                await expect(newcomer.source_name).to_be_visible()
                steps.done("refused, plan, card, the bank's check, active (by hands that never hesitate)")
    steps.end()


if __name__ == "__main__":
    asyncio.run(main())
