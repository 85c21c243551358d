"""Forged `Host` and `X-Forwarded-*` headers change nothing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import aiohttp
import pytest

from paidup.errors import ConfigurationError
from paidup.web.addresses import address_key
from tests.conftest import World
from tests.support.paidup import Customer, settings

SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
ELSEWHERE = "evil.example"
FORGED = {
    "Host": f"{ELSEWHERE}:81",
    "X-Forwarded-Host": ELSEWHERE,
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "203.0.113.77",
    "X-Forwarded-Prefix": f"/{ELSEWHERE}",
    "Forwarded": f"for=203.0.113.77;host={ELSEWHERE};proto=https",
}


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:DB8:0:0:ffff:ffff:ffff:ffff", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("fe80::2%eth1", "fe80::/64"),
        ("", ""),
        ("unix:", ""),
        ("192.0.2.1, 192.0.2.2", ""),
        ("1" * 100_000, ""),
    ],
)
def test_addresses_are_counted_by_ipv4_address_or_ipv6_subnet(host: str, counted: str) -> None:
    assert address_key(host) == counted


@SQLITE
async def test_an_ipv6_subnet_shares_its_connection_limit(world: World) -> None:
    """S64: a /64 counts as one client, and so does an IPv4 address in any notation."""
    paidup = await world.server(webhooks=False, max_sockets_per_address=1)
    ada = paidup.customer()
    purchase = await ada.buy()
    opened = [
        await _opens(world, ada, purchase, address)
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1")
    ]
    assert opened == [True, False, True, True, False]


@SQLITE
async def test_an_untrusted_peer_is_counted_by_its_own_address(world: World) -> None:
    """S64: a client that sends another address with each request gets no higher limit."""
    paidup = await world.server(webhooks=False, max_sockets_per_address=1, forwarded_allow_ips="192.0.2.9")
    ada = paidup.customer()
    purchase = await ada.buy()
    assert await _opens(world, ada, purchase, "192.0.2.1")
    assert not await _opens(world, ada, purchase, "192.0.2.2")


@SQLITE
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/plans"),
        ("GET", "/api/plans/"),
        ("GET", "/api/credits"),
        ("GET", "/api/credits/?next=//evil.example"),
        ("GET", "/api//evil.example/"),
        ("POST", "/api/subscriptions"),
        ("POST", "/api/credits/spend/"),
        ("POST", "/webhooks/stripe/"),
        ("GET", "/operators/"),
        ("GET", "/healthz"),
        ("GET", "/ws/account/"),
    ],
)
async def test_no_forged_header_changes_a_response(
    world: World, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture, method: str, path: str
) -> None:
    """Neither status, headers, body nor logs. Nothing redirects."""
    paidup = await world.server(
        webhooks=False, forwarded_allow_ips="192.0.2.9", operator_token="operator-token-of-the-tests"
    )
    authorization = {"Authorization": f"Bearer {paidup.customer().token()}"}

    async def answer(headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        sent = {**authorization, "X-Request-Id": "the-same-each-time", **headers}
        async with aiohttp.request(
            method, paidup.url + path, headers=sent, allow_redirects=False
        ) as response:
            kept = {name: value for name, value in response.headers.items() if name.lower() != "date"}
            return response.status, kept, await response.read()

    honest, forged = await answer({}), await answer(FORGED)
    assert forged == honest
    assert honest[0] not in range(300, 400)
    assert ELSEWHERE not in str(forged[1])
    assert not [each for each in caplog.messages if ELSEWHERE in each or "203.0.113.77" in each]


@pytest.mark.parametrize("text", ["*", "0.0.0.0/0", "::/0", "10.0.0.1,*"])
def test_trusting_every_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"FORWARDED_ALLOW_IPS: .* would trust any client"):
        settings(forwarded_allow_ips=text)


@pytest.mark.parametrize("text", ["proxy.internal", "10.0.0.1/8", "10.0.0.300", "10.0.0.1 10.0.0.2"])
def test_an_invalid_proxy_address_is_refused(text: str) -> None:
    """uvicorn would treat it as a literal that matches no peer."""
    with pytest.raises(ConfigurationError, match=r"FORWARDED_ALLOW_IPS: .* is not an address or network"):
        settings(forwarded_allow_ips=text)


def test_proxies_are_addresses_and_networks() -> None:
    assert settings(forwarded_allow_ips="10.0.0.0/8, 2001:db8::7").proxies == ["10.0.0.0/8", "2001:db8::7"]


async def _opens(world: World, customer: Customer, purchase: Any, forwarded: str) -> bool:
    """Whether a socket opens if a proxy forwards it for `forwarded`. It stays open."""
    with suppress(aiohttp.WSServerHandshakeError):
        await world.stack.enter_async_context(customer.watch(purchase, **{"X-Forwarded-For": forwarded}))
        return True
    return False
