"""Calls Stripe's API: warm connections, retries, deadlines, the rate limiter, Stripe's errors as ours."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar, cast

import aiohttp
import msgspec
import stripe
from stripe import StripeClient

from paidup.errors import StripeRefused, StripeUnavailable
from paidup.runtime import tracing
from paidup.runtime.outgoing import DIRECT, Outgoing
from paidup.runtime.tracing import Kind
from paidup.stripe_api.rate_limiter import Purpose, RateLimiter
from paidup.stripe_api.raw_answers import RawCalls, WholeAnswerClient
from paidup.stripe_api.read_count import ReadCounter
from paidup.stripe_api.schemas import decode

API_VERSION: str = stripe.api_version
"""What the SDK pins and sends with each request; an event of another version is read again."""

NETWORK_RETRIES = 2
KEEP_ALIVE_S = 300.0
"""3DS takes minutes: keep the connection open, so that the verification needs no new TLS handshake."""
OF_ONE_OBJECT = "resource-specific"
"""The reason of a 429 that concerns one object only, and not the endpoint."""
LOCKED = "lock_timeout"
"""The code of a 429 without a reason: another request is changing the object. Not a rate limit."""
LOCK_RETRIES = 2
LOCK_RETRY_S = 0.3
"""Before the first retry of a locked object; twice that before the second."""
TOKEN = re.compile(r"[A-Za-z0-9_.\[\]-]{1,100}")

T = TypeVar("T")


class RateLimitedClient:
    """The SDK's client behind the rate limiter. `v1` holds the SDK's services.

    `platform` makes the calls of the key's own account, where `client` acts for `connected_account`.
    Background callers pass `max_wait_s`: their wait for a slot. Most slots are left to customers.
    """

    def __init__(
        self,
        client: StripeClient,
        rate_limiter: RateLimiter,
        max_wait_s: float,
        reads: ReadCounter | None = None,
        platform: StripeClient | None = None,
        connected_account: str = "",
    ) -> None:
        self._reads = reads
        self.v1 = client.v1
        self.platform_v1 = (platform or client).v1
        self.connected_account = connected_account
        self._raw = RawCalls(client)
        self._rate_limiter = rate_limiter
        self._default_max_wait_s = max_wait_s

    async def acquire_slot(
        self,
        endpoint: str,
        max_wait_s: float | None = None,
        purpose: Purpose | None = None,
        at_most: int = 1,
    ) -> int:
        """Wait for a slot, or several (see `RateLimiter.take`). Raises StripeUnavailable after `max_wait_s`.

        Without a purpose: a customer's, or the background's where a `max_wait_s` is given.
        """
        wait_s = self._default_max_wait_s if max_wait_s is None else max_wait_s
        default = Purpose.CUSTOMER if max_wait_s is None else Purpose.BACKGROUND
        return await self._rate_limiter.take(endpoint, wait_s, purpose or default, at_most)

    async def read(
        self,
        endpoint: str,
        path: str,
        params: dict[str, Any],
        max_wait_s: float | None = None,
        slot_acquired: bool = False,
        network_retries: int | None = None,
    ) -> bytes:
        """The raw body of a GET. The SDK's objects, which are not used, would cost 5 ms for an invoice."""
        call = partial(self._raw, "get", path, params, network_retries=network_retries)
        answer = await self.call(endpoint, call, max_wait_s=max_wait_s, slot_acquired=slot_acquired)
        return answer.body

    async def post(
        self,
        endpoint: str,
        path: str,
        params: dict[str, Any],
        key: str | None = None,
        max_wait_s: float | None = None,
    ) -> bytes:
        """The raw body of a POST, with `key` as its idempotency key. As `read`, it makes no object of it."""
        call = partial(self._raw, "post", path, params, key)
        return (await self.call(endpoint, call, max_wait_s=max_wait_s)).body

    async def send(self, endpoint: str, method: str, path: str, params: dict[str, Any]) -> None:
        """A call of which only the success or the refusal matters."""
        answer = await self.call(endpoint, partial(self._raw, method, path, params))
        understood(msgspec.json.decode, answer.body)  # a proxy's page is no success

    async def call(
        self,
        endpoint: str,
        call: Callable[..., Awaitable[T]],
        *arguments: Any,
        max_wait_s: float | None = None,
        slot_acquired: bool = False,
    ) -> T:
        """Make one call. Raises StripeUnavailable, StripeRefused.

        A call whose object is locked is made again, alone and limited; where the caller has acquired the
        slot, it retries by itself, and is not made if Stripe has refused another since.
        """
        if slot_acquired:
            self._rate_limiter.require_resumed(endpoint)
            return await self._call_once(endpoint, call, arguments)
        for retry in range(LOCK_RETRIES):
            await self.acquire_slot(endpoint, max_wait_s)
            try:
                return await self._call_once(endpoint, call, arguments)
            except _ObjectLocked as locked:
                if locked.retried:  # by the SDK, as Stripe asked
                    raise
                await asyncio.sleep(LOCK_RETRY_S * 2**retry)
        await self.acquire_slot(endpoint, max_wait_s)
        return await self._call_once(endpoint, call, arguments)

    async def _call_once(
        self, endpoint: str, call: Callable[..., Awaitable[T]], arguments: tuple[Any, ...]
    ) -> T:
        if self._reads is not None:
            self._reads.note(endpoint)
        requested_at = asyncio.get_running_loop().time()
        try:
            with tracing.step(f"Stripe {endpoint}", Kind.CLIENT) as step:
                answer = await _noted(call(*arguments), step)
        except stripe.RateLimitError as error:
            reason = _header(error, "stripe-rate-limited-reason")
            if not reason and _code(error) == LOCKED:
                self._rate_limiter.answered(endpoint)
                retried = _header(error, "stripe-should-retry") == "true"
                raise _ObjectLocked(
                    f"{endpoint}: the object is locked ({_describe(error)})", retried
                ) from None
            if reason != OF_ONE_OBJECT:
                await self._rate_limiter.refused(
                    endpoint, requested_at, _seconds(_header(error, "retry-after"))
                )
            raise StripeUnavailable(f"{endpoint}: rate limited ({_describe(error)})", 2.0) from None
        except (stripe.APIConnectionError, stripe.APIError) as error:
            server_failed = (error.http_status or 0) >= 500
            raise StripeUnavailable(
                f"{endpoint}: no good answer ({_describe(error)})", final=server_failed
            ) from None
        except stripe.StripeError as error:
            self._rate_limiter.answered(endpoint)
            raise StripeRefused(
                f"{endpoint}: refused ({_describe(error)})", error.code, error.http_status
            ) from None
        self._rate_limiter.answered(endpoint)
        return answer


async def _noted(call: Awaitable[T], step: dict[str, Any] | None) -> T:
    """The answer, with the id by which Stripe's dashboard finds the request noted in its step."""
    if step is None:
        return await call
    try:
        answer: Any = await call
    except stripe.StripeError as error:
        step["stripe.request_id"] = _header(error, "request-id") or None
        step["http.response.status_code"] = error.http_status
        raise
    last = getattr(answer, "last_response", answer)
    step["stripe.request_id"] = getattr(last, "request_id", None)
    step["http.response.status_code"] = getattr(last, "code", None)
    return cast(T, answer)


class _ObjectLocked(StripeUnavailable):
    """`retried`: the SDK has retried already."""

    def __init__(self, message: str, retried: bool) -> None:
        super().__init__(message, 1.0)
        self.retried = retried


@asynccontextmanager
async def open_client(
    key: str,
    api_base: str,
    timeout_s: float,
    rate_limiter: RateLimiter,
    reads: ReadCounter | None = None,
    connected_account: str = "",
    outgoing: Outgoing = DIRECT,
) -> AsyncIterator[RateLimitedClient]:
    """A client whose connections stay open for the length of the block. Connects to nothing yet.

    With a `connected_account`, each call is made for it: https://docs.stripe.com/connect/authentication
    """
    async with outgoing.session(api_base, KEEP_ALIVE_S) as session:
        timeout: Any = aiohttp.ClientTimeout(total=timeout_s)
        transport = WholeAnswerClient(timeout=timeout, session=session)
        platform, client = (
            StripeClient(
                key,
                stripe_account=account,
                http_client=transport,
                max_network_retries=NETWORK_RETRIES,
                base_addresses={"api": api_base.rstrip("/")},
            )
            for account in (None, connected_account or None)
        )
        yield RateLimitedClient(client, rate_limiter, timeout_s, reads, platform, connected_account)


def body_of(answer: Any) -> str:
    """The raw body of an answer of the SDK."""
    return str(answer.last_response.body)


def _describe(error: stripe.StripeError) -> str:
    """What an operator needs to find the error in Stripe's dashboard. Not Stripe's message: it may name
    customers and parts of keys, which belong in no log and no browser.
    """
    known = {
        "HTTP": error.http_status,
        "code": _code(error),
        "param": getattr(error, "param", None),
        "reason": _header(error, "stripe-rate-limited-reason"),
        "request": _header(error, "request-id"),
        "cause": type(error.__cause__).__name__ if error.__cause__ else None,
    }
    shown = (f"{name} {value}" for name, value in known.items() if value and TOKEN.fullmatch(str(value)))
    return ", ".join(shown) or type(error).__name__


def _code(error: stripe.StripeError) -> str | None:
    """The error's code; of a 429 the SDK shows it only in the body."""
    return error.code or getattr(error.error, "code", None)


def _header(error: stripe.StripeError, name: str) -> str:
    headers: dict[str, str] = dict(error.headers or {})
    return next((value for header, value in headers.items() if header.lower() == name), "")


def _seconds(text: str) -> float:
    """What a Retry-After says; 0 for none, or for a date."""
    return float(text) if text.isdecimal() else 0.0


def decode_answer(kind: type[T], body: bytes | str) -> T:
    """An answer as one of the structs of `schemas.py`. Raises StripeUnavailable where it is none."""
    return understood(partial(decode, kind), body)


def understood(decoder: Callable[[Any], T], body: bytes | str) -> T:
    """An answer decoded by `decoder`. Raises StripeUnavailable where it is of another shape.

    Stripe has not refused anything then, and a later answer may be understood: after an update, say.
    """
    try:
        return decoder(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StripeUnavailable(f"an answer is not understood: {error}") from None
