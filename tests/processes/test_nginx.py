"""nginx with deploy/nginx.conf in front of two servers: what passes, and what stays internal."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.conftest import World
from tests.support.contracts import checked_session
from tests.support.paidup import Paidup, environment, serving_process, status_with
from tests.support.processes import ROOT, Child, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)

SITE = ROOT / "deploy" / "nginx.conf"
AROUND = """
daemon off; master_process off; pid pid; error_log stderr warn;
events {{}}
http {{
    access_log off; include {site};
    client_body_temp_path body; proxy_temp_path proxy;
    fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
}}
"""


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


@pytest.fixture
def nginx() -> str:
    found = shutil.which("nginx")
    if found is None or shutil.which("openssl") is None:
        pytest.skip("there is no nginx to ask")
    return found


@pytest.fixture
async def site(world: World, nginx: str, tmp_path: Path) -> Site:
    servers = {}
    for port in (free_port(), free_port()):
        env = environment(**world.given(port=port, max_sockets_per_address=1, shutdown_drain_s=1))
        servers[port] = serving_process(env, port, tmp_path / f"server-{port}.log", forked=True)
        world.stack.callback(servers[port].stop)
    certificate = tmp_path / "fullchain.pem"
    _certify(certificate, tmp_path / "privkey.pem")
    port = free_port()
    text = SITE.read_text().replace("/etc/paidup/tls", str(tmp_path)).replace("listen 443", f"listen {port}")
    for written, real in zip(("8000", "8001"), servers, strict=True):
        text = text.replace(f"127.0.0.1:{written}", f"127.0.0.1:{real}")
    (tmp_path / "site.conf").write_text(text)
    (tmp_path / "nginx.conf").write_text(AROUND.format(site=tmp_path / "site.conf"))
    front = _Nginx(nginx, tmp_path)
    world.stack.callback(front.stop)
    found = Site(world, f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=certificate), servers)
    async with found.browser() as browser:
        await wait_until(lambda: _answers(browser))
    return found


class _Nginx:
    def __init__(self, program: str, folder: Path) -> None:
        command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        with (folder / "nginx.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


def _certify(certificate: Path, key: Path) -> None:
    """Create a self-signed certificate, valid for a day."""
    options = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    names = ["-subj", "/CN=paidup", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run(["openssl", "req", "-x509", *options, *names, *files], check=True, capture_output=True)


async def _answers(paidup: Paidup) -> bool:
    try:
        return (await paidup.get("/api/plans"))[0] == 200
    except aiohttp.ClientConnectionError:
        return False


async def test_only_requests_of_customers_and_stripe_pass(site: Site) -> None:
    """A purchase over TLS, its WebSocket and a webhook pass; internal pages do not."""
    stripe_side = site.world.stripe_side
    await stripe_side.conditions(webhook_drop=True)
    async with site.browser() as paidup:
        ada = paidup.customer()
        purchase = await ada.buy()
        await stripe_side.confirm(purchase["client_secret"])
        async with ada.watch(purchase) as socket:
            told = await status_with(socket, status="active")
        assert told["via"] == "verification"
        event = json.dumps(await stripe_side.event("invoice.paid")).encode()
        status, answer = await paidup.webhook(event)
        assert (status, answer["outcome"]) == (200, "already_settled")
        status, answer = await paidup.webhook(b" " * 600_000)
        assert (status, answer["type"].rpartition("/")[2]) == (413, "too-large")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=site.trusted)) as http:
        for path in ("/metrics", "/readyz", "/healthz", "/operators", "/", "/apis", "/webhooks/stripe/more"):
            async with http.get(site.url + path) as refused:
                assert (path, refused.status, refused.content_type) == (path, 404, "text/html")


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
