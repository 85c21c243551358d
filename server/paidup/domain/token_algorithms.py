"""The algorithms that a customer's token may be signed with (RFC 7518). `none` is not one of them."""

from __future__ import annotations

from collections.abc import Sequence

SHARED_SECRET = ("HS256", "HS384", "HS512")
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA", *SHARED_SECRET)


def algorithm_problems(listed: Sequence[str], shared_secret: bool) -> list[str]:
    """What is wrong with AUTH_JWT_ALGORITHMS, where tokens are signed with a shared secret or a key."""
    problems = [
        f"AUTH_JWT_ALGORITHMS: {name!r} is not one of {', '.join(ALGORITHMS)}"
        for name in listed
        if name not in ALGORITHMS
    ]
    if shared_secret and listed and not set(listed) & set(SHARED_SECRET):
        problems.append("AUTH_JWT_ALGORITHMS: add HS256, the algorithm of a shared AUTH_JWT_SECRET")
    return problems
