"""Pages of other origins: what a browser is told about the API, and which handshakes are accepted."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from paidup.domain.messages import SUBPROTOCOL
from tests.conftest import World
from tests.support.paidup import Paidup

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

APP = "https://app.example.com"
EXPOSED = "Retry-After, X-Request-Id, Paidup-Api-Version, ETag, Link"
ALLOW, EXPOSE = "Access-Control-Allow-Origin", "Access-Control-Expose-Headers"
CREDENTIALS = "Access-Control-Allow-Credentials"


class Page:
    """A page of some origin, in a browser that asks before it calls (Fetch standard)."""

    def __init__(self, paidup: Paidup, http: aiohttp.ClientSession, origin: str) -> None:
        self._url = f"{paidup.url}/api/account/ticket"
        self._paidup = paidup
        self._http = http
        self.origin = origin

    async def preflight(self, headers: str = "authorization,content-type", method: str = "POST") -> Any:
        asked = {
            "Origin": self.origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": headers,
        }
        async with self._http.options(self._url, headers=asked) as response:
            return response.status == 200 and response.headers.get(ALLOW) == self.origin, response.headers

    async def post(self) -> tuple[int, Any]:
        token = self._paidup.customer().token()
        headers = {"Origin": self.origin, "Authorization": f"Bearer {token}"}
        async with self._http.post(self._url, json={}, headers=headers) as response:
            return response.status, response.headers

    async def opens_a_socket(self) -> bool:
        ticket = await self._paidup.customer().account_ticket()
        url, protocols = f"{self._paidup.url}/ws/account", (SUBPROTOCOL, ticket)
        with suppress(aiohttp.WSServerHandshakeError):
            async with self._http.ws_connect(url, protocols=protocols, origin=self.origin):
                return True
        return False


@pytest.fixture
async def plain() -> Any:
    """A session without the contracts of our API: preflights are none of its operations."""
    async with aiohttp.ClientSession() as session:
        yield session


async def test_listed_pages_call_the_api_and_others_do_not(
    world: World, plain: aiohttp.ClientSession
) -> None:
    listed = f"{APP}:443, https://*.preview.example.com, capacitor://localhost"
    server = await world.server(webhooks=False, allowed_origins=listed)
    for origin in (APP, "https://pr-7.preview.example.com", "capacitor://localhost"):
        page = Page(server, plain, origin)
        allowed, headers = await page.preflight()
        assert allowed
        assert CREDENTIALS not in headers
        status, headers = await page.post()
        assert (status, headers[ALLOW], headers[EXPOSE]) == (200, origin, EXPOSED)
        assert "Origin" in headers["Vary"]
        assert await page.opens_a_socket()
    for origin in ("https://evil.example", "https://preview.example.com", "capacitor://evil", "null"):
        page = Page(server, plain, origin)
        assert not (await page.preflight())[0]
        status, headers = await page.post()
        assert (status, ALLOW in headers) == (403, False)
        assert not await page.opens_a_socket()


async def test_only_what_the_api_has_may_be_asked_for(world: World, plain: aiohttp.ClientSession) -> None:
    server = await world.server(webhooks=False, allowed_origins=APP)
    page = Page(server, plain, APP)
    assert (await page.preflight())[0]
    assert (await page.preflight("authorization,if-none-match", "GET"))[0], "entitlements that a page has"
    assert (await page.preflight("paidup-ticket", "GET"))[0], "a stream"
    assert not (await page.preflight(method="DELETE"))[0]
    assert not (await page.preflight("authorization,x-other"))[0]


async def test_cookies_and_further_headers_are_allowed_by_settings(
    world: World, plain: aiohttp.ClientSession
) -> None:
    server = await world.server(
        webhooks=False,
        allowed_origins=APP,
        cors_credentials=True,
        cors_allowed_headers="sentry-trace, baggage",
        cors_exposed_headers="Retry-After, Server-Timing",
    )
    page = Page(server, plain, APP)
    allowed, headers = await page.preflight("authorization,baggage,content-type,sentry-trace")
    assert (allowed, headers[CREDENTIALS]) == (True, "true")
    assert (await page.post())[1][EXPOSE] == "Retry-After, Server-Timing"
    assert not (await page.preflight("authorization,x-other"))[0]
    other = Page(server, plain, "https://evil.example")
    assert ALLOW not in (await other.post())[1], "credentials are for listed origins only"


async def test_the_api_may_be_for_other_pages_than_the_sockets(
    world: World, plain: aiohttp.ClientSession
) -> None:
    server = await world.server(
        webhooks=False, allowed_origins=APP, cors_origins="https://admin.example.com, https://*.example.org"
    )
    for origin in ("https://admin.example.com", "https://a.example.org"):
        page = Page(server, plain, origin)
        assert (await page.preflight())[0]
        assert (await page.post())[0] == 200
        assert not await page.opens_a_socket()
    own = Page(server, plain, APP)
    assert not (await own.preflight())[0]
    assert (await own.post())[0] == 200, "a page behind the same proxy sends its origin as well"
    assert await own.opens_a_socket()


async def test_a_proxy_may_add_the_headers_instead(world: World, plain: aiohttp.ClientSession) -> None:
    """Browsers refuse a header that is there twice."""
    server = await world.server(webhooks=False, allowed_origins=APP, cors_origins="none")
    page = Page(server, plain, APP)
    status, headers = await page.post()
    assert (status, ALLOW in headers) == (200, False)
    assert await page.opens_a_socket()
