"""Stripe and the identity provider behind a proxy and a CA of the company's own."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from paidup.key_sets import KeySetUnavailable, fetch_keys
from paidup.operations.doctor.network_checks import check_public_url
from paidup.operations.doctor.report import State
from paidup.operations.webhook_probe import endpoint_notes
from paidup.runtime.outgoing import Outgoing
from tests.conftest import World
from tests.support.key_sets import jwk, provider
from tests.support.outgoing import ConnectProxy, certify, proxy, tls_in_front_of
from tests.support.paidup import WEBHOOK_SECRET, settings

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

USER, PASSWORD = "paidup", "p:ss w/rd"
IN_URL = "paidup:p%3Ass%20w%2Frd@"


@dataclass(frozen=True)
class Network:
    """Stripe's side behind TLS, whose CA the system does not know, and a proxy that wants a password."""

    stripe: str
    ca_file: str
    proxy: ConnectProxy

    @property
    def proxy_url(self) -> str:
        return self.proxy.url.replace("://", f"://{IN_URL}")

    def given(self, **changes: Any) -> dict[str, Any]:
        return {
            "stripe_api_base": self.stripe,
            "ssl_cert_file": self.ca_file,
            "https_proxy": self.proxy_url,
            **changes,
        }


@pytest.fixture
async def network(world: World, tmp_path: Path) -> AsyncIterator[Network]:
    certificate, key = certify(tmp_path, ["localhost"])
    port = urlsplit(world.stripe_side.url).port
    assert port is not None
    async with proxy(USER, PASSWORD) as through, tls_in_front_of(port, certificate, key) as url:
        yield Network(url, str(certificate), through)


async def test_stripe_is_called_through_the_proxy(world: World, network: Network) -> None:
    """Also by the verification of a payment; nothing goes past the proxy."""
    server = await world.server(webhooks=False, **network.given())
    ada = server.customer()
    purchase = await ada.buy()
    async with ada.watch(purchase) as socket:
        await world.stripe_side.confirm(purchase["client_secret"])
        while (await socket.receive_json(timeout=20)).get("status") != "active":
            pass
    assert set(network.proxy.tunnels) == {network.stripe.removeprefix("https://")}


@pytest.mark.parametrize("no_proxy", ["localhost", "stripe.test, .localhost", "*"])
async def test_hosts_of_no_proxy_are_reached_directly(world: World, network: Network, no_proxy: str) -> None:
    server = await world.server(webhooks=False, **network.given(no_proxy=no_proxy))
    await server.customer().buy()
    assert network.proxy.tunnels == []


async def test_nothing_is_sent_past_a_proxy_that_denies_it(
    world: World, network: Network, caplog: pytest.LogCaptureFixture
) -> None:
    """The customer gets a 503, and the proxy's password is in no log."""
    caplog.set_level(logging.DEBUG)
    wrong = network.proxy_url.replace("p%3Ass", "wrong%2Dpassword")
    server = await world.server(webhooks=False, **network.given(https_proxy=wrong))
    before = await world.stripe_side.calls()
    status, problem = await server.customer().call("POST", "/api/subscriptions", {"plan": "pro"})
    assert (status, problem["type"].rpartition("/")[2]) == (503, "stripe-unavailable")
    assert network.proxy.refused > 0
    assert await world.stripe_side.calls() == before
    assert "wrong" not in caplog.text


async def test_a_ca_that_is_not_trusted_is_refused(world: World, network: Network) -> None:
    server = await world.server(webhooks=False, **network.given(ssl_cert_file=""))
    status, _ = await server.customer().call("POST", "/api/subscriptions", {"plan": "pro"})
    assert status == 503


async def test_the_public_url_is_checked_through_the_proxy(world: World, network: Network) -> None:
    """The doctor's requests and its WebSocket, and the probe of stripe-setup."""
    server = await world.server(webhooks=False)
    port = urlsplit(server.url).port
    assert port is not None
    certificate, key = Path(network.ca_file), Path(network.ca_file).with_name("privkey.pem")
    async with tls_in_front_of(port, certificate, key) as url:
        given = settings(**world.given(**network.given()))
        check = await check_public_url(given, url)
        assert (check.state, check.text) == (State.OK, f"{url} responds, and WebSockets open")
        notes = await endpoint_notes(f"{url}/webhooks/stripe", WEBHOOK_SECRET, False, given.outgoing)
        assert notes == []
        assert set(network.proxy.tunnels) == {url.removeprefix("https://")}
        wrong = network.given(https_proxy=network.proxy_url.replace("paidup:", "mallory:"))
        check = await check_public_url(settings(**world.given(**wrong)), url)
        assert (check.state, "407" in check.text, "ss%20w" in check.text) == (State.FAIL, True, False)


async def test_the_key_set_is_fetched_through_the_proxy(network: Network, tmp_path: Path) -> None:
    outgoing = Outgoing(network.proxy_url, "", network.ca_file)
    key = jwk(ec.generate_private_key(ec.SECP256R1()), "1")
    certificate, private = Path(network.ca_file), tmp_path / "privkey.pem"
    async with provider(key) as told:
        port = urlsplit(told.url).port
        assert port is not None
        async with tls_in_front_of(port, certificate, private) as url:
            assert list(await fetch_keys(f"{url}/keys", outgoing)) == ["1"]
            assert network.proxy.tunnels == [url.removeprefix("https://")]
            with pytest.raises(KeySetUnavailable, match="Certificate"):
                await fetch_keys(f"{url}/keys", Outgoing(network.proxy_url))
            wrong = Outgoing(network.proxy_url.replace("paidup:", "mallory:"), "", network.ca_file)
            with pytest.raises(KeySetUnavailable) as refused:
                await fetch_keys(f"{url}/keys", wrong)
    assert "407" in str(refused.value)
    assert "ss%20w" not in str(refused.value)
