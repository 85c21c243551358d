"""Who is asking: the customer that a bearer token names.

The token is a JWT that the SaaS's backend mints: `sub` is its own id of the user, `scope` says
whether a browser or the backend holds it, and `stripe_customer` may tie the user to a Stripe
customer that exists already. Another way of naming customers (the demo's cookie) is a function of
the same shape, given to `create_app`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Annotated, Any

import anyio.to_thread
import jwt
import msgspec
from jwt import PyJWKClient
from starlette.requests import Request

from server.errors import IdentityUnavailable, NotAuthenticated
from server.settings import PUBLIC_KEY, Settings

NAME = r"\A[^\x00-\x1f\x7f\ud800-\udfff]+\Z"
"""As bodies.PRINTABLE; and Python's reader of JSON, unlike msgspec's, lets half of a character through."""
LEEWAY_S = 30
ASYMMETRIC = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA"]


class Scope(StrEnum):
    """Who holds the token: it decides what the token may do."""

    BROWSER = "browser"
    """Read, buy, watch, and change the customer's own plan."""
    BACKEND = "backend"
    """All that, and spend, reserve, commit and release credits."""


class Customer(msgspec.Struct, frozen=True):
    """The SaaS's user. `stripe_customer` is believed, since the SaaS's backend signed it."""

    external_id: str
    stripe_customer: str | None = None
    scope: Scope = Scope.BROWSER


class Claims(msgspec.Struct, frozen=True):
    """What is read of a token whose proof is good."""

    sub: Annotated[str, msgspec.Meta(pattern=NAME, max_length=200)]
    stripe_customer: Annotated[str, msgspec.Meta(pattern=NAME, max_length=255)] | None = None
    scope: Scope = Scope.BROWSER


Authenticate = Callable[[Request], Awaitable[Customer]]
"""Names the customer of a request, or raises NotAuthenticated."""


def bearer_authentication(settings: Settings) -> Authenticate:
    """Authentication by JWT, as AUTH_JWT_SECRET or AUTH_JWKS_URL say; refuses all where neither is set."""
    key_of = _key_source(settings)

    async def authenticate(request: Request) -> Customer:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated("A bearer token is needed.")
        key, algorithms = await key_of(token)
        return _customer(_claims(token, key, algorithms, settings))

    return authenticate


def _key_source(settings: Settings) -> Callable[[str], Awaitable[tuple[Any, list[str]]]]:
    if settings.auth_jwks_url:
        keys = PyJWKClient(settings.auth_jwks_url, cache_keys=True, lifespan=600, timeout=5)

        async def from_jwks(token: str) -> tuple[Any, list[str]]:
            try:
                found = await anyio.to_thread.run_sync(keys.get_signing_key_from_jwt, token)
            except jwt.PyJWKClientConnectionError as error:
                raise IdentityUnavailable("The keys of the identity provider cannot be fetched.") from error
            except jwt.PyJWTError as error:
                raise NotAuthenticated(f"The token is not valid: {error}") from None
            return found.key, ASYMMETRIC

        return from_jwks

    async def from_secret(_: str) -> tuple[Any, list[str]]:
        if not settings.auth_jwt_secret:
            raise NotAuthenticated(
                "No way of authentication is configured (AUTH_JWT_SECRET or AUTH_JWKS_URL)."
            )
        # The algorithms follow the configured key, never the token: no confusion of the two.
        if settings.auth_jwt_secret.startswith(PUBLIC_KEY):
            return settings.auth_jwt_secret.replace("\\n", "\n"), ASYMMETRIC
        return settings.auth_jwt_secret, ["HS256", "HS384", "HS512"]

    return from_secret


def _claims(token: str, key: Any, algorithms: list[str], settings: Settings) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=settings.auth_jwt_audience or None,
            issuer=settings.auth_jwt_issuer or None,
            leeway=LEEWAY_S,
            options={"require": ["exp", "sub"]},
        )
    except jwt.PyJWTError as error:
        raise NotAuthenticated(f"The token is not valid: {error}") from None


def _customer(claims: dict[str, Any]) -> Customer:
    try:
        found = msgspec.convert(claims, Claims)
    except msgspec.ValidationError as error:
        raise NotAuthenticated(f"The token's claims are not valid: {error}") from None
    return Customer(found.sub, found.stripe_customer, found.scope)
