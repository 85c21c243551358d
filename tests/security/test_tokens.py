"""Malformed tokens: whatever the header `Authorization` holds gives a customer or a 401."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import math
from collections.abc import Awaitable
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm
from starlette.requests import Request

from paidup.errors import NotAuthenticated
from paidup.key_sets import KeySet, KeySetUnavailable, parse_keys
from paidup.runtime.metrics import Metrics
from paidup.web.auth import Customer, bearer_authentication
from paidup.web.problems import problem_of
from tests.conftest import World
from tests.support.key_sets import jwk, provider
from tests.support.paidup import JWT_SECRET, settings

KEY = ec.generate_private_key(ec.SECP256R1())
EXP = 4_000_000_000  # 2096
HS = '{"alg": "HS256", "typ": "JWT"}'
ES = '{"alg": "ES256", "kid": "ec"}'
GOOD = f'{{"sub": "ada", "exp": {EXP}}}'

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()  # NaN and infinities, in Python's notation
    | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from([10**400, -(10**30), "1e999", "\ud800", "nbf", EXP, str(EXP)])
)
VALUES = st.recursive(
    SCALARS,
    lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=4), of, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["sub", "exp", "nbf", "iat", "aud", "iss", "jti", "scope", "stripe_customer"])
CLAIMS = st.dictionaries(NAMES, VALUES).map(lambda odd: json.dumps({"sub": "ada", "exp": EXP, **odd}))
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "cty"]), VALUES
)
RAW = [
    "",
    "null",
    "[]",
    "7",
    "\ufeff{}",
    '{"sub": "ada", "exp": 1e999}',
    '{"sub": "ada", "exp": NaN}',
    '{"sub": "ada", "exp": -Infinity}',
    '{"sub": "ada", "exp": ' + "9" * 6000 + "}",
    f'{{"sub": "ada", "sub": ["eve"], "exp": {EXP}}}',
    f'{{"sub": "ada", "exp": {EXP}, "exp": {{}}}}',
    f'{{"sub": "ada", "exp": {EXP}, "deep": ' + "[" * 20_000,
    f'{{"sub": "ada", "exp": {EXP}, "deep": ' + "[" * 20_000 + "]" * 20_000 + "}",
    f'{{"sub": "ada", "exp": {EXP}, "scope": "\\ud800"}}',
]


def encoded(part: bytes) -> bytes:
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def token(header: str, claims: str, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    """A correctly signed token with any content, signed with the key or the shared secret."""
    said = b".".join(encoded(part.encode("utf-8", "surrogatepass")) for part in (header, claims))
    if key is None:
        proof = hmac.new(JWT_SECRET.encode(), said, hashlib.sha256).digest()
    else:
        proof = ECAlgorithm(ECAlgorithm.SHA256).sign(said, key)
    return said + b"." + encoded(proof)


async def _by_key_set() -> KeySet:
    """A key set with one key, which is never fetched."""
    async with provider(jwk(KEY, "ec")) as told:
        keys = KeySet(told.url, 300.0)
        async with keys.kept_fresh(Metrics()):
            await keys.key("ec")
    keys._asked_at = math.inf  # unknown kids cause no fetch
    return keys


KEYS = asyncio.run(_by_key_set())
AUTHENTICATE = {
    "secret": bearer_authentication(settings()),
    "key set": bearer_authentication(
        settings(auth_jwt_secret="", auth_jwks_url="http://127.0.0.1:9/keys"), KEYS
    ),
}


def named(authorization: bytes, by: str) -> Customer | None:
    """The customer, or None for a 401. Any other exception is a bug."""
    request = Request({"type": "http", "headers": [(b"authorization", authorization)]})
    try:
        return _answered(AUTHENTICATE[by](request))
    except NotAuthenticated as error:
        problem_of(error)  # the detail can be encoded
        return None


def _answered(asked: Awaitable[Customer]) -> Customer:
    """Without waiting: a known or missing key needs no fetch."""
    try:
        next(asked.__await__())
    except StopIteration as done:
        customer: Customer = done.value
        return customer
    raise AssertionError("it waits for something")


@pytest.fixture(params=AUTHENTICATE)
def by(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@given(st.binary() | st.binary().map(lambda junk: b"Bearer " + junk))
def test_any_bytes_are_refused(junk: bytes) -> None:
    for by in AUTHENTICATE:
        assert named(junk, by) is None


@given(st.binary(), st.binary(), st.binary())
def test_any_three_parts_are_refused(header: bytes, claims: bytes, proof: bytes) -> None:
    said = b"Bearer " + b".".join(map(encoded, (header, claims, proof)))
    for by in AUTHENTICATE:
        assert named(said, by) is None


@given(HEADERS, CLAIMS)
def test_any_header_of_a_signed_token_is_read_or_refused(odd: dict[str, Any], claims: str) -> None:
    for by, key in (("secret", None), ("key set", KEY)):
        header = json.dumps({**json.loads(HS if key is None else ES), **odd})
        found = named(b"Bearer " + token(header, claims, key), by)
        assert found is None or isinstance(found.external_id, str)


@given(CLAIMS)
def test_any_claims_of_a_signed_token_are_read_or_refused(claims: str) -> None:
    """Times must be numbers: neither digits in a string nor true."""
    for by, header, key in (("secret", HS, None), ("key set", ES, KEY)):
        found = named(b"Bearer " + token(header, claims, key), by)
        if found is not None:
            said = json.loads(claims)
            assert found.external_id == said["sub"]
            assert (said.get("scope") == "backend") == (found.scope == "backend")
            assert all(type(said.get(name, 0)) in (int, float) for name in ("exp", "nbf", "iat"))


@pytest.mark.parametrize("raw", RAW, ids=lambda raw: raw[:60])
def test_odd_documents_are_refused(raw: str, by: str) -> None:
    key = KEY if by == "key set" else None
    good = ES if key else HS
    assert named(b"Bearer " + token(good, GOOD, key), by) == Customer("ada")
    assert named(b"Bearer " + token(good, raw, key), by) is None
    assert named(b"Bearer " + token(raw, GOOD, key), by) is None


@hypothesis_settings(max_examples=40)  # reading a key takes a millisecond, and there are many
@given(
    st.lists(
        st.dictionaries(st.sampled_from([*jwk(KEY, "ec"), "alg", "key_ops", "k", "n", "e", "d"]), VALUES)
    )
)
def test_any_key_set_is_read_or_refused(odd: list[dict[str, Any]]) -> None:
    for keys in (odd, [{**jwk(KEY, "ec"), **members} for members in odd]):
        try:
            found = parse_keys(json.dumps({"keys": keys}, allow_nan=False).encode())
        except (KeySetUnavailable, ValueError):  # ValueError: JSON has no such number
            continue
        assert all(key.algorithms == ["ES256"] for key in found.values())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_odd_tokens_are_refused_over_http(world: World) -> None:
    """Through a server, if they fit into a header."""
    server = await world.server(webhooks=False)
    async with aiohttp.ClientSession() as http:
        for raw in [
            *RAW[:8],
            *RAW[9:11],
            RAW[-1],
            '{"sub": "ada", "exp": true}',
            f'{{"sub": "ada", "exp": "{EXP}"}}',
        ]:
            for said in (token(HS, raw), token(raw, GOOD)):
                headers = {"Authorization": f"Bearer {said.decode()}"}
                async with http.get(f"{server.url}/api/credits", headers=headers) as response:
                    assert response.status == 401, raw
