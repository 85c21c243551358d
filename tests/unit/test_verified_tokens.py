"""Verified tokens are remembered: for as long as they are valid, and with the key that verified them."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import Request

from paidup.client import backend_token
from paidup.errors import NotAuthenticated
from paidup.key_sets import KeySet, VerificationKey
from paidup.runtime.metrics import Metrics
from paidup.web import verified_tokens
from paidup.web.auth import Authenticate, Customer, bearer_authentication
from paidup.web.verified_tokens import VerifiedToken, VerifiedTokens
from tests.support.key_sets import jwk, provider, signed
from tests.support.paidup import JWT_SECRET, settings
from tests.support.waiting import wait_until

KEY = VerificationKey("secret", ["HS256"])


async def named(authenticate: Authenticate, token: str) -> Customer:
    return await authenticate(
        Request({"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]})
    )


def remembered(name: str, begins: float = 0, ends: float = 1000) -> VerifiedToken:
    return VerifiedToken(Customer(name), KEY, begins, ends)


def test_a_token_is_remembered_from_its_beginning_until_its_end() -> None:
    times = [99.9, 100, 199.9, 200]
    tokens = VerifiedTokens(iter(times).__next__)
    tokens.keep("token", remembered("ada", 100, 200))
    assert [tokens.find("token") is not None for _ in times] == [False, True, True, False]
    assert tokens.find("another") is None


def test_a_bounded_number_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified_tokens, "MAX_TOKENS", 2)
    tokens = VerifiedTokens(lambda: 1.0)
    for name in ("first", "second", "second", "third"):
        tokens.keep(name, remembered(name))
    assert [name for name in ("first", "second", "third") if tokens.find(name)] == ["second", "third"]


async def test_a_token_is_verified_once_and_a_refused_one_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    verifications = []

    def counted(token: str, *arguments: Any, **named: Any) -> Any:
        verifications.append(token)
        return decode(token, *arguments, **named)

    decode = jwt.decode
    monkeypatch.setattr(jwt, "decode", counted)
    authenticate = bearer_authentication(settings())
    good = backend_token(JWT_SECRET, "ada", ttl_s=3600)
    forged, over = (
        jwt.encode({"sub": "ada", "exp": int(time.time()) + left}, key, "HS256")
        for key, left in ((JWT_SECRET[::-1], 3600), (JWT_SECRET, -3600))
    )
    for _ in range(2):
        assert (await named(authenticate, good)).external_id == "ada"
        for refused in (forged, over, f"{good}x"):
            with pytest.raises(NotAuthenticated):
                await named(authenticate, refused)
    assert sorted(verifications) == sorted([good, forged, forged, over, over, f"{good}x", f"{good}x"])


async def test_a_token_is_refused_once_its_key_is_replaced_or_removed() -> None:
    """By another one with the same id, or by none: after the next fetch."""
    first, second = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    claims = {"sub": "ada", "exp": int(time.time()) + 3600}
    async with provider(jwk(first, "1")) as told:
        key_set = KeySet(told.url, 0.05)
        given = settings(auth_jwt_secret="", auth_jwks_url=told.url)
        authenticate = bearer_authentication(given, key_set)
        async with key_set.kept_fresh(Metrics()):
            for key, published in ((first, [jwk(second, "1")]), (second, [jwk(first, "2")])):
                token = signed(key, "1", claims)
                await wait_until(partial(_accepted, authenticate, token))
                told.keys = published
                await wait_until(partial(_refused, authenticate, token))


async def _accepted(authenticate: Authenticate, token: str) -> bool:
    try:
        return (await named(authenticate, token)).external_id == "ada"
    except NotAuthenticated:
        return False


async def _refused(authenticate: Authenticate, token: str) -> bool:
    return not await _accepted(authenticate, token)
