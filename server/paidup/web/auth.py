"""Who is asking: the customer that a bearer token names.

The token is a JWT that the SaaS's backend mints: `sub` is its own id of the user, `scope` says
whether a browser or the backend holds it, and `stripe_customer` may tie the user to a Stripe
customer that exists already. Another way of naming customers (the demo's cookie) is a function of
the same shape, given to `create_app`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from starlette.requests import Request

from paidup.errors import ConfigurationError, NotAuthenticated
from paidup.key_sets import KeySet, VerificationKey, algorithms_for
from paidup.settings import PUBLIC_KEY, Settings

TEXT = r"\A[^\x00-\x1f\x7f\ud800-\udfff]*\Z"
NAME = TEXT.replace("*", "+")
"""As bodies.PRINTABLE; and Python's reader of JSON, unlike msgspec's, lets half of a character through."""
LEEWAY_S = 30
MALFORMED = (
    *(jwt.PyJWTError, msgspec.ValidationError),
    *(ValueError, TypeError, OverflowError, RecursionError),  # of what PyJWT reads JSON and numbers with
)


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
    """Who the customer is."""

    sub: Annotated[str, msgspec.Meta(pattern=NAME, max_length=200)]
    stripe_customer: Annotated[str, msgspec.Meta(pattern=NAME, max_length=255)] | None = None


class TokenClaims(Claims, frozen=True, kw_only=True):
    """All of them. JWT's own times are numbers, and nothing that can be read as one."""

    exp: float
    nbf: float = 0
    iat: float = 0
    scope: Annotated[str, msgspec.Meta(pattern=TEXT)] = Scope.BROWSER
    """An identity provider puts scopes of its own here (`openid profile`): they make a browser's token."""


Authenticate = Callable[[Request], Awaitable[Customer]]
"""Names the customer of a request, or raises NotAuthenticated."""


def bearer_authentication(settings: Settings, key_set: KeySet | None = None) -> Authenticate:
    """Authentication by JWT: by `key_set` where there is one, else by AUTH_JWT_SECRET; refuses all
    where neither is given. Raises ConfigurationError for a public key that cannot be used.
    """
    fixed = _fixed_key(settings.auth_jwt_secret)

    async def authenticate(request: Request) -> Customer:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise NotAuthenticated("A bearer token is needed.")
        key = await key_set.key(_key_id(token)) if key_set else fixed
        if key is None:
            raise NotAuthenticated(
                "No way of authentication is configured (AUTH_JWT_SECRET or AUTH_JWKS_URL)."
            )
        found = _claims(token, key, settings)
        scope = Scope.BACKEND if found.scope == Scope.BACKEND else Scope.BROWSER
        return Customer(found.sub, found.stripe_customer, scope)

    return authenticate


def _fixed_key(secret: str) -> VerificationKey | None:
    # The algorithms follow the configured key, never the token: no confusion of the two.
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
    """Whatever a token holds, it is refused and is no fault of ours."""
    try:
        yield
    except MALFORMED as error:
        words = str(error).encode("ascii", "backslashreplace").decode()
        raise NotAuthenticated(f"The token is not valid: {words[:200]}") from None


def _key_id(token: str) -> str:
    with _malformed_is_refused():
        kid = jwt.get_unverified_header(token).get("kid")
    if not isinstance(kid, str):
        raise NotAuthenticated("The token is not valid: its header names no key (kid).")
    return kid


def _claims(token: str, key: VerificationKey, settings: Settings) -> TokenClaims:
    with _malformed_is_refused():
        claims = jwt.decode(
            token,
            key.key,
            algorithms=key.algorithms,
            audience=settings.auth_jwt_audience or None,
            issuer=settings.auth_jwt_issuer or None,
            leeway=LEEWAY_S,
            options={"require": ["exp", "sub"]},
        )
        return msgspec.convert(claims, TokenClaims)
