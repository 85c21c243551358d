"""`make bench`: from `confirmCardPayment` resolving to "active" in the page, and the same by polling.

A real Chromium, the whole demo, the sandbox answering in 0 ms. Each round buys in each of these ways:

- as the README says: the page is connected before the customer pays, and says when Stripe.js has confirmed;
- the page is opened after the payment, as when customers come back from their bank;
- the page asks `GET /api/credits` each second, as pages do that know nothing better;
- the page tells nothing, and the customer reloads it: taken is the moment from which a reload would have
  shown the credits, so the best that they can do.

Measured is when the page's code knows, and when that is painted: the first frame after it has been drawn.
Webhooks come at once, which is the best that all can hope for, and a second series delays them by five
seconds. The floor is one round trip to Stripe (`invoices.retrieve`, expanded as the verification expands it),
in the same run.
"""

from __future__ import annotations

import asyncio
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from playwright.async_api import Page
from rich.table import Table

from paidup.runtime.embedded_valkey import socket_path
from paidup.runtime.redis_client import connect_redis
from paidup.stripe_api.gateway import open_gateway
from paidup.stripe_api.rate_limiter import RateLimiter
from tests.bench.goals import finish
from tests.bench.report import Figure, arguments, console
from tests.support.browsers import running_browser
from tests.support.processes import Child, free_port
from tests.support.stripe_sandbox import StripeSide

FLOOR = "floor: one Stripe round trip"
MODES = {
    "socket": "Paidup",
    "later": "Paidup, opened after the payment",
    "polling": "polling each second",
    "reloading": "webhook only, reloaded in time",
}

# All wait for the same thing, from the same moment, in the same page.
PAGE = """
async ([mode, config]) => {
  await fetch("/demo/customer", { method: "POST" });
  const buy = await fetch("/api/subscriptions", { method: "POST", body: JSON.stringify({ plan: "pro" }) });
  const { invoice, ticket, client_secret } = await buy.json();
  if (!window.Stripe) {
    await new Promise((loaded) => {
      const script = document.createElement("script");
      script.src = config.stripe_js;
      script.onload = loaded;
      document.head.append(script);
    });
  }
  const { activate } = await import("/demo/sdk/paidup.js");
  const stripe = window.Stripe(config.publishable_key);
  const how = { payment_method: "pm_card_visa" };
  const screen = document.body.appendChild(document.createElement("p"));
  const later = (ms) => new Promise((done) => setTimeout(done, ms));
  let activation = null;
  if (mode === "socket") {
    activation = activate({ invoice, ticket });
    await later(config.types_ms); // the customer types the card's number
  }
  const { paymentIntent } = await stripe.confirmCardPayment(client_secret, how);
  const confirmed = performance.now();
  if (mode === "socket") activation.confirmed(paymentIntent.status);
  if (mode === "later") activation = activate({ invoice, ticket });
  let status = activation && await activation.finished;
  while (!status) {
    await later(mode === "polling" ? 1000 : 20);
    const { grants } = await (await fetch("/api/credits")).json(); // which does not ask Stripe
    if (grants.some((grant) => grant.invoice === invoice)) status = { status: "active", via: "" };
  }
  const known = performance.now() - confirmed;
  screen.textContent = `Active: ${invoice}`;
  await new Promise(requestAnimationFrame);
  await new Promise((done) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = done; // after the frame
    port2.postMessage(0);
  });
  const painted = performance.now() - confirmed;
  screen.remove();
  if (!status.via) status = await (await fetch(`/api/invoices/${invoice}`)).json();
  return [known, painted, status.status, status.via, paymentIntent.status];
}
"""
TYPES_MS = 1200
"""Longer than the answer to the first verification counts as fresh, and shorter than until the next one."""


async def main() -> None:
    parser = arguments("activation", __doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pu-") as folder:
        port, sandbox_port = free_port(), free_port()
        env = {"PORT": str(port), "SANDBOX_PORT": str(sandbox_port)}
        demo = Child(["-m", "paidup.cli", "demo"], env, Path(folder) / "demo.log", cwd=Path(folder))
        try:
            demo.wait_for(f"http://127.0.0.1:{port}/readyz")
            urls = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{sandbox_port}"
            figures = await _measure(*urls, options.rounds, Path(folder))
        finally:
            demo.stop()
    finish(options, "activation", figures)


async def _measure(base: str, sandbox: str, rounds: int, folder: Path) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    async with aiohttp.ClientSession() as http, running_browser(desktop=True) as browser:
        stripe_side = StripeSide(sandbox, http)
        page = await browser.new_page()
        await page.goto(base)
        config = await page.evaluate("() => fetch('/demo/config.json').then((answer) => answer.json())")
        config["types_ms"] = TYPES_MS
        await _once(page, "socket", config)  # warms what is lazy on both sides

        floor = await _floor(sandbox, stripe_side, rounds, folder)
        table = Table(title=f"From the confirmed payment to “active” ({rounds} rounds)", min_width=110)
        for column in ("", "known, p50 ms", "p90", "painted, p50 ms", "p90", "over the floor", "source"):
            table.add_column(column, justify="right" if column else "left", no_wrap=True)
        table.add_row(FLOOR, *_figures(floor), "", "", "", "")
        for delay_ms in (0, 5000):
            await stripe_side.conditions(webhook_delay_ms=delay_ms)
            runs_of = await _series(page, config, rounds if not delay_ms else max(3, rounds // 5))
            when = "webhooks after 5 s" if delay_ms else "webhooks at once"
            figures[when] = _figure(when, floor, runs_of)
            for mode, runs in runs_of.items():
                known, painted = [run[0] for run in runs], [run[1] for run in runs]
                over = statistics.median(painted) - statistics.median(floor)
                sources = ", ".join(sorted({run[3] for run in runs}))
                table.add_row(
                    f"{MODES[mode]}, {when}", *_figures(known), *_figures(painted), f"{over:.1f}", sources
                )
            ratio = _median(runs_of["polling"]) / _median(runs_of["socket"])
            sooner = f"sooner than polling: {ratio:.0f} times"
            table.add_row(sooner, "", "", "", "", "", "", end_section=True)
    console.print(table)
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    return figures


def _figure(when: str, floor: list[float], runs_of: dict[str, list[Any]]) -> Figure:
    figure = Figure(f"From the confirmed payment to active, ms, {when}")
    for took in floor:
        figure.add(FLOOR, painted_ms=took)
    for mode, runs in runs_of.items():
        for known, painted, *_ in runs:
            figure.add(MODES[mode], known_ms=known, painted_ms=painted)
    return figure


async def _series(page: Page, config: Any, rounds: int) -> dict[str, list[Any]]:
    runs: dict[str, list[Any]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode in MODES:
            runs[mode].append(await _once(page, mode, config))
    return runs


def _median(runs: list[Any]) -> float:
    median: float = statistics.median(painted for _, painted, *_ in runs)
    return median


async def _once(page: Page, mode: str, config: Any) -> Any:
    measured = await page.evaluate(PAGE, [mode, config])
    assert measured[2] == "active", measured
    return measured


async def _floor(sandbox: str, stripe_side: StripeSide, rounds: int, folder: Path) -> list[float]:
    """Milliseconds of `invoices.retrieve` over a warm connection."""
    invoice = (await stripe_side.api("GET", "invoices?limit=1"))["data"][0]["id"]
    redis = connect_redis(f"unix://{socket_path(folder / '.paidup')}")
    try:
        async with open_gateway("sk_test_bench", sandbox, 10.0, RateLimiter(redis, 1000)) as gateway:
            await gateway.read_invoice(invoice)
            return [await _timed(lambda: gateway.read_invoice(invoice)) for _ in range(rounds * 5)]
    finally:
        await redis.aclose()


async def _timed(call: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000


def _figures(values: list[float]) -> tuple[str, str]:
    ordered = sorted(values)
    return f"{statistics.median(ordered):.1f}", f"{ordered[int(len(ordered) * 0.9)]:.1f}"


if __name__ == "__main__":
    asyncio.run(main())
