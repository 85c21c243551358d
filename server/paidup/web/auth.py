"""Authentication: bearer tokens that identify the customer.

The token is a JWT that the SaaS's backend or its identity provider issues: `sub` is the SaaS's own user
id, `scope` says whether a browser or the backend holds it, and `stripe_customer` may link the user to an
existing Stripe customer. Any other authentication (the demo's cookie) is a function of the same type,
passed to `create_app`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.requests import Request

from paidup.errors import ConfigurationError, NotAuthenticated
from paidup.key_sets import KeySet, VerificationKey, algorithms_for
from paidup.settings import PUBLIC_KEY, Settings, split_list
from paidup.web.verified_tokens import VerifiedToken, VerifiedTokens

TEXT = r"\A[^\x00-\x1f\x7f\ud800-\udfff]*\Z"
NAME = TEXT.replace("*", "+")
"""As http.PRINTABLE, and without lone surrogates, which Python's JSON parser accepts unlike msgspec's."""
MALFORMED = (
    *(jwt.PyJWTError, msgspec.ValidationError),
    *(ValueError, TypeError, OverflowError, RecursionError),  # from PyJWT's JSON and number parsing
)


class Scope(StrEnum):
    """Who holds the token, which decides what it allows."""

    BROWSER = "browser"
    """Read, buy, open WebSockets, and change the customer's own plan."""
    BACKEND = "backend"
    """All of BROWSER, and spend, reserve, commit and release credits."""


class Customer(msgspec.Struct, frozen=True):
    """The identity of a request, as `authenticate` returns it.

    `external_id` is your id of the user. `stripe_customer`, if you created one in Stripe, is trusted:
    your backend signed it. `scope` is BROWSER, or BACKEND if the request may spend credits.
    `verified_email` is an address that your identity provider has verified, if any.
    """

    external_id: str
    stripe_customer: str | None = None
    scope: Scope = Scope.BROWSER
    verified_email: str | None = None


class Claims(msgspec.Struct, frozen=True):
    """The claims that identify the customer."""

    sub: Annotated[str, msgspec.Meta(pattern=NAME, max_length=200)]
    stripe_customer: Annotated[str, msgspec.Meta(pattern=NAME, max_length=255)] | None = None


class TokenClaims(Claims, frozen=True, kw_only=True):
    """All claims of a token. JWT's times must be numbers; strings of digits are refused."""

    exp: float
    nbf: float = 0
    iat: float = 0
    scope: Annotated[str, msgspec.Meta(pattern=TEXT)] = Scope.BROWSER
    """Any other value, such as an identity provider's `openid profile`, counts as BROWSER."""


Authenticate = Callable[[Request], Awaitable[Customer]]
"""Identifies the customer of a request, or raises NotAuthenticated."""

IN_PROCESS_CUSTOMER = "paidup.in_process_customer"
"""Where the ASGI scope has the user id of a call by the host's own code. No client can set it."""


async def authenticated(request: Request) -> Customer:
    """The customer of this request; a backend's where the host's own code makes it.

    Raises NotAuthenticated.
    """
    caller = request.scope.get(IN_PROCESS_CUSTOMER)
    if caller is None:
        authenticate: Authenticate = request.app.state.authenticate
        return await authenticate(request)
    with _malformed_is_refused():
        return Customer(msgspec.convert({"sub": caller}, Claims).sub, scope=Scope.BACKEND)


class _Rules(msgspec.Struct, frozen=True):
    """What a token must say, beside its signature, `exp` and who the customer is."""

    algorithms: list[str]
    leeway_s: float
    audience_claim: str = "aud"
    audiences: list[str] = []
    issuers: list[str] = []
    customer_claim: str = "sub"


def bearer_authentication(settings: Settings, key_set: KeySet | None = None) -> Authenticate:
    """Authentication by JWT, verified with `key_set`, or AUTH_JWT_SECRET, or either.

    With both, AUTH_JWT_SECRET is the backend's: only its tokens, which name no key, may spend credits.
    Which key verifies a token never follows from the token's algorithm. Every request is refused if
    neither is given. Raises ConfigurationError for an unusable public key.
    """
    fixed = _fixed_key(settings.auth_jwt_secret)
    backend = _Rules([], settings.auth_jwt_leeway_s)
    rules = _Rules(
        split_list(settings.auth_jwt_algorithms),
        settings.auth_jwt_leeway_s,
        settings.auth_jwt_audience_claim,
        split_list(settings.auth_jwt_audience),
        split_list(settings.auth_jwt_issuer),
        settings.auth_jwt_customer_claim,
    )

    verified = VerifiedTokens()

    async def verify(token: str) -> VerifiedToken:
        if key_set is None:
            if fixed is None:
                raise NotAuthenticated("No authentication is configured (AUTH_JWT_SECRET or AUTH_JWKS_URL).")
            return _verified(token, fixed, rules)
        kid = _key_id(token)
        if fixed is None:
            return _verified(token, await key_set.key(_named(kid)), rules, _named(kid))
        if kid is None:
            return _backends(_verified(token, fixed, backend))
        found = _verified(token, await key_set.key(_named(kid)), rules, _named(kid))
        # A browser may be able to ask its identity provider for any scope.
        customer = msgspec.structs.replace(found.customer, scope=Scope.BROWSER)
        return msgspec.structs.replace(found, customer=customer)

    async def identify(token: str) -> Customer:
        known = verified.find(token)
        if known is None or (key_set and known.kid and await key_set.key(known.kid) is not known.key):
            known = await verify(token)
            verified.keep(token, known)
        return known.customer

    async def authenticate(request: Request) -> Customer:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated("A bearer token is required.")
        return await identify(token)

    return authenticate


def _backends(found: VerifiedToken) -> VerifiedToken:
    if found.customer.scope is not Scope.BACKEND:
        raise NotAuthenticated(
            "The token is not valid: beside AUTH_JWKS_URL, one of AUTH_JWT_SECRET needs the scope backend."
        )
    return found


def _fixed_key(secret: str) -> VerificationKey | None:
    # The algorithms follow from the configured key, never from the token (algorithm confusion).
    if not secret.startswith(PUBLIC_KEY):
        return VerificationKey(secret, ["HS256", "HS384", "HS512"]) if secret else None
    try:
        key = load_pem_public_key(secret.replace("\\n", "\n").encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not (algorithms := algorithms_for(key)):
        raise ConfigurationError(
            ["AUTH_JWT_SECRET: use a public key of RSA (2048 bits or more), P-256, P-384, P-521 or Ed25519"]
        )
    return VerificationKey(key, algorithms)


@contextmanager
def _malformed_is_refused() -> Iterator[None]:
    """Turn every error that a malformed token can cause into NotAuthenticated."""
    try:
        yield
    except MALFORMED as error:
        words = str(error).encode("ascii", "backslashreplace").decode()
        raise NotAuthenticated(f"The token is not valid: {words[:200]}") from None


def _key_id(token: str) -> object:
    with _malformed_is_refused():
        return jwt.get_unverified_header(token).get("kid")


def _named(kid: object) -> str:
    if not isinstance(kid, str):
        raise NotAuthenticated("The token is not valid: its header names no key (kid).")
    return kid


def _verified(token: str, key: VerificationKey, rules: _Rules, kid: str | None = None) -> VerifiedToken:
    # The key's kind allows them; AUTH_JWT_ALGORITHMS can only take some away.
    algorithms = [name for name in key.algorithms if not rules.algorithms or name in rules.algorithms]
    if not algorithms:
        raise NotAuthenticated("The token is not valid: its key fits none of AUTH_JWT_ALGORITHMS.")
    with _malformed_is_refused():
        claims = jwt.decode(
            token,
            key.key,
            algorithms=algorithms,
            issuer=rules.issuers or None,
            leeway=rules.leeway_s,
            # The audience is checked below, where it may be another claim.
            options={"require": ["exp", rules.customer_claim], "verify_aud": False},
        )
        if rules.audiences:
            _check_audience(claims.get(rules.audience_claim), rules)
        found = msgspec.convert({**claims, "sub": claims[rules.customer_claim]}, TokenClaims)
    scope = Scope.BACKEND if found.scope == Scope.BACKEND else Scope.BROWSER
    customer = Customer(found.sub, found.stripe_customer, scope, _verified_email(claims))
    begins, ends = max(found.nbf, found.iat) - rules.leeway_s, int(found.exp) + rules.leeway_s
    return VerifiedToken(customer, key, begins, ends, kid)


def _verified_email(claims: dict[str, Any]) -> str | None:
    """https://openid.net/specs/openid-connect-core-1_0.html#StandardClaims"""
    email = claims.get("email")
    return email if isinstance(email, str) and email and claims.get("email_verified") is True else None


def _check_audience(named: Any, rules: _Rules) -> None:
    named = [named] if isinstance(named, str) else named
    if not isinstance(named, list) or not any(each in rules.audiences for each in named):
        raise jwt.InvalidAudienceError(f"its claim {rules.audience_claim!r} names none of AUTH_JWT_AUDIENCE")
