"""The examples of docs/embedding.md, run under uvicorn with both WebSocket implementations."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.paidup import (
    ORIGIN,
    WEBHOOK_SECRET,
    Paidup,
    balance_with,
    environment,
    next_balance,
    status_with,
)
from tests.support.processes import ROOT, Child, free_port
from tests.support.stripe_sandbox import StripeSide

EXAMPLES = ROOT / "docs" / "examples"
OPERATOR_TOKEN = "token-of-the-operators"
LIGHTWEIGHT = "paidup.web.websocket.lightweight_protocol:LightweightProtocol"
pytestmark = [
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    # uvicorn's default, and the class that `paidup serve` gives it.
    pytest.mark.parametrize(
        ("example", "protocol"), [("embedded_starlette", "auto"), ("embedded_fastapi", LIGHTWEIGHT)]
    ),
]


class Host:
    """A host application with Paidup mounted under /billing."""

    def __init__(self, url: str, child: Child, browser: aiohttp.ClientSession) -> None:
        self.url = url
        self.child = child
        self.browser = browser
        self.paidup = Paidup(f"{url}/billing", browser)


@pytest.fixture
async def host(
    example: str, protocol: str, valkey: str, database_url: str, stripe_side: StripeSide, tmp_path: Path
) -> AsyncIterator[Host]:
    port = free_port()
    env = environment(
        redis_url=valkey,
        database_url=database_url,
        stripe_api_base=stripe_side.url,
        data_dir=tmp_path,
        shutdown_drain_s=0.2,
        port=port,
        operator_token=OPERATOR_TOKEN,
    )
    command = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), f"{example}:app", "--port", str(port)]
    child = Child([*command, "--ws", protocol], env, tmp_path / "host.log")
    try:
        await asyncio.to_thread(child.wait_for, f"http://127.0.0.1:{port}/billing/readyz")
        webhook = {"url": f"http://127.0.0.1:{port}/billing/webhooks/stripe", "secret": WEBHOOK_SECRET}
        await stripe_side.control("webhook_endpoints", webhook)
        jar = aiohttp.CookieJar(unsafe=True)  # accept cookies of an IP address
        async with aiohttp.ClientSession(cookie_jar=jar) as browser:
            yield Host(f"http://127.0.0.1:{port}", child, browser)
    finally:
        await asyncio.to_thread(child.stop)


async def test_the_hosts_routes_spend_purchased_credits(
    host: Host, stripe_side: StripeSide, example: str
) -> None:
    """Refuse, buy, notify under the prefix, spend in process, update the page, and drain."""
    ada = host.paidup.customer("ada")
    if example == "embedded_starlette":
        await host.browser.post(f"{host.url}/sign-in/ada")
    headers = {"Authorization": f"Bearer {ada.token()}"}

    async def report(number: int) -> tuple[int, dict[str, object]]:
        async with host.browser.post(f"{host.url}/reports/{number}", headers=headers) as response:
            answer = await response.json()
            return response.status, answer.get("detail", answer)

    await _check_host_routes(host)
    assert await report(1) == (402, {"needed": 5, "activating": None})
    purchase = await ada.buy("pro")
    status, refused = await report(1)
    assert (status, refused["activating"]["invoice"]) == (402, purchase["invoice"])  # type: ignore[index]
    async with ada.watch_balance() as page:
        assert (await next_balance(page))["balance"] == 0
        async with ada.watch(purchase) as screen:
            await status_with(screen, status="open")
            await stripe_side.confirm(purchase["client_secret"])
            assert (await status_with(screen, status="active"))["balance"] == 2000
        await balance_with(page, 2000)
        status, made = await report(1)
        assert (status, made["balance"]) == (200, 1995)
        assert await report(1) == (status, made), "the same key spends once"
        await balance_with(page, 1995)
        host.child.process.send_signal(signal.SIGTERM)
        while (bye := await page.receive_json())["type"] != "bye":
            pass
        assert bye["reason"] == "restarting"
        assert (await page.receive()).type is aiohttp.WSMsgType.CLOSE
    await asyncio.to_thread(host.child.process.wait, 15)
    assert "Traceback" not in host.child.output


async def _check_host_routes(host: Host) -> None:
    """Errors, WebSockets and origins below the prefix are Paidup's; all others are the host's."""
    for url, is_paidups in ((host.paidup.url, True), (host.url, False)):
        async with host.browser.get(f"{url}/elsewhere") as response:
            assert response.status == 404
            assert (response.content_type == "application/problem+json") is is_paidups
    for path in ("/ws/account", "/elsewhere", "/billing/elsewhere"):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await host.browser.ws_connect(host.url + path, origin=ORIGIN)
        assert refused.value.status == 403
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await host.browser.ws_connect(f"{host.paidup.url}/ws/account", origin="http://evil.test")
    assert refused.value.status == 403
    headers = {"Authorization": f"Bearer {OPERATOR_TOKEN}"}
    async with host.browser.get(f"{host.paidup.url}/operators", headers=headers) as response:
        page = await response.text()
        assert 'href="/billing/operators"' in page
        assert '"/operators' not in page
