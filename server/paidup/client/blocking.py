"""The blocking client, on urllib3."""

from __future__ import annotations

import time
from typing import Self, TypeVar

import urllib3

from paidup.client import calls
from paidup.client.calls import ApiCall, HttpRequest, HttpResponse, RetryingCaller
from paidup.client.responses import Credits, PendingPayment, ReservationResult, SpendResult, Status
from paidup.client.tokens import TokenFactory

T = TypeVar("T")


class Paidup(RetryingCaller):
    """Blocking client. Safe to share between threads. Close it, or use it as a context manager.

    `base_url` is the server's address; `token_for` makes a backend token for a user id (`signed_with`).
    A call is retried for at most `deadline_s` seconds. It then raises APIConnectionError, after which it
    may have succeeded: retry it with the same key. Other errors are subclasses of APIStatusError.
    """

    def __init__(self, base_url: str, token_for: TokenFactory, deadline_s: float = calls.DEADLINE_S) -> None:
        super().__init__(base_url, token_for, deadline_s)
        self._pool = urllib3.PoolManager(maxsize=20, retries=False)

    def credits(self, customer: str) -> Credits:
        """Return the balance, the grants that can be spent, and the payment in progress.

        The customer's account is created on first use.
        """
        return self._run(calls.credits_call(customer))

    def spend(self, customer: str, credits: int, key: str) -> SpendResult:
        """Spend `credits` (a whole number, at least 1) at most once for each `key`.

        The same `key` and amount return the first result again. Raises InsufficientCreditsError,
        or KeyReusedError if the key was used with another amount.
        """
        return self._run(calls.spend_call(customer, credits, key))

    def reserve(self, customer: str, credits: int, key: str, expires_in_s: int = 900) -> ReservationResult:
        """Reserve `credits` for `expires_in_s` seconds, at most once for each `key`.

        Raises InsufficientCreditsError, KeyReusedError and ReservationClosedError (the key's
        reservation was committed, released or expired).
        """
        return self._run(calls.reserve_call(customer, credits, key, expires_in_s))

    def commit(self, customer: str, credits: int, key: str) -> SpendResult:
        """Spend `credits` (0 or more) of the reservation `key` and return the rest to the balance.

        Raises NotFoundError, KeyReusedError if it was committed with another amount, or
        ReservationClosedError if it was released or has expired.
        """
        return self._run(calls.commit_call(customer, credits, key))

    def release(self, customer: str, key: str) -> SpendResult:
        """Return all credits of the reservation `key` to the balance, if it has not ended.

        Raises NotFoundError, or ReservationClosedError if it was committed.
        """
        return self._run(calls.release_call(customer, key))

    def subscribe(
        self, customer: str, plan: str, interval: str | None = None, quantity: int = 1
    ) -> PendingPayment:
        """Create a subscription to pay, or return the one that is already pending.

        `plan` is an id from the plans file; `interval` is "month" or "year", by default the plan's
        first. Raises APIStatusError, such as `unknown-plan`, `already-subscribed` or
        `payment-under-way`.
        """
        return self._run(calls.subscribe_call(customer, plan, interval, quantity))

    def adopt(self, customer: str, invoice: str) -> PendingPayment:
        """Track an invoice that you created in Stripe yourself.

        Raises NotFoundError if it does not belong to this customer.
        """
        return self._run(calls.adopt_call(customer, invoice))

    def status(self, customer: str, invoice: str) -> Status:
        """Return the stored state of this customer's invoice. Does not call Stripe.

        Raises NotFoundError.
        """
        return self._run(calls.status_call(customer, invoice))

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: ApiCall[T]) -> T:
        steps = self._steps(call)
        response: HttpResponse | None = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, float):
                    time.sleep(step)
                else:
                    response = self._send(step)
                step = steps.send(response)
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, request: HttpRequest) -> HttpResponse | None:
        timeout = urllib3.Timeout(total=request.timeout_s)
        try:
            response = self._pool.request(
                request.method, request.url, body=request.body, headers=request.headers, timeout=timeout
            )
        except urllib3.exceptions.HTTPError:
            return None
        return HttpResponse(response.status, response.headers.get("Retry-After", ""), response.data)
