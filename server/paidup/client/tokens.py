"""Sign the tokens that name a customer to the API."""

from __future__ import annotations

import time
from collections.abc import Callable

import jwt

TokenFactory = Callable[[str], str]
"""Returns a backend token for your id of a user."""


def page_token(secret: str, customer: str, audience: str = "", issuer: str = "", ttl_s: int = 600) -> str:
    """Return a token for the customer's page, valid for `ttl_s` seconds.

    It can read, buy, watch payments and change the customer's plan. It cannot spend, reserve,
    commit or release credits. `secret`, `audience` and `issuer` are the server's AUTH_JWT_SECRET,
    AUTH_JWT_AUDIENCE and AUTH_JWT_ISSUER.
    """
    return _sign(secret, customer, "browser", audience, issuer, ttl_s)


def backend_token(secret: str, customer: str, audience: str = "", issuer: str = "", ttl_s: int = 60) -> str:
    """Return a token that can also spend the customer's credits, valid for `ttl_s` seconds.

    Never send it to a browser. The other arguments are those of `page_token`.
    """
    return _sign(secret, customer, "backend", audience, issuer, ttl_s)


def signed_with(secret: str, audience: str = "", issuer: str = "", ttl_s: int = 60) -> TokenFactory:
    """Return the token factory of a client: `Paidup(url, signed_with(AUTH_JWT_SECRET))`."""

    def token_for(customer: str) -> str:
        return backend_token(secret, customer, audience, issuer, ttl_s)

    return token_for


def _sign(secret: str, customer: str, scope: str, audience: str, issuer: str, ttl_s: int) -> str:
    optional = {name: value for name, value in (("aud", audience), ("iss", issuer)) if value}
    claims = {"sub": customer, "scope": scope, "exp": int(time.time()) + ttl_s, **optional}
    return jwt.encode(claims, secret, "HS256")
