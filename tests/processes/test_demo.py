"""`paidup demo`: one command in an empty directory, a whole purchase, and a clean stop."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from paidup.commands.initialization import init
from paidup.errors import ConfigurationError
from paidup.runtime.env_file import read_env_file
from paidup.settings import ENV_FILE
from paidup_demo.sandbox.conditions import Conditions
from paidup_demo.supervisor import WEBHOOK_DELAY_MS, demo_environment, run_demo
from tests.support.contracts import checked_session
from tests.support.paidup import WEBHOOK_SECRET, status_with
from tests.support.processes import Child, alive, descendants, free_port
from tests.support.stripe_sandbox import StripeSide
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("demo-process")  # one demo for all of them

DEMO = ["-m", "paidup.cli", "demo"]


class Demo:
    """One `paidup demo` in a directory; `start` runs it again with the same ports and data."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port, self.sandbox_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.sandbox = f"http://127.0.0.1:{self.sandbox_port}"
        self.child: Child | None = None

    def start(self, on_terminal: bool = False) -> Child:
        ports = {"PORT": str(self.port), "SANDBOX_PORT": str(self.sandbox_port)}
        self.child = Child(DEMO, ports, self.home / "demo.log", cwd=self.home, on_terminal=on_terminal)
        self.child.wait_for(f"{self.url}/readyz")
        return self.child

    def stop(self) -> int:
        assert self.child is not None
        return self.child.stop()


@pytest.fixture(scope="module")
def demo() -> Iterator[Demo]:
    """The demo that this module's tests share; one of them restarts it."""
    home = Path(tempfile.mkdtemp(prefix="pu-"))
    running = Demo(home)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
async def browser(demo: Demo) -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that has loaded the demo's page and has its cookie."""
    jar = aiohttp.CookieJar(unsafe=True)  # accept cookies of an IP address
    async with checked_session(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=30)) as session:
        async with session.get(demo.url) as response:
            assert response.status == 200
        yield session


async def bought(demo: Demo, browser: aiohttp.ClientSession) -> Any:
    """Subscribe, watch, and pay with a 3DS card; returns the last frame of the WebSocket."""
    stripe = StripeSide(demo.sandbox, browser)
    async with browser.post(f"{demo.url}/api/subscriptions", json={"plan": "basic"}) as response:
        assert response.status == 201
        purchase = await response.json()
    intent = await stripe.confirm(purchase["client_secret"], "pm_card_authenticationRequired")
    assert intent["status"] == "requires_action"
    async with browser.ws_connect(
        f"{demo.url}/ws/invoices/{purchase['invoice']}",
        protocols=("paidup.v1", purchase["ticket"]),
        headers={"Origin": demo.url},
    ) as socket_:
        await stripe.authenticate(purchase["client_secret"])
        return await status_with(socket_, status="active")


async def balance(demo: Demo, browser: aiohttp.ClientSession) -> int:
    async with browser.get(f"{demo.url}/api/credits") as response:
        return int((await response.json())["balance"])


async def test_the_page_allows_only_the_sandboxs_script(demo: Demo, browser: aiohttp.ClientSession) -> None:
    async with browser.get(demo.url) as response:
        policy = response.headers["Content-Security-Policy"]
        assert "<html" in await response.text()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["script-src"] == f"'self' {demo.sandbox}"
    assert rules["default-src"] == "'self'"
    assert rules["object-src"] == rules["base-uri"] == rules["frame-ancestors"] == "'none'"
    assert f"ws://127.0.0.1:{demo.port}" in rules["connect-src"]


async def test_the_webhook_takes_some_seconds_at_first(demo: Demo, browser: aiohttp.ClientSession) -> None:
    """As in life, so that the first purchase is confirmed by verification, which does not wait for it."""
    found = await StripeSide(demo.sandbox, browser).look("conditions")
    assert msgspec.convert(found, Conditions) == Conditions(webhook_delay_ms=WEBHOOK_DELAY_MS)


async def test_only_the_pages_files_are_served(demo: Demo, browser: aiohttp.ClientSession) -> None:
    async with browser.get(f"{demo.url}/demo/config.json") as response:
        config = await response.json()
    assert config["publishable_key"] == "pk_test_paidup_sandbox_no_stripe_account"
    assert config["stripe_js"] == f"{demo.sandbox}/stripe.js"
    wanted = {
        "sdk/paidup.js": 200,
        "page/demo.css": 200,
        "app.py": 404,
        "..%2Fapp.py": 404,
        "page/index.html": 404,
        "sandbox/panel.html": 404,
    }
    for name, status in wanted.items():
        async with browser.get(f"{demo.url}/demo/{name}") as response:
            assert response.status == status, name
    async with browser.get(config["stripe_js"]) as response:
        assert response.status == 200


async def test_requests_without_the_cookie_are_refused(demo: Demo) -> None:
    async with aiohttp.ClientSession() as stranger:
        for cookies in ({}, {"paidup_demo": "forged"}):
            async with stranger.get(f"{demo.url}/api/credits", cookies=cookies) as response:
                assert response.status == 401


async def test_a_whole_purchase_by_http_and_websocket(demo: Demo, browser: aiohttp.ClientSession) -> None:
    """Refused without credits, paid with 3DS, notified by WebSocket, spent."""
    poster = {"poster": "first"}
    async with browser.post(f"{demo.url}/demo/posters", json=poster) as response:
        assert response.status == 402
    told = await bought(demo, browser)
    assert (told["credits_granted"], told["balance"]) == (500, 500)
    for _ in range(2):
        async with browser.post(f"{demo.url}/demo/posters", json=poster) as response:
            assert (response.status, await response.json()) == (200, {"balance": 490, "seed": "first"})


async def test_the_demos_page_cannot_spend_by_itself(demo: Demo, browser: aiohttp.ClientSession) -> None:
    """Its cookie has the browser scope: only the demo's backend spends, for pages of its own origin."""
    spending = {"credits": 1, "key": "mine"}
    async with browser.post(f"{demo.url}/api/credits/spend", json=spending) as response:
        assert (response.status, (await response.json())["scope"]) == (403, "backend")
    elsewhere = {"Origin": "http://evil.example"}
    async with browser.post(f"{demo.url}/demo/posters", json={"poster": "a"}, headers=elsewhere) as response:
        assert (response.status, (await response.json())["type"].rpartition("/")[2]) == (403, "not-allowed")


async def test_a_restart_keeps_data_and_leaves_no_process(demo: Demo, browser: aiohttp.ClientSession) -> None:
    """Balances, tickets, cookies and the sandbox survive a restart; processes and ports do not."""
    await bought(demo, browser)
    assert demo.child is not None
    started = descendants(demo.child.process.pid)
    roles = ("paidup_demo.sandbox", "paidup_demo.app", "valkey")
    assert [role for role in roles if not any(role in command for command in started.values())] == []
    assert demo.stop() == 0
    assert "Stopped." in demo.child.output
    assert "━" not in demo.child.output
    await wait_until(lambda: not [started[pid] for pid in started if alive(pid)])
    for port in (demo.port, demo.sandbox_port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    demo.start()
    assert await balance(demo, browser) == 500
    customers = (await StripeSide(demo.sandbox, browser).api("GET", "customers?limit=100"))["data"]
    assert customers, "the sandbox has forgotten its customers"
    async with browser.post(f"{demo.url}/api/subscriptions", json={"plan": "pro"}) as response:
        assert (response.status, (await response.json())["type"].rpartition("/")[2]) == (
            409,
            "already-subscribed",
        )


async def test_only_the_owner_can_read_the_demos_secrets(demo: Demo) -> None:
    assert (demo.home / ".paidup" / "secrets.json").stat().st_mode & 0o777 == 0o600


def refused(home: Path, **environment: str) -> tuple[int, str]:
    """Return the exit code and the output of a demo that does not start."""
    child = Child(DEMO, environment, home / "refused.log", cwd=home)
    return child.process.wait(30), child.output


def test_live_keys_are_refused_before_anything_is_started(home: Path) -> None:
    """In particular before products are created in that account."""
    code, words = refused(
        home,
        STRIPE_SECRET_KEY="sk_live_of_the_tests_and_of_no_account",
        STRIPE_PUBLISHABLE_KEY="pk_live_of_the_tests_and_of_no_account",
        STRIPE_WEBHOOK_SECRET=WEBHOOK_SECRET,
    )
    assert code == 2
    assert "test keys only" in words
    assert not (home / ".paidup" / "paidup.db").exists()


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_taken_port_gives_a_clear_error(home: Path) -> None:
    with taken_port() as port:
        code, words = refused(home, PORT=str(port), SANDBOX_PORT=str(free_port()))
    assert code == 2
    assert f"PORT: 127.0.0.1:{port} is in use by another program" in " ".join(words.split())
    assert "Traceback" not in words


@pytest.fixture
def ports(home: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a demo in this process, for errors before it starts anything."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("PORT", str(free_port()))
    monkeypatch.setenv("SANDBOX_PORT", str(free_port()))
    return monkeypatch


@pytest.mark.parametrize("name", ["PORT", "SANDBOX_PORT"])
async def test_each_taken_port_is_named(ports: pytest.MonkeyPatch, name: str) -> None:
    with taken_port() as port:
        ports.setenv(name, str(port))
        with pytest.raises(ConfigurationError, match=f"{name}: 127.0.0.1:{port} is in use"):
            await run_demo()


async def test_the_settings_of_paidup_init_start_the_demos_own_sandbox(
    ports: pytest.MonkeyPatch,
) -> None:
    """Their key is the sandbox's, of no account: the port of `paidup sandbox` is not needed."""
    init(sandbox=True)
    assert "STRIPE_SECRET_KEY" not in os.environ
    assert "SANDBOX_DATA" in demo_environment(read_env_file(ENV_FILE))
    with taken_port() as port:
        ports.setenv("SANDBOX_PORT", str(port))
        with pytest.raises(ConfigurationError, match=f"SANDBOX_PORT: 127.0.0.1:{port} is in use"):
            await run_demo()


@pytest.mark.parametrize("name", ["PORT", "SANDBOX_PORT"])
async def test_each_invalid_port_is_named(ports: pytest.MonkeyPatch, name: str) -> None:
    ports.setenv(name, "eighty")
    with pytest.raises(ConfigurationError, match=name):
        await run_demo()


async def test_the_demo_ends_when_one_of_its_processes_dies(home: Path) -> None:
    """Without its sandbox, the demo would not work. On a terminal, its start shows progress."""
    demo = Demo(home)
    child = demo.start(on_terminal=True)
    await wait_until(lambda: "Press Ctrl-C" in child.output)
    assert "━━━" in child.output.partition("Paidup demo:")[0]
    started = descendants(child.process.pid)
    (sandbox,) = [pid for pid, command in started.items() if "paidup_demo.sandbox" in command]
    os.kill(sandbox, signal.SIGKILL)
    await wait_until(lambda: child.process.poll() is not None, within=20)
    assert child.process.returncode == 1
    await wait_until(lambda: "the sandbox exited" in " ".join(child.output.split()))
    await wait_until(lambda: not [started[pid] for pid in started if alive(pid)])
