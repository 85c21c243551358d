"""Customers' tokens signed with a private key: verified with a public key or the provider's key set."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm
from starlette.requests import Request

from paidup.errors import ConfigurationError, IdentityUnavailable, NotAuthenticated
from paidup.key_sets import KeySet
from paidup.runtime.metrics import Metrics
from paidup.web.auth import Customer, bearer_authentication
from tests.support.key_sets import published
from tests.support.paidup import settings
from tests.support.processes import free_port

KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
CLAIMS: dict[str, Any] = {"sub": "ada", "exp": int(time.time()) + 3 * 3600}


async def named(token: str, **changes: Any) -> Customer:
    """The customer of the token, for a server with these settings."""
    request = Request({"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]})
    configured = settings(**changes)
    if not configured.auth_jwks_url:
        return await bearer_authentication(configured)(request)
    key_set = KeySet(configured.auth_jwks_url, configured.auth_jwks_refresh_s)
    async with key_set.kept_fresh(Metrics()):
        return await bearer_authentication(configured, key_set)(request)


def signed(key: ec.EllipticCurvePrivateKey = KEY, kid: str = "1") -> str:
    return jwt.encode(CLAIMS, key, "ES256", headers={"kid": kid})


def signed_with_what_everybody_knows(secret: str) -> str:
    """Signs with the public key's text as a shared secret, which libraries refuse to do."""
    header, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT", "kid": "1"}, CLAIMS)
    )
    proof = hmac.new(secret.encode(), header + b"." + claims, hashlib.sha256).digest()
    return b".".join((header, claims, base64.urlsafe_b64encode(proof).rstrip(b"="))).decode()


@pytest.mark.parametrize("written", [PEM, PEM.replace("\n", "\\n")])
async def test_a_public_key_verifies_and_is_not_a_shared_secret(written: str) -> None:
    """Its line breaks may be escaped, as in an environment file."""
    assert (await named(signed(), auth_jwt_secret=written)).external_id == "ada"
    for forged in (
        signed(OTHER),
        signed_with_what_everybody_knows(PEM),
        signed_with_what_everybody_knows(written),
    ):
        with pytest.raises(NotAuthenticated):
            await named(forged, auth_jwt_secret=written)


def pem_of(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def test_an_unusable_public_key_is_refused_at_startup() -> None:
    """With one line that names the setting: truncated, too weak, or of an unsupported curve."""
    weak, odd = rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP256K1())
    for text in (PEM[:60], pem_of(weak), pem_of(odd)):
        with pytest.raises(ConfigurationError, match="AUTH_JWT_SECRET: use a public key of RSA"):
            bearer_authentication(settings(auth_jwt_secret=text))


async def test_the_algorithms_follow_from_the_public_key() -> None:
    """A token with ES256 for an RSA key is refused without a server error."""
    with pytest.raises(NotAuthenticated):
        await named(signed(), auth_jwt_secret=pem_of(rsa.generate_private_key(65537, 2048)))


@pytest.fixture
async def key_set() -> AsyncIterator[str]:
    key = {**json.loads(ECAlgorithm.to_jwk(KEY.public_key())), "kid": "1", "use": "sig"}
    async with published(key) as url:
        yield url


async def test_a_key_set_verifies_what_its_keys_signed_and_nothing_else(key_set: str) -> None:
    given: dict[str, Any] = {"auth_jwt_secret": "", "auth_jwks_url": key_set}
    assert (await named(signed(), **given)).external_id == "ada"
    for forged in (signed(OTHER), signed(kid="2"), signed_with_what_everybody_knows(PEM), "nonsense"):
        with pytest.raises(NotAuthenticated):
            await named(forged, **given)


async def test_an_unavailable_key_set_gives_503() -> None:
    """503, not 401: the customer's token may be valid."""
    with pytest.raises(IdentityUnavailable):
        await named(signed(), auth_jwt_secret="", auth_jwks_url=f"http://127.0.0.1:{free_port()}/keys")
