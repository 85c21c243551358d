"""The identity provider's key set (RFC 7517), with which customers' tokens are verified.

One task in each process fetches it ahead of time, and retries with backoff: no request waits for the
provider while the token's key is known. A key that the provider removes is refused after the next
fetch. A response without a usable key does not replace a good set, which stays in use for GRACE_S
while the provider is down. An unknown `kid` causes one fetch at once, then at most one per
UNKNOWN_KEY_PAUSE_S, however many tokens have one.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from paidup.errors import IdentityUnavailable, NotAuthenticated
from paidup.runtime.metrics import Metrics
from paidup.runtime.outgoing import DIRECT, Outgoing, without_password
from paidup.runtime.tasks import cancel_tasks

log = structlog.get_logger(__name__)

FETCH_TIMEOUT_S = 5.0
MAX_BYTES = 256 * 1024
WAIT_S = 2.0
"""How long a token with an unknown `kid` waits for a fetch."""
UNKNOWN_KEY_PAUSE_S = 30.0
GRACE_S = 4 * 3600.0
FIRST_RETRY_S = 1.0
LAST_RETRY_S = 30.0
MIN_RSA_BITS = 2048  # RFC 7518, section 3.3
EC_ALGORITHMS = {"secp256r1": ["ES256"], "secp384r1": ["ES384"], "secp521r1": ["ES512"]}


class VerificationKey(NamedTuple):
    """A key and the algorithms allowed with it, whatever a token's header says."""

    key: Any
    algorithms: list[str]


class KeySetUnavailable(Exception):
    """The provider did not respond in time, or not with a key set. The message says why."""


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


class KeySet:
    """The keys at one URL. `kept_fresh` fetches them for the length of its block."""

    def __init__(
        self,
        url: str,
        refresh_s: float,
        clock: Callable[[], float] = time.monotonic,
        outgoing: Outgoing = DIRECT,
    ) -> None:
        self._url = url
        self._outgoing = outgoing
        self._refresh_s = refresh_s
        self._clock = clock
        self._keys: dict[str, VerificationKey] = {}
        self._fetched_at = -math.inf
        self._asked_at = -math.inf  # when an unknown kid last caused a fetch
        self._failures = 0  # in a row
        self._fetching = False
        self._wanted = asyncio.Event()
        self._done = asyncio.Event()  # set when the current or next fetch has ended

    @asynccontextmanager
    async def kept_fresh(self, metrics: Metrics) -> AsyncIterator[None]:
        """Fetch now and then every `refresh_s`, until the block ends."""
        self._wanted, self._done, self._fetching = asyncio.Event(), asyncio.Event(), True
        metrics.key_set_age.set_function(lambda: self._clock() - self._fetched_at)
        task = asyncio.create_task(self._refresh_forever(metrics), name="key set")
        try:
            yield
        finally:
            await cancel_tasks(task)

    async def key(self, kid: str) -> VerificationKey:
        """The key with this id. Raises NotAuthenticated if the set has no such key, or
        IdentityUnavailable if the set cannot be fetched.
        """
        if kid not in self._usable():
            self._ask_early()
            await self._fetch_under_way()
        if found := self._usable().get(kid):
            return found
        if self._failures or self._fetching:
            raise IdentityUnavailable("The keys of the identity provider cannot be fetched.")
        raise NotAuthenticated("The token is not valid: its key is not in the key set.")

    def _usable(self) -> dict[str, VerificationKey]:
        return self._keys if self._clock() - self._fetched_at <= GRACE_S else {}

    def _ask_early(self) -> None:
        now = self._clock()
        # After a failure only the retries fetch: invalid tokens must not bypass the backoff.
        if not self._fetching and not self._failures and now - self._asked_at >= UNKNOWN_KEY_PAUSE_S:
            self._asked_at, self._fetching = now, True
            self._wanted.set()

    async def _fetch_under_way(self) -> None:
        if self._fetching:
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT_S):
                    await self._done.wait()

    async def _refresh_forever(self, metrics: Metrics) -> None:
        while True:
            self._fetching = True
            fetched = await self._refresh()
            metrics.key_set_fetches.labels("ok" if fetched else "failed").inc()
            self._wanted.clear()
            self._fetching = False
            self._done.set()
            self._done = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._wanted.wait()

    async def _refresh(self) -> bool:
        began = self._clock()
        try:
            self._keys = await fetch_keys(self._url, self._outgoing)
        except KeySetUnavailable as error:
            self._failures += 1
            log.warning("key_set_unavailable", reason=str(error), failures=self._failures)
            return False
        except Exception:
            self._failures += 1
            log.exception("key_set_failed")
            return False
        # From before the request: the set may have changed since.
        self._fetched_at, self._failures = began, 0
        return True

    def _pause_s(self) -> float:
        """Seconds until the next fetch, with jitter; at most `refresh_s`."""
        if not self._failures:
            return self._refresh_s * random.uniform(0.8, 1.0)  # noqa: S311
        pause_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures - 1, 10))
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311


async def fetch_keys(url: str, outgoing: Outgoing = DIRECT) -> dict[str, VerificationKey]:
    """The usable keys at `url` by `kid`; at least one. Raises KeySetUnavailable."""
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    try:
        # Redirects are not followed: they could lead from TLS to plain HTTP.
        async with (
            outgoing.session(url, timeout=timeout, auto_decompress=False) as http,
            http.get(url, headers=headers, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise KeySetUnavailable(f"the response was {response.status}")
            return parse_keys(await _bounded(response))
    except TimeoutError:
        raise KeySetUnavailable(f"no response within {FETCH_TIMEOUT_S:.0f} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise KeySetUnavailable(f"{type(error).__name__}: {without_password(str(error))}") from None


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            raise KeySetUnavailable(f"the response is larger than {MAX_BYTES} bytes")
    return bytes(body)


def parse_keys(body: bytes) -> dict[str, VerificationKey]:
    """The usable keys by `kid`, the first of each. Raises KeySetUnavailable if there are none."""
    try:
        listed = msgspec.json.decode(body, type=_Document).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise KeySetUnavailable("the response is not a key set") from None
    found: dict[str, VerificationKey] = {}
    for jwk in listed:
        kid, key = jwk.get("kid"), _verification_key(jwk)
        if isinstance(kid, str) and key is not None:
            found.setdefault(kid, key)
    if not found:
        raise KeySetUnavailable("the response has no usable key")
    return found


def _verification_key(jwk: dict[str, Any]) -> VerificationKey | None:
    """The key, or None if it is not for signatures, is symmetric or private, or cannot be read."""
    try:
        if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ["verify"]):
            return None
        key = jwt.PyJWK(jwk).key
    except Exception:  # one malformed key must not make the others unusable
        return None
    allowed = [name for name in algorithms_for(key) if jwk.get("alg") in (None, name)]
    return VerificationKey(key, allowed) if allowed else None


def algorithms_for(key: object) -> list[str]:
    """The algorithms for a public key; none for a weak key or anything else."""
    if isinstance(key, RSAPublicKey):
        return ["RS256", "RS384", "RS512", "PS256"] if key.key_size >= MIN_RSA_BITS else []
    if isinstance(key, EllipticCurvePublicKey):
        return EC_ALGORITHMS.get(key.curve.name, [])
    return ["EdDSA"] if isinstance(key, Ed25519PublicKey) else []
