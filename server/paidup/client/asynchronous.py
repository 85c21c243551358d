"""The asynchronous client, on aiohttp."""

from __future__ import annotations

import asyncio
from typing import Self, TypeVar

import aiohttp

from paidup.client import calls
from paidup.client.calls import ApiCall, HttpRequest, HttpResponse, RetryingCaller
from paidup.client.responses import Credits, PendingPayment, ReservationResult, SpendResult, Status

T = TypeVar("T")


class AsyncPaidup(RetryingCaller):
    """Client for one event loop. Use it as an asynchronous context manager.

    `base_url` is the server's address; `token_for` makes a backend token for a user id (`signed_with`).
    A call is retried for at most `deadline_s` seconds. It then raises APIConnectionError, after which it
    may have succeeded: retry it with the same key. Other errors are subclasses of APIStatusError.
    """

    _http: aiohttp.ClientSession

    async def credits(self, customer: str) -> Credits:
        """Return the balance, the grants that can be spent, and the payment in progress.

        The customer's account is created on first use.
        """
        return await self._run(calls.credits_call(customer))

    async def spend(self, customer: str, credits: int, key: str) -> SpendResult:
        """Spend `credits` (a whole number, at least 1) at most once for each `key`.

        The same `key` and amount return the first result again. Raises InsufficientCreditsError,
        or KeyReusedError if the key was used with another amount.
        """
        return await self._run(calls.spend_call(customer, credits, key))

    async def reserve(
        self, customer: str, credits: int, key: str, expires_in_s: int = 900
    ) -> ReservationResult:
        """Reserve `credits` for `expires_in_s` seconds, at most once for each `key`.

        Raises InsufficientCreditsError, KeyReusedError and ReservationClosedError (the key's
        reservation was committed, released or expired).
        """
        return await self._run(calls.reserve_call(customer, credits, key, expires_in_s))

    async def commit(self, customer: str, credits: int, key: str) -> SpendResult:
        """Spend `credits` (0 or more) of the reservation `key` and return the rest to the balance.

        Raises NotFoundError, KeyReusedError if it was committed with another amount, or
        ReservationClosedError if it was released or has expired.
        """
        return await self._run(calls.commit_call(customer, credits, key))

    async def release(self, customer: str, key: str) -> SpendResult:
        """Return all credits of the reservation `key` to the balance, if it has not ended.

        Raises NotFoundError, or ReservationClosedError if it was committed.
        """
        return await self._run(calls.release_call(customer, key))

    async def subscribe(
        self, customer: str, plan: str, interval: str | None = None, quantity: int = 1
    ) -> PendingPayment:
        """Create a subscription to pay, or return the one that is already pending.

        `plan` is an id from the plans file; `interval` is "month" or "year", by default the plan's
        first. Raises APIStatusError, such as `unknown-plan`, `already-subscribed` or
        `payment-under-way`.
        """
        return await self._run(calls.subscribe_call(customer, plan, interval, quantity))

    async def adopt(self, customer: str, invoice: str) -> PendingPayment:
        """Track an invoice that you created in Stripe yourself.

        Raises NotFoundError if it does not belong to this customer.
        """
        return await self._run(calls.adopt_call(customer, invoice))

    async def status(self, customer: str, invoice: str) -> Status:
        """Return the stored state of this customer's invoice. Does not call Stripe.

        Raises NotFoundError.
        """
        return await self._run(calls.status_call(customer, invoice))

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    async def _run(self, call: ApiCall[T]) -> T:
        steps = self._steps(call)
        response: HttpResponse | None = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                else:
                    response = await self._send(step)
                step = steps.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, request: HttpRequest) -> HttpResponse | None:
        timeout = aiohttp.ClientTimeout(total=request.timeout_s)
        try:
            async with self._http.request(
                request.method, request.url, data=request.body, headers=request.headers, timeout=timeout
            ) as response:
                retry_after = response.headers.get("Retry-After", "")
                return HttpResponse(response.status, retry_after, await response.read())
        except (aiohttp.ClientError, TimeoutError):
            return None
