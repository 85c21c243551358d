"""nginx, Caddy and HAProxy with their files in deploy/, in front of two servers: what passes through."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import World
from tests.support.contracts import checked_session
from tests.support.event_streams import streaming
from tests.support.outgoing import certify
from tests.support.paidup import Paidup, environment, serving_process, status_with
from tests.support.processes import ROOT, Child, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)

NGINX = """
daemon off; master_process off; pid pid; error_log stderr warn;
events {{}}
http {{
    access_log off; include {folder}/site.conf;
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
}}
"""


def nginx(text: str, port: int, folder: Path) -> tuple[str, ...]:
    """Its file is included in a whole configuration."""
    site = text.replace("/etc/paidup/tls", str(folder)).replace("listen 443", f"listen {port}")
    (folder / "site.conf").write_text(site)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder))
    return "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")


def caddy(text: str, port: int, folder: Path) -> tuple[str, ...]:
    """With the test's certificate, instead of one that Caddy would ask for."""
    tls = f"tls {folder}/fullchain.pem {folder}/privkey.pem"
    site = text.replace("{\n\tservers {", "{\n\tadmin off\n\tauto_https off\n\tservers {", 1)
    site = site.replace("billing.example.com {", f"https://127.0.0.1:{port} {{\n\t{tls}", 1)
    (folder / "Caddyfile").write_text(site)
    return "caddy", "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")


def haproxy(text: str, port: int, folder: Path) -> tuple[str, ...]:
    pem = (folder / "fullchain.pem").read_text() + (folder / "privkey.pem").read_text()
    (folder / "site.pem").write_text(pem)
    site = text.replace("/etc/paidup/tls", str(folder)).replace("bind :443", f"bind 127.0.0.1:{port}")
    # As many as the limit on open files allows here.
    (folder / "haproxy.cfg").write_text(site.replace("maxconn 20000", "maxconn 500"))
    return "haproxy", "-db", "-f", str(folder / "haproxy.cfg")


PROXIES = {"nginx.conf": nginx, "Caddyfile": caddy, "haproxy.cfg": haproxy}


@dataclass(frozen=True)
class Site:
    """Two servers behind nginx."""

    world: World
    url: str
    trusted: ssl.SSLContext
    servers: dict[int, Child]
    """Servers by port."""

    @asynccontextmanager
    async def browser(self, address: str = "127.0.0.1") -> AsyncIterator[Paidup]:
        """The site as seen from this address."""
        connector = aiohttp.TCPConnector(ssl=self.trusted, local_addr=(address, 0))
        async with checked_session(connector=connector) as http:
            yield Paidup(self.url, http)


@pytest.fixture(params=PROXIES)
async def site(world: World, request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    if shutil.which(PROXIES[request.param].__name__, path=path) is None:
        pytest.skip(f"{PROXIES[request.param].__name__} is not installed")
    servers = {}
    for port in (free_port(), free_port()):
        env = environment(**world.given(port=port, max_sockets_per_address=1, shutdown_drain_s=1))
        servers[port] = serving_process(env, port, tmp_path / f"server-{port}.log", forked=True)
        world.stack.callback(servers[port].stop)
    certificate, _ = certify(tmp_path, ["127.0.0.1"])
    port = free_port()
    text = (ROOT / "deploy" / request.param).read_text()
    for written, real in zip(("8000", "8001"), servers, strict=True):
        assert text.count(f"127.0.0.1:{written}") == 1
        text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{real}")
    command = PROXIES[request.param](text, port, tmp_path)
    world.stack.enter_context(_running(command, path, tmp_path))
    found = Site(world, f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=certificate), servers)
    async with found.browser() as browser:
        await wait_until(lambda: _answers(browser))
    return found


@contextmanager
def _running(command: tuple[str, ...], path: str, folder: Path) -> Iterator[None]:
    with (folder / "proxy.log").open("wb") as log:
        env = {"PATH": path, "HOME": str(folder)}  # Caddy keeps its state there
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


async def _answers(paidup: Paidup) -> bool:
    try:
        return (await paidup.get("/api/plans"))[0] == 200
    except aiohttp.ClientConnectionError:
        return False


async def test_only_requests_of_customers_and_stripe_pass(site: Site) -> None:
    """A purchase over TLS, its WebSocket, a stream and a webhook pass; internal pages do not."""
    stripe_side = site.world.stripe_side
    await stripe_side.conditions(webhook_drop=True)
    async with site.browser() as paidup:
        ada = paidup.customer()
        purchase = await ada.buy()
        await stripe_side.confirm(purchase["client_secret"])
        async with ada.watch(purchase) as socket:
            told = await status_with(socket, status="active")
        assert told["via"] == "verification"
        async with streaming(ada, "account/events", await ada.account_ticket()) as stream:
            assert (await stream.until(type="balance"))["balance"] == 2000, "no buffer holds an event back"
        event = json.dumps(await stripe_side.event("invoice.paid")).encode()
        status, answer = await paidup.webhook(event)
        assert (status, answer["outcome"]) == (200, "already_settled")
        status, answer = await paidup.webhook(b" " * 600_000)
        assert (status, answer["type"].rpartition("/")[2]) == (413, "too-large")
        status, index = await paidup.get("/sdk.json")
        assert (status, "paidup.js" in index["files"]) == (200, True)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=site.trusted)) as http:
        for module in index["files"].values():
            async with http.get(site.url + module["path"]) as response:
                assert (response.status, response.content_type) == (200, "text/javascript")
        async with http.get(f"{site.url}/activate?session_id=cs_test_unknown") as page:
            assert (page.status, page.content_type) == (404, "text/html"), "the return page is Paidup's"
        async with http.get(f"{site.url}/activate.js") as script:
            assert (script.status, script.content_type) == (200, "text/javascript")
        for path in (
            "/activate/more",
            "/metrics",
            "/readyz",
            "/healthz",
            "/operators",
            "/",
            "/apis",
            "/webhooks/stripe/more",
        ):
            async with http.get(site.url + path) as refused:
                assert (path, refused.status) == (path, 404)
                assert refused.content_type != "application/problem+json", "not by Paidup"


async def test_no_request_fails_while_a_server_is_replaced(site: Site) -> None:
    """S30: every request is answered while one server drains and after; addresses stay distinct."""
    async with site.browser() as paidup, site.browser("127.0.0.2") as elsewhere:
        ada = paidup.customer()
        purchase = await ada.buy()
        leaving = asyncio.create_task(asyncio.to_thread(next(iter(site.servers.values())).stop))
        answered = 0
        while answered < 50 or not leaving.done():
            assert (await paidup.get("/api/plans"))[0] == 200
            answered += 1
        assert await leaving == 0
        async with ada.watch(purchase), elsewhere.customer().watch(purchase):
            forged = {"X-Forwarded-For": "192.0.2.1"}
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                async with elsewhere.customer().watch(purchase, **forged):
                    pass
