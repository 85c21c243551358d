"""Tokens of identity providers: what each issues is accepted with the settings of its section of the docs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.requests import Request

from paidup.client.tokens import backend_token, page_token, signed_with
from paidup.domain.token_algorithms import ALGORITHMS
from paidup.errors import NotAuthenticated
from paidup.key_sets import KeySet, algorithms_for
from paidup.operations.doctor.report import State
from paidup.operations.doctor.settings_checks import check_tokens
from paidup.runtime.metrics import Metrics
from paidup.web.auth import Authenticate, Customer, Scope, bearer_authentication
from tests.conftest import World
from tests.structure.sources import ROOT
from tests.support.key_sets import PrivateKey, Provider, jwk, provider, signed
from tests.support.paidup import JWT_SECRET, settings
from tests.support.provider_tokens import AUTH0, COGNITO, PROVIDERS, SUPABASE, ProviderToken

KEYS: dict[str, PrivateKey] = {
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "RS256": rsa.generate_private_key(65537, 2048),
}
each_provider = pytest.mark.parametrize("token", PROVIDERS, ids=lambda token: token.name)


@pytest.fixture
async def published() -> AsyncIterator[Provider]:
    """A provider that publishes a key of each kind, under its algorithm's name."""
    async with provider(*(jwk(key, name, alg=name) for name, key in KEYS.items())) as told:
        yield told


@pytest.fixture
async def keys(published: Provider) -> AsyncIterator[KeySet]:
    fetched = KeySet(published.url, 300.0)
    async with fetched.kept_fresh(Metrics()):
        await fetched.key("RS256")
        yield fetched


def checked_by(keys: KeySet, **given: Any) -> Authenticate:
    changes = {"auth_jwt_secret": "", "auth_jwks_url": "https://id.test/keys", **given}
    return bearer_authentication(settings(**changes), keys)


def issued(token: ProviderToken, **claims: Any) -> str:
    return signed(KEYS[token.algorithm], token.algorithm, {**token.claims, **claims})


def owner_of(token: ProviderToken) -> Customer:
    """Whose it is. Only an address that the provider says it has verified is theirs."""
    email = token.claims["email"] if token.claims.get("email_verified") is True else None
    return Customer(token.customer, verified_email=email)


async def named(authenticate: Authenticate, token: str) -> Customer | str:
    """The customer, or why the token is refused."""
    request = Request({"type": "http", "headers": [(b"authorization", f"Bearer {token}".encode())]})
    try:
        return await authenticate(request)
    except NotAuthenticated as error:
        return str(error)


@each_provider
async def test_a_providers_token_names_its_user(token: ProviderToken, keys: KeySet) -> None:
    """It is a page's token; one for another project or application of the provider is refused."""
    authenticate = checked_by(keys, **token.settings)
    assert await named(authenticate, issued(token)) == owner_of(token)
    assert "The token is not valid" in str(await named(authenticate, issued(token, **token.foreign)))
    for name, value in (("exp", int(time.time()) - 60), ("iss", "https://id.attacker.test"), ("sub", None)):
        assert isinstance(await named(authenticate, issued(token, **{name: value})), str), name


@each_provider
async def test_a_providers_token_is_accepted_without_any_further_setting(
    token: ProviderToken, keys: KeySet
) -> None:
    """`aud` and `iss` are not checked where no audience and no issuer are set."""
    assert await named(checked_by(keys), issued(token)) == owner_of(token)


@each_provider
def test_the_settings_of_a_provider_are_those_of_its_section(token: ProviderToken) -> None:
    text = (ROOT / "docs/identity-providers.md").read_text()
    heading = token.name.partition(",")[0]
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    shown = dict(re.findall(r"^([A-Z_]+)=(.+)$", section[1], re.MULTILINE))
    expected = {name.upper(): value for name, value in token.settings.items()}
    if token.name.endswith("ID token"):  # said in a sentence
        expected.pop("AUTH_JWT_AUDIENCE_CLAIM")
        assert "ID token" in section[1]
    assert expected.items() <= shown.items()
    assert shown["AUTH_JWKS_URL"].startswith("https://")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("checked", "state"), [({}, State.WARN), (SUPABASE.settings, State.OK)])
async def test_a_supabase_session_reads_its_balance(
    world: World, published: Provider, checked: dict[str, str], state: State
) -> None:
    """Over HTTP, with `aud: authenticated`. The doctor warns where that is not checked."""
    given: dict[str, Any] = {"auth_jwt_secret": "", "auth_jwks_url": published.url, **checked}
    server = await world.server(webhooks=False, **given)
    headers = {"Authorization": f"Bearer {issued(SUPABASE)}"}
    async with world.http.get(f"{server.url}/api/credits", headers=headers) as response:
        assert response.status == 200
    assert (await check_tokens(settings(**given))).state is state


async def test_one_of_several_audiences_and_issuers_is_enough(keys: KeySet) -> None:
    several = {"auth_jwt_audience": "one, two", "auth_jwt_issuer": "https://a.test, https://b.test"}
    authenticate = checked_by(keys, **several)
    assert isinstance(await named(authenticate, issued(AUTH0, aud="two", iss="https://b.test")), Customer)
    assert isinstance(
        await named(authenticate, issued(AUTH0, aud=["x", "one"], iss="https://a.test")), Customer
    )
    for audience in ("three", "one, two", "", None, [], [7], {"one": 1}, 7):
        refused = await named(authenticate, issued(AUTH0, aud=audience, iss="https://a.test"))
        assert isinstance(refused, str), audience
    assert isinstance(await named(authenticate, issued(AUTH0, aud="one", iss="https://c.test")), str)


async def test_another_claim_may_name_the_customer(keys: KeySet) -> None:
    """A token without it, or whose value is no text, is refused; `sub` then counts for nothing."""
    authenticate = checked_by(keys, auth_jwt_customer_claim="username")
    assert await named(authenticate, issued(COGNITO)) == Customer("my-test-user")
    for value in (None, 7, "", ["ada"], "a\nb", "a" * 201):
        assert isinstance(await named(authenticate, issued(COGNITO, username=value)), str), value
    assert isinstance(await named(authenticate, issued(AUTH0)), str)


async def test_the_clocks_may_differ_by_the_leeway(keys: KeySet) -> None:
    now = int(time.time())
    old, early = issued(AUTH0, exp=now - 90), issued(AUTH0, nbf=now + 90)
    for leeway, accepted in ((0, False), (30, False), (120, True)):
        authenticate = checked_by(keys, auth_jwt_leeway_s=leeway)
        for token in (old, early):
            assert isinstance(await named(authenticate, token), Customer) is accepted


async def test_algorithms_can_only_be_taken_away(keys: KeySet) -> None:
    """The list never makes a key verify what its kind does not: no `none`, and no public key as a secret."""
    only_rsa = checked_by(keys, auth_jwt_algorithms="RS256, HS256")
    assert isinstance(await named(only_rsa, issued(AUTH0)), Customer)
    assert isinstance(await named(only_rsa, issued(SUPABASE)), str)
    public = KEYS["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # PyJWT refuses to sign with a public key; an attacker's program does not.
    forged = jwt.api_jws.PyJWS().encode
    claims = b'{"sub": "ada", "exp": 4000000000}'
    for algorithms in ("", "HS256", "RS256, HS256"):
        authenticate = checked_by(keys, auth_jwt_algorithms=algorithms)
        unsigned = forged(claims, "", "none", headers={"kid": "RS256"})
        assert isinstance(await named(authenticate, unsigned), str)
        confused = _hmac_signed(claims, public, "RS256")
        assert isinstance(await named(authenticate, confused), str)


def test_the_algorithms_of_the_settings_are_those_that_keys_can_have() -> None:
    curves = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
    found = {name for curve in curves for name in algorithms_for(ec.generate_private_key(curve).public_key())}
    found |= set(algorithms_for(KEYS["RS256"].public_key()))
    assert found | {"EdDSA", "HS256", "HS384", "HS512"} == set(ALGORITHMS)


# A shared secret for the backend, beside a key set


async def test_beside_a_key_set_only_the_secrets_tokens_spend(keys: KeySet) -> None:
    """Whatever scope a browser gets its provider to write: it is a page's token."""
    both = checked_by(keys, auth_jwt_secret=JWT_SECRET, **AUTH0.settings)
    assert await named(both, issued(AUTH0)) == Customer(AUTH0.customer)
    assert await named(both, issued(AUTH0, scope="backend")) == Customer(AUTH0.customer, scope=Scope.BROWSER)
    backend = Customer("ada", scope=Scope.BACKEND)
    assert await named(both, signed_with(JWT_SECRET)("ada")) == backend
    assert await named(both, backend_token(JWT_SECRET, "ada", "another", "another")) == backend
    for refused in (page_token(JWT_SECRET, "ada"), backend_token(JWT_SECRET, "ada", ttl_s=-60)):
        assert isinstance(await named(both, refused), str)
    alone = checked_by(keys, **AUTH0.settings)
    assert await named(alone, issued(AUTH0, scope="backend")) == Customer(AUTH0.customer, scope=Scope.BACKEND)


async def test_beside_a_key_set_no_key_stands_for_another(keys: KeySet) -> None:
    """Neither a public key nor nothing signs for the backend, and the secret signs for no page."""
    both = checked_by(keys, auth_jwt_secret=JWT_SECRET)
    claims = {"sub": "ada", "exp": int(time.time()) + 60, "scope": "backend"}
    public = KEYS["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = json.dumps({**claims, "exp": 4_000_000_000}).encode()
    forgeries = [
        jwt.encode(claims, KEYS["RS256"], "RS256"),  # by the provider, without a kid
        jwt.encode(claims, JWT_SECRET, "HS256", headers={"kid": "RS256"}),
        jwt.encode(claims, JWT_SECRET + "x", "HS256"),
        jwt.api_jws.PyJWS().encode(body, "", "none"),
        _hmac_signed(body, public, None),
        _hmac_signed(body, public, "RS256"),
        _hmac_signed(body, b"", None),
    ]
    for forged in forgeries:
        assert isinstance(await named(both, forged), str)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_backend_spends_with_the_secret_and_the_page_does_not(
    world: World, published: Provider
) -> None:
    given: dict[str, Any] = {"auth_jwks_url": published.url, **AUTH0.settings}
    server = await world.server(webhooks=False, **given)
    body = {"credits": 1, "key": "job-1"}
    for token, status in (
        (issued(AUTH0), 403),
        (issued(AUTH0, scope="backend"), 403),
        (signed_with(JWT_SECRET)(AUTH0.customer), 402),  # it may spend, and there is nothing
        (page_token(JWT_SECRET, AUTH0.customer), 401),
    ):
        headers = {"Authorization": f"Bearer {token}"}
        async with world.http.post(f"{server.url}/api/credits/spend", json=body, headers=headers) as response:
            assert response.status == status


def _hmac_signed(claims: bytes, secret: bytes, kid: str | None) -> str:
    header = json.dumps({"alg": "HS256", "typ": "JWT"} | ({"kid": kid} if kid else {})).encode()
    said = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims))
    proof = base64.urlsafe_b64encode(hmac.new(secret, said, hashlib.sha256).digest()).rstrip(b"=")
    return (said + b"." + proof).decode()
