"""The client for a SaaS's backend in Python: balances, spends, reservations and purchases over HTTP.

    paidup = Paidup("https://billing.example.com", signed_with(AUTH_JWT_SECRET))
    try:
        paidup.spend("user-17", 5, key="report-4711")
    except NotEnoughCredits as refused:
        show(refused.activating or plans())

`Paidup` blocks; `AsyncPaidup` has the same methods to be awaited. Every method names the customer
by your id of the user. A call has a deadline, and is repeated within it where nothing answered or
the server said 429 or 503, not earlier than its Retry-After says: each of them is safe to repeat,
since the same key, or the same pending payment, gives the same answer. Repetitions have a budget,
so that many callers do not make an outage worse. Needs aiohttp, msgspec, PyJWT and urllib3;
imports nothing else of the server, so a copy of this one file works as well.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Generator
from datetime import datetime
from http import HTTPStatus
from typing import Any, Generic, NamedTuple, Self, TypeVar
from urllib.parse import quote

import aiohttp
import jwt
import msgspec
import urllib3

T = TypeVar("T")
TokenFor = Callable[[str], str]
"""From your id of a user to a backend token for them."""

DEADLINE_S = 10.0
FIRST_PAUSE_S = 0.1
TRY_AGAIN = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.GATEWAY_TIMEOUT,
}


def page_token(secret: str, customer: str, audience: str = "", issuer: str = "", ttl_s: int = 600) -> str:
    """A token for the customer's page: it reads, buys, watches and changes their plan for `ttl_s`.

    It cannot spend, reserve, commit or release. The arguments are what AUTH_JWT_SECRET,
    AUTH_JWT_AUDIENCE and AUTH_JWT_ISSUER say.
    """
    return _token(secret, customer, "browser", audience, issuer, ttl_s)


def backend_token(secret: str, customer: str, audience: str = "", issuer: str = "", ttl_s: int = 60) -> str:
    """A token that also moves the customer's credits. Never give it to a browser."""
    return _token(secret, customer, "backend", audience, issuer, ttl_s)


def signed_with(secret: str, audience: str = "", issuer: str = "", ttl_s: int = 60) -> TokenFor:
    """Backend tokens for each call of a client: `Paidup(url, signed_with(AUTH_JWT_SECRET))`."""

    def token_for(customer: str) -> str:
        return backend_token(secret, customer, audience, issuer, ttl_s)

    return token_for


def _token(secret: str, customer: str, scope: str, audience: str, issuer: str, ttl_s: int) -> str:
    named = {name: value for name, value in (("aud", audience), ("iss", issuer)) if value}
    claims = {"sub": customer, "scope": scope, "exp": int(time.time()) + ttl_s, **named}
    return jwt.encode(claims, secret, "HS256")


# What is answered


class PaymentError(msgspec.Struct, frozen=True):
    code: str
    message: str
    decline_code: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The state of one invoice; docs/protocol.md has the words. `active`: the credits are there."""

    invoice: str
    version: int
    status: str
    stage: str
    plan: str | None
    credits_granted: int
    balance: int
    via: str | None
    at: datetime
    error: PaymentError | None = None

    @property
    def active(self) -> bool:
        return self.status == "active"


class Activating(msgspec.Struct, frozen=True):
    """A payment on its way. Give `invoice` and `ticket` to the browser's `activate()`.

    `reason` is Stripe's `billing_reason`: "subscription_create", "subscription_cycle" for a renewal,
    "subscription_update" for a change, "manual" for a top-up.
    """

    invoice: str
    ticket: str
    status: Status
    reason: str | None = None


class Grant(msgspec.Struct, frozen=True):
    invoice: str
    plan: str | None
    credits: int
    remaining: int
    expires_at: datetime | None


class Expiry(msgspec.Struct, frozen=True):
    at: datetime
    credits: int


class Credits(msgspec.Struct, frozen=True):
    """What a customer has. A `balance` below zero is a debt."""

    balance: int
    grants: list[Grant]
    next_expiry: Expiry | None
    activating: Activating | None


class Spent(msgspec.Struct, frozen=True):
    balance: int
    credits: int
    key: str


class Reserved(msgspec.Struct, frozen=True):
    key: str
    credits: int
    expires_at: datetime
    balance: int


class Purchase(msgspec.Struct, frozen=True):
    """A payment to make. `client_secret` is for Stripe.js; None where nothing is due."""

    invoice: str
    client_secret: str | None
    ticket: str
    status: Status


# What is refused


class PaidupError(Exception):
    """The root of what the methods raise."""


class Unavailable(PaidupError):
    """No answer within the deadline. It may have been done: repeat it with the same key."""


class Refused(PaidupError):
    """Answered, and not with a success. `problem` is the word of docs/api.md, such as `unknown-plan`."""

    def __init__(self, status: int, problem: str, detail: str, invoice: str | None = None) -> None:
        super().__init__(f"{status} {problem}: {detail}")
        self.status = status
        self.problem = problem
        self.detail = detail
        self.invoice = invoice
        """The invoice that is in the way, where one is: payment-under-way, invoice-unpaid."""


class NotFound(Refused):
    """No such reservation, or no such invoice of this customer."""


class KeyReused(Refused):
    """The key stands for another amount."""


class ReservationOver(Refused):
    """It was committed, released or expired before."""


class NotEnoughCredits(Refused):
    """`activating` is the payment that this customer is waiting for, or None: sell him a plan."""

    balance: int
    needed: int
    activating: Activating | None


class _Problem(msgspec.Struct, frozen=True):
    type: str = "http"
    detail: str = ""
    invoice: str | None = None
    balance: int = 0
    needed: int = 0
    activating: Activating | None = None


_REFUSALS: dict[str, type[Refused]] = {
    "not-found": NotFound,
    "key-reused": KeyReused,
    "reservation-over": ReservationOver,
    "insufficient-credits": NotEnoughCredits,
}


def _refusal(status: int, body: bytes) -> Refused:
    try:
        found = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found = _Problem(detail=body[:200].decode(errors="replace"))  # a proxy's words
    word = found.type.rpartition("/")[2]
    refused = _REFUSALS.get(word, Refused)(status, word, found.detail, found.invoice)
    if isinstance(refused, NotEnoughCredits):
        refused.balance, refused.needed = found.balance, found.needed
        refused.activating = found.activating
    return refused


# How a call is made, whoever sends it


class _Call(NamedTuple, Generic[T]):
    kind: type[T]
    customer: str
    method: str
    path: str
    body: dict[str, Any] | None = None


class _Request(NamedTuple):
    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    timeout_s: float


class _Answer(NamedTuple):
    status: int
    retry_after: str
    body: bytes


def _decoded(answer: _Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PaidupError(f"This is no answer of Paidup's: {error}") from None


class _Budget:
    """A repetition costs a token, an answer gives a tenth of one back: at most one call in ten more."""

    def __init__(self, tokens: float = 10.0) -> None:
        self._most = self._tokens = tokens

    def answered(self) -> None:
        self._tokens = min(self._most, self._tokens + 0.1)

    def take(self) -> bool:
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class _Caller:
    """The calls and their repetition, without input or output: it asks for requests and pauses."""

    def __init__(self, base_url: str, token_for: TokenFor, deadline_s: float = DEADLINE_S) -> None:
        self._base_url = base_url.rstrip("/")
        self._token_for = token_for
        self._deadline_s = deadline_s
        self._budget = _Budget()

    def _steps(self, call: _Call[T]) -> Generator[_Request | float, _Answer | None, T]:
        """Yields what to send, or how many seconds to pause; is sent the answer, or None."""
        body = None if call.body is None else msgspec.json.encode(call.body)
        headers = {"Authorization": f"Bearer {self._token_for(call.customer)}"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        deadline, pause_s = time.monotonic() + self._deadline_s, FIRST_PAUSE_S
        while True:
            # A connection that hangs leaves time for another.
            timeout_s = min(deadline - time.monotonic(), self._deadline_s / 2)
            answer = yield _Request(call.method, self._base_url + call.path, headers, body, timeout_s)
            failed: PaidupError = Unavailable(f"{call.method} {call.path}: no answer")
            asked_s = 0.0
            if answer is not None:
                if 200 <= answer.status < 300:
                    self._budget.answered()
                    return _decoded(answer, call.kind)
                refused = _refusal(answer.status, answer.body)
                if answer.status not in TRY_AGAIN or refused.problem == "stripe-refused":
                    self._budget.answered()
                    raise refused
                # A 429 is an answer: nothing was done, and it is known.
                too_many = answer.status == HTTPStatus.TOO_MANY_REQUESTS
                failed = refused if too_many else Unavailable(f"{call.method} {call.path}: {refused}")
                asked_s = float(answer.retry_after) if answer.retry_after.isdecimal() else 0.0
            pause = asked_s + pause_s * (0.5 + random.random())  # noqa: S311
            if time.monotonic() + pause >= deadline or not self._budget.take():
                raise failed
            yield pause
            pause_s *= 2


def _credits(customer: str) -> _Call[Credits]:
    return _Call(Credits, customer, "GET", "/api/credits")


def _spend(customer: str, credits: int, key: str) -> _Call[Spent]:
    return _Call(Spent, customer, "POST", "/api/credits/spend", {"credits": credits, "key": key})


def _reserve(customer: str, credits: int, key: str, expires_in_s: int) -> _Call[Reserved]:
    body = {"credits": credits, "key": key, "expires_in_s": expires_in_s}
    return _Call(Reserved, customer, "POST", "/api/credits/reserve", body)


def _commit(customer: str, credits: int, key: str) -> _Call[Spent]:
    return _Call(Spent, customer, "POST", "/api/credits/commit", {"credits": credits, "key": key})


def _release(customer: str, key: str) -> _Call[Spent]:
    return _Call(Spent, customer, "POST", "/api/credits/release", {"key": key})


def _subscribe(customer: str, plan: str, interval: str | None, quantity: int) -> _Call[Purchase]:
    body: dict[str, Any] = {"plan": plan, "quantity": quantity}
    if interval is not None:
        body["interval"] = interval
    return _Call(Purchase, customer, "POST", "/api/subscriptions", body)


def _adopt(customer: str, invoice: str) -> _Call[Purchase]:
    return _Call(Purchase, customer, "POST", "/api/invoices", {"invoice": invoice})


def _status(customer: str, invoice: str) -> _Call[Status]:
    return _Call(Status, customer, "GET", f"/api/invoices/{quote(invoice, safe='')}")


class Paidup(_Caller):
    """Blocking; may be shared by threads. Close it, or use it as a context manager."""

    def __init__(self, base_url: str, token_for: TokenFor, deadline_s: float = DEADLINE_S) -> None:
        super().__init__(base_url, token_for, deadline_s)
        self._pool = urllib3.PoolManager(maxsize=20, retries=False)

    def credits(self, customer: str) -> Credits:
        """The balance, the live grants, and what is being activated."""
        return self._run(_credits(customer))

    def spend(self, customer: str, credits: int, key: str) -> Spent:
        """Take `credits`, once for each `key`. Raises NotEnoughCredits and KeyReused."""
        return self._run(_spend(customer, credits, key))

    def reserve(self, customer: str, credits: int, key: str, expires_in_s: int = 900) -> Reserved:
        """Set `credits` aside, once for each `key`. Raises NotEnoughCredits, KeyReused and
        ReservationOver (the key's reservation was committed, released or expired).
        """
        return self._run(_reserve(customer, credits, key, expires_in_s))

    def commit(self, customer: str, credits: int, key: str) -> Spent:
        """Spend `credits` of what `key` reserved; the rest goes back. Raises ReservationOver."""
        return self._run(_commit(customer, credits, key))

    def release(self, customer: str, key: str) -> Spent:
        """All that `key` reserved goes back. Raises ReservationOver where it was committed."""
        return self._run(_release(customer, key))

    def subscribe(self, customer: str, plan: str, interval: str | None = None, quantity: int = 1) -> Purchase:
        """A subscription to pay; the same pending one again rather than a second."""
        return self._run(_subscribe(customer, plan, interval, quantity))

    def adopt(self, customer: str, invoice: str) -> Purchase:
        """Take up an invoice that you made in Stripe by yourself."""
        return self._run(_adopt(customer, invoice))

    def status(self, customer: str, invoice: str) -> Status:
        """What is known of an invoice of this customer. Asks nobody else; a browser's socket does."""
        return self._run(_status(customer, invoice))

    def close(self) -> None:
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: _Call[T]) -> T:
        steps = self._steps(call)
        answer: _Answer | None = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    answer = self._send(step)
                step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, request: _Request) -> _Answer | None:
        timeout = urllib3.Timeout(total=request.timeout_s)
        try:
            response = self._pool.request(
                request.method, request.url, body=request.body, headers=request.headers, timeout=timeout
            )
        except urllib3.exceptions.HTTPError:
            return None
        return _Answer(response.status, response.headers.get("Retry-After", ""), response.data)


class AsyncPaidup(_Caller):
    """To be awaited, in one event loop, as an asynchronous context manager."""

    _http: aiohttp.ClientSession

    async def credits(self, customer: str) -> Credits:
        """The balance, the live grants, and what is being activated."""
        return await self._run(_credits(customer))

    async def spend(self, customer: str, credits: int, key: str) -> Spent:
        """Take `credits`, once for each `key`. Raises NotEnoughCredits and KeyReused."""
        return await self._run(_spend(customer, credits, key))

    async def reserve(self, customer: str, credits: int, key: str, expires_in_s: int = 900) -> Reserved:
        """Set `credits` aside, once for each `key`. Raises NotEnoughCredits, KeyReused and
        ReservationOver (the key's reservation was committed, released or expired).
        """
        return await self._run(_reserve(customer, credits, key, expires_in_s))

    async def commit(self, customer: str, credits: int, key: str) -> Spent:
        """Spend `credits` of what `key` reserved; the rest goes back. Raises ReservationOver."""
        return await self._run(_commit(customer, credits, key))

    async def release(self, customer: str, key: str) -> Spent:
        """All that `key` reserved goes back. Raises ReservationOver where it was committed."""
        return await self._run(_release(customer, key))

    async def subscribe(
        self, customer: str, plan: str, interval: str | None = None, quantity: int = 1
    ) -> Purchase:
        """A subscription to pay; the same pending one again rather than a second."""
        return await self._run(_subscribe(customer, plan, interval, quantity))

    async def adopt(self, customer: str, invoice: str) -> Purchase:
        """Take up an invoice that you made in Stripe by yourself."""
        return await self._run(_adopt(customer, invoice))

    async def status(self, customer: str, invoice: str) -> Status:
        """What is known of an invoice of this customer. Asks nobody else; a browser's socket does."""
        return await self._run(_status(customer, invoice))

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def _run(self, call: _Call[T]) -> T:
        steps = self._steps(call)
        answer: _Answer | None = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    answer = await self._send(step)
                step = steps.send(answer)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, request: _Request) -> _Answer | None:
        timeout = aiohttp.ClientTimeout(total=request.timeout_s)
        try:
            async with self._http.request(
                request.method, request.url, data=request.body, headers=request.headers, timeout=timeout
            ) as response:
                return _Answer(
                    response.status, response.headers.get("Retry-After", ""), await response.read()
                )
        except (aiohttp.ClientError, TimeoutError):
            return None
