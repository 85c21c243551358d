"""Remembers which tokens were verified, so that a customer's next request does not verify the same one again.

What a token says does not change, so it stays verified from its `nbf` and `iat` until its `exp`, with the key
that has verified it. Another key under its id, as after a rotation, verifies it again. Tokens are kept as
digests, and what was refused is not kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from paidup.key_sets import VerificationKey
    from paidup.web.auth import Customer

MAX_TOKENS = 10_000
"""About five megabytes. The one that was verified first makes place for another."""


class VerifiedToken(msgspec.Struct, frozen=True):
    """Whose it is, in [`begins`, `ends`) of Unix time. `kid`: the key's id in the key set, if it has one."""

    customer: Customer
    key: VerificationKey
    begins: float
    ends: float
    kid: str | None = None


class VerifiedTokens:
    """The tokens of one process."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._by_digest: dict[bytes, VerifiedToken] = {}

    def find(self, token: str) -> VerifiedToken | None:
        """What is known of a token that is valid at this moment. Its key may have been replaced since."""
        found = self._by_digest.get(_digest(token))
        return found if found and found.begins <= self._clock() < found.ends else None

    def keep(self, token: str, verified: VerifiedToken) -> None:
        digest = _digest(token)
        if digest not in self._by_digest and len(self._by_digest) >= MAX_TOKENS:
            del self._by_digest[next(iter(self._by_digest))]
        self._by_digest[digest] = verified


def _digest(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
