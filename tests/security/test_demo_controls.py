"""The demo and the sandbox listen on the developer's machine, where any page can send them requests."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from starlette.routing import Route
from yarl import URL

from paidup_demo.app import COOKIE, create_demo
from paidup_demo.sandbox.app import OPERATIONS
from paidup_demo.sandbox.controls import CONTROLS
from paidup_demo.sandbox.guard import is_loopback
from paidup_demo.sandbox.settings import SandboxSettings, SettingsError
from tests.conftest import World
from tests.sandbox.rig import SECRET, Json, Receiver, Sandbox, Server
from tests.sandbox.rig import settings as sandbox_settings
from tests.support.paidup import ORIGIN, Paidup, serving, settings
from tests.support.processes import free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.xdist_group("demo-controls")  # one sandbox for all of them

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
PAGES = [
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:9"},
    {"Origin": "null"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
"""What a browser says of a page that is not ours; another port of this machine is the same site."""
ID = "pi_1"


@pytest.fixture
async def demo(world: World) -> Paidup:
    """The demo in this process, with the tests' sandbox as Stripe."""
    port = free_port()
    configured = settings(**world.given(port=port))
    app = create_demo(configured)
    return await world.stack.enter_async_context(serving(configured, world.http, port, app=app))


@pytest.fixture(scope="module")
def sandbox_process() -> Iterator[Server]:
    server = Server(sandbox_settings()).start()
    yield server
    server.stop()


@pytest.fixture
async def sandbox(sandbox_process: Server) -> AsyncIterator[Sandbox]:
    sandbox = Sandbox(sandbox_process.url)
    await sandbox.control("/reset")
    yield sandbox
    await sandbox.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    await receiver.start()
    yield receiver
    await receiver.stop()


# Cross-site request forgery


@SQLITE
async def test_no_other_page_changes_anything_in_the_demo(demo: Paidup) -> None:
    """Every route that takes a POST, the product's and the demo's, refuses it before it asks who it is."""
    assert demo._app is not None
    routes = [each for each in demo._app.routes if isinstance(each, Route) and "POST" in (each.methods or ())]
    paths = {route.path.replace("{invoice}", "in_1") for route in routes}
    assert {"/demo/customer", "/demo/clock", "/demo/timeline/faults", "/api/subscriptions"} <= paths
    async with aiohttp.ClientSession() as browser:
        for path in paths:
            for headers in PAGES:
                async with browser.post(demo.url + path, data=b"", headers=headers) as response:
                    assert (path, response.status) == (path, 403)
                    assert COOKIE not in response.cookies


@SQLITE
async def test_the_demos_own_page_and_programs_change_things(demo: Paidup) -> None:
    async with aiohttp.ClientSession() as browser:
        for headers in ({"Origin": ORIGIN}, {"Sec-Fetch-Site": "same-origin"}, {}):
            async with browser.post(f"{demo.url}/demo/customer", headers=headers) as response:
                assert response.status == 204
                assert COOKIE in response.cookies


@pytest.mark.parametrize("path", [path for verb, path, _ in CONTROLS if verb == "POST"])
async def test_no_other_page_turns_a_control_of_the_sandbox(sandbox: Sandbox, path: str) -> None:
    for headers in PAGES:
        url = "/sandbox" + path.replace("{id}", ID)
        assert (await sandbox.call("POST", url, headers=headers)).status == 403


@pytest.mark.parametrize("route", [each.route for each in OPERATIONS if each.method == "POST"])
async def test_no_other_page_calls_the_api_with_a_secret_key(sandbox: Sandbox, route: str) -> None:
    """A form may hold the key, or the address its user name: neither needs the browser's permission."""
    url = sandbox.url + route.replace("{id}", ID)
    basic = {"Authorization": aiohttp.encode_basic_auth("sk_test_guessed", "")}
    for headers in PAGES:
        async with sandbox.http.post(url, data={"key": "sk_test_guessed"}, headers=headers) as response:
            assert response.status == 401
        async with sandbox.http.post(url, data={}, headers={**headers, **basic}) as response:
            assert response.status == 401


async def test_pages_are_framed_by_those_that_may_use_them(sandbox: Sandbox) -> None:
    async with sandbox.http.get(f"{sandbox.url}/panel") as response:
        assert response.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    signup = await sandbox.subscribe()
    await signup.confirm("pm_card_authenticationRequired")
    async with sandbox.http.get(f"{sandbox.url}/challenge/{signup.intent}") as response:
        assert response.status == 200
        framing = "frame-ancestors 'self' http://127.0.0.1:8000 http://localhost:8000"
        assert response.headers["Content-Security-Policy"] == framing


# DNS rebinding: a page's own host name gets this machine's address, and its requests are same-origin


@SQLITE
@pytest.mark.parametrize("path", ["/", "/demo/config.json", "/demo/timeline", "/api/plans", "/metrics"])
async def test_the_demo_answers_under_its_own_name_only(demo: Paidup, path: str) -> None:
    port = URL(demo.url).port
    async with aiohttp.ClientSession() as browser:
        for host in (f"evil.example:{port}", "127.0.0.1.evil.example", "evil.example", "127.0.0.1@evil"):
            headers = {"Host": host, "Origin": f"http://{host}"}
            async with browser.get(demo.url + path, headers=headers) as response:
                assert response.status == 400
                assert COOKIE not in response.cookies
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await browser.ws_connect(f"{demo.url}/ws/account", headers={"Host": f"evil.example:{port}"})
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", "app.example.test"):
            async with browser.get(f"{demo.url}/", headers={"Host": host}) as response:
                assert response.status == 200


@pytest.mark.parametrize("path", ["/", "/panel", "/sandbox/events", "/v1/customers", "/stripe.js"])
async def test_the_sandbox_answers_under_its_own_name_only(sandbox: Sandbox, path: str) -> None:
    for method in ("GET", "POST"):
        headers = {
            "Host": "evil.example",
            "Origin": "http://evil.example",
            "Authorization": "Bearer sk_test_1",
        }
        async with sandbox.http.request(method, sandbox.url + path, headers=headers) as response:
            assert response.status == 400


# Requests to an address that somebody names


async def test_webhooks_go_to_this_machine_only(
    sandbox: Sandbox, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint may be registered by anybody who has a test key: it is no way into the network around.

    What counts is the address that is connected to, whatever name it had when it was registered.
    """

    async def resolve(_: Any, host: str, port: int = 0, family: int = 0) -> list[Json]:
        found = {"hostname": host, "host": "0.0.0.0", "port": port, "family": socket.AF_INET}
        return [{**found, "proto": 0, "flags": socket.AI_NUMERICHOST}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    port = URL(receiver.url).port  # 0.0.0.0 is whatever listens here: it would reach the receiver
    hosts = (f"0.0.0.0:{port}", f"rebound.example:{port}", "169.254.169.254", "[::ffff:169.254.169.254]")
    urls = [f"http://{host}/hook" for host in hosts]
    for url in urls:
        await sandbox.control("/webhook_endpoints", {"url": url, "secret": SECRET})
    await sandbox.control("/webhook_endpoints", {"url": receiver.url, "secret": SECRET})
    await sandbox.v1.customers.create_async({"email": "jenny@example.com"})

    async def deliveries() -> list[Json]:
        shown = (await sandbox.call("GET", "/sandbox/events")).body
        return list(shown["events"][0]["deliveries"])

    async def all_over() -> bool:
        return {each["status"] for each in await deliveries()} == {"failed", "delivered"}

    await wait_until(all_over, within=60)
    found = {each["url"]: each for each in await deliveries()}
    assert found.pop(receiver.url)["status"] == "delivered"
    assert set(found) == set(urls)
    for each in found.values():
        assert all("SANDBOX_WEBHOOK_HOSTS" in attempt["error"] for attempt in each["attempts"])
    assert len(receiver.received) == 1


async def test_webhooks_go_to_the_hosts_that_were_named_at_the_start(receiver: Receiver) -> None:
    url = receiver.url.replace("127.0.0.1", "0.0.0.0")
    server = Server(sandbox_settings(webhook_hosts=("0.0.0.0",))).start()
    sandbox = Sandbox(server.url)
    await sandbox.control("/webhook_endpoints", {"url": url, "secret": SECRET})
    await sandbox.v1.customers.create_async({"email": "jenny@example.com"})
    await wait_until(lambda: len(receiver.received) == 1, within=60)
    await sandbox.close()
    server.stop()


def test_hosts_are_named_in_the_environment() -> None:
    given = {"SANDBOX_WEBHOOK_HOSTS": "Shop.example, 192.0.2.7", "SANDBOX_ALLOWED_HOSTS": "stripe"}
    read = SandboxSettings.from_env(given)
    assert read.delivers_to("shop.example")
    assert read.delivers_to("192.0.2.7")
    assert not read.delivers_to("evil.example")
    assert read.allowed_hosts == ("stripe",)
    for name in ("SANDBOX_WEBHOOK_HOSTS", "SANDBOX_ALLOWED_HOSTS"):
        for text in ("*", "http://shop.example"):
            with pytest.raises(SettingsError, match=name):
                SandboxSettings.from_env({name: text})


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("::ffff:169.254.169.254", False),
        ("fe80::1%eth0", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_only_loopback_addresses_are_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) == here


async def test_the_sandbox_has_as_many_endpoints_as_stripe_allows(sandbox: Sandbox) -> None:
    """Each multiplies what an event costs; one that is deleted frees its place."""
    form = {"url": "http://127.0.0.1:9/hook", "enabled_events[]": "customer.created"}
    made = [await sandbox.raw("POST", "/v1/webhook_endpoints", data=form) for _ in range(17)]
    assert [each.status for each in made] == [200] * 16 + [400]
    await sandbox.raw("DELETE", f"/v1/webhook_endpoints/{made[0].body['id']}")
    assert (await sandbox.raw("POST", "/v1/webhook_endpoints", data=form)).status == 200
