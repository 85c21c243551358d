"""The identity provider's key set, with a provider that rotates keys, hangs, fails and sends garbage."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm

from paidup import key_sets
from paidup.errors import IdentityUnavailable, NotAuthenticated
from paidup.key_sets import KeySet, KeySetUnavailable, parse_keys
from paidup.runtime.metrics import Metrics
from tests.conftest import World
from tests.support.key_sets import Provider, jwk, provider, signed
from tests.support.waiting import wait_until

OLD, NEW, STRANGE = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
RSA = rsa.generate_private_key(65537, 2048)
JUNK = 200
LIES = {
    "HTML": b"<html><body>Welcome to the airport's network</body></html>",
    "nothing": b"",
    "no keys": b'{"keys": []}',
    "keys that are none": b'{"keys": [1, null]}',
    "a list": b"[]",
    "keys of another kind": b'{"keys": {"a": 1}}',
    "half a document": b'{"keys": [{"kid": "old", "kty": "EC"',
    "nested without end": b'{"keys": [' + b"[" * 100_000,
    "a key that cannot be read": json.dumps({"keys": [jwk(OLD, "old", x="?")]}).encode(),
    "too large": json.dumps({"keys": [jwk(OLD, "old")], "more": "a" * key_sets.MAX_BYTES}).encode(),
}
ERRORS = [(status, "a good set") for status in (302, 404, 429, 500)]


class Clock:
    """Seconds, moved by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def told() -> AsyncIterator[Provider]:
    async with provider(jwk(OLD, "old")) as told:
        yield told


# Through a running server


class Shop:
    """A server that trusts the provider, and calls with the provider's tokens."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._http = http

    async def call(self, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        async with self._http.get(f"{self._url}/api/credits", headers=headers) as response:
            await response.read()
            return response.status


def token(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, kid: str) -> str:
    return signed(key, kid, {"sub": "ada", "exp": int(time.time()) + 3 * 3600})


async def shop_of(world: World, told: Provider, **changes: Any) -> Shop:
    given = {"auth_jwt_secret": "", "auth_jwks_url": told.url, **changes}
    server = await world.server(webhooks=False, **given)
    return Shop(server.url, world.http)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_removed_key_is_refused_and_a_hanging_provider_delays_no_known_key(
    world: World, told: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S63: after the next fetch the removed key is refused; 200 tokens with unknown keys delay no others."""
    monkeypatch.setattr(key_sets, "WAIT_S", 60.0)
    monkeypatch.setattr(key_sets, "FETCH_TIMEOUT_S", 60.0)
    shop = await shop_of(world, told, auth_jwks_refresh_s=0.2)
    assert await shop.call(token(OLD, "old")) == 200
    told.keys = [jwk(NEW, "new")]

    async def refused() -> bool:
        return await shop.call(token(OLD, "old")) == 401

    await wait_until(refused)
    assert await shop.call(token(NEW, "new")) == 200
    told.hangs = True
    before = told.fetches
    await wait_until(lambda: told.fetches > before)
    junk = [asyncio.create_task(shop.call(token(STRANGE, f"junk-{n}"))) for n in range(JUNK)]
    for _ in range(20):
        assert await shop.call(token(NEW, "new")) == 200
    assert not any(task.done() for task in junk)
    told.hangs = False
    assert set(await asyncio.gather(*junk)) == {401}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_invalid_tokens_cause_one_fetch(
    world: World, told: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that responds with 429 is not called again before the next retry."""
    monkeypatch.setattr(key_sets, "FIRST_RETRY_S", 600.0)
    monkeypatch.setattr(key_sets, "LAST_RETRY_S", 600.0)
    told.status = 429
    shop = await shop_of(world, told)
    answers = await asyncio.gather(*(shop.call(token(STRANGE, f"junk-{n}")) for n in range(JUNK)))
    assert told.fetches == 1
    assert set(answers) == {503}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_token_whose_algorithm_does_not_fit_its_key_is_refused(world: World) -> None:
    """Whatever the header claims: 401, and no server error."""
    async with provider(jwk(RSA, "rsa"), jwk(OLD, "ec"), jwk(RSA, "ps", alg="PS256")) as told:
        shop = await shop_of(world, told)
        assert await shop.call(token(RSA, "rsa")) == 200
        assert await shop.call(token(OLD, "ec")) == 200
        for confused in (token(OLD, "rsa"), token(RSA, "ec"), token(RSA, "ps")):
            assert await shop.call(confused) == 401


# The key set on its own


async def test_an_unknown_kid_causes_one_early_fetch(told: Provider) -> None:
    """A new key is fetched for the first token that names it; unknown ones then cause no fetch for 30 s."""
    clock = Clock()
    keys = KeySet(told.url, 300.0, clock)
    async with keys.kept_fresh(Metrics()):
        await keys.key("old")
        told.keys = [jwk(OLD, "old"), jwk(NEW, "new")]
        assert (await keys.key("new")).algorithms == ["ES256"]
        assert told.fetches == 2
        for _ in range(2):
            for number in range(JUNK):
                with pytest.raises(NotAuthenticated):
                    await keys.key(f"junk-{number}")
            clock.now += key_sets.UNKNOWN_KEY_PAUSE_S
        assert told.fetches == 3


@pytest.mark.parametrize(("status", "lie"), [*((200, lie) for lie in LIES), *ERRORS])
async def test_an_invalid_response_does_not_replace_the_key_set(
    told: Provider, status: int, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The good set is used until GRACE_S has passed; then the response is 503."""
    monkeypatch.setattr(key_sets, "FIRST_RETRY_S", 600.0)
    monkeypatch.setattr(key_sets, "LAST_RETRY_S", 600.0)
    clock = Clock()
    keys = KeySet(told.url, 300.0, clock)
    metrics = Metrics()
    async with keys.kept_fresh(metrics):
        await keys.key("old")
        told.status, told.body, told.headers = status, LIES.get(lie), {"Location": "/keys"}
        with pytest.raises(IdentityUnavailable):
            await keys.key("junk")
        with pytest.raises(IdentityUnavailable):
            await keys.key("other junk")
        assert told.fetches == 2, "not again for the junk"
        clock.now += key_sets.GRACE_S - 1
        assert (await keys.key("old")).algorithms == ["ES256"]
        clock.now += 2
        with pytest.raises(IdentityUnavailable):
            await keys.key("old")
        value = metrics.registry.get_sample_value
        assert value("paidup_key_set_fetches_total", {"result": "ok"}) == 1
        assert value("paidup_key_set_fetches_total", {"result": "failed"}) == 1
        assert (value("paidup_key_set_age_seconds") or 0) > key_sets.GRACE_S


async def test_a_provider_that_recovers_is_used_again(
    told: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was down when the server started: its first response is used for all."""
    monkeypatch.setattr(key_sets, "FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(key_sets, "LAST_RETRY_S", 0.05)
    told.status = 503
    keys = KeySet(told.url, 300.0)
    async with keys.kept_fresh(Metrics()):
        await wait_until(lambda: told.fetches >= 5)
        with pytest.raises(IdentityUnavailable):
            await keys.key("old")
        told.status = 200
        await wait_until(lambda: keys._usable() != {})
        assert (await keys.key("old")).algorithms == ["ES256"]


async def test_a_hanging_fetch_ends_at_its_timeout(told: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_sets, "FETCH_TIMEOUT_S", 0.1)
    told.hangs = True
    with pytest.raises(KeySetUnavailable, match="no response within"):
        await key_sets.fetch_keys(told.url)


async def test_a_token_with_an_unknown_key_waits_for_a_bounded_time(
    told: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fetch is still in progress when the token is refused."""
    monkeypatch.setattr(key_sets, "WAIT_S", 0.05)
    monkeypatch.setattr(key_sets, "FETCH_TIMEOUT_S", 60.0)
    told.hangs = True
    keys = KeySet(told.url, 300.0)
    async with keys.kept_fresh(Metrics()):
        with pytest.raises(IdentityUnavailable):
            await keys.key("old")
        assert keys._fetching


async def test_one_task_fetches_and_ends_with_the_server(told: Provider) -> None:
    keys = KeySet(told.url, 300.0)

    def tasks() -> list[asyncio.Task[Any]]:
        return [task for task in asyncio.all_tasks() if task.get_name() == "key set"]

    for _ in range(2):
        async with keys.kept_fresh(Metrics()):
            await keys.key("old")
            assert len(tasks()) == 1
        assert tasks() == []


def test_only_public_signature_keys_are_used() -> None:
    """No symmetric, private, weak or encryption key, and none with an `alg` of another type."""
    weak = rsa.generate_private_key(65537, 1024)
    private = json.loads(ECAlgorithm.to_jwk(OLD))
    refused = [
        {"kty": "oct", "kid": "oct", "k": "c2VjcmV0LW9mLXRoaXJ0eS10d28tY2hhcmFjdGVycw", "alg": "HS256"},
        {"kty": "oct", "kid": "oct-ec", "k": "c2VjcmV0", "alg": "ES256"},
        jwk(OLD, "enc", use="enc"),
        jwk(OLD, "signs", key_ops=["sign"]),
        jwk(OLD, "alg", alg="RS256"),
        jwk(OLD, "none", alg="none"),
        jwk(OLD, "odd alg", alg=["ES256"]),
        jwk(OLD, "odd ops", key_ops=7),
        {**private, "kid": "private"},
        jwk(weak, "weak"),
        {name: value for name, value in jwk(OLD, "x").items() if name != "kid"},
        {**jwk(OLD, "x"), "kid": 7},
        jwk(ec.generate_private_key(ec.SECP256K1()), "k1"),
    ]
    for one in refused:
        with pytest.raises(KeySetUnavailable):
            parse_keys(json.dumps({"keys": [one]}).encode())
    found = parse_keys(json.dumps({"keys": [*refused, jwk(OLD, "old"), jwk(RSA, "old")]}).encode())
    assert {kid: key.algorithms for kid, key in found.items()} == {"old": ["ES256"]}
