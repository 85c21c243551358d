"""Retries up to a deadline, without I/O: `steps` yields requests to send and pauses to make."""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from http import HTTPStatus
from typing import NamedTuple, TypeVar, cast

import msgspec

from paidup.client.calls import ApiCall
from paidup.client.entitlements import Entitlements
from paidup.client.errors import APIConnectionError, APIError, status_error
from paidup.client.tokens import TokenFactory

T = TypeVar("T")

DEADLINE_S = 10.0
FIRST_PAUSE_S = 0.1
RETRYABLE_STATUSES = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.GATEWAY_TIMEOUT,
}


class HttpRequest(NamedTuple):
    """A request of this customer's for a transport to send within `timeout_s` seconds."""

    customer: str | None
    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    timeout_s: float


class HttpResponse(NamedTuple):
    """What a transport received. `retry_after`, `request_id` and `etag` are headers' texts, or empty."""

    status: int
    retry_after: str
    body: bytes
    request_id: str = ""
    etag: str = ""


class RetryBudget:
    """Limits retries to ten in a row, then to one for every ten calls that were answered."""

    def __init__(self, tokens: float = 10.0) -> None:
        self._max_tokens = self._tokens = tokens

    def on_response(self) -> None:
        """Count a call that was answered: a tenth of a retry."""
        self._tokens = min(self._max_tokens, self._tokens + 0.1)

    def take(self) -> bool:
        """Take a token for a retry; False if there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def web_address(base_url: str) -> str:
    """`base_url`, if it is an address. Raises ValueError: a call would be retried until its deadline."""
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"The server's address is one such as https://billing.example.com: {base_url!r}")
    return base_url


class RetryingCaller:
    """Turns a call into requests and pauses, up to the deadline."""

    def __init__(self, base_url: str, token_for: TokenFactory, deadline_s: float = DEADLINE_S) -> None:
        self._base_url = base_url.rstrip("/")
        self._token_for = token_for
        self._deadline_s = deadline_s
        self._retry_budget = RetryBudget()

    def _steps(self, call: ApiCall[T]) -> Generator[HttpRequest | float, HttpResponse | None, T]:
        """Yield a request to send or a pause in seconds, and receive the response, or None if none came.

        Returns the decoded response. Raises APIError.
        """
        deadline, pause_s = time.monotonic() + self._deadline_s, FIRST_PAUSE_S
        request, lost = self._request(call), False
        while True:
            # Half the deadline at most, so that a connection that hangs leaves time for a second attempt.
            timeout_s = min(deadline - time.monotonic(), self._deadline_s / 2)
            response = yield request._replace(timeout_s=timeout_s)
            if response is not None and (200 <= response.status < 300 or _is_unchanged(call, response)):
                self._retry_budget.on_response()
                return _decode(response, call.response_type)
            error = self._retryable_error(call, response, lost)
            lost |= isinstance(error, APIConnectionError)
            if lost and not call.repeatable:
                raise error
            pause = _retry_after_s(response) + pause_s * (0.5 + random.random())  # noqa: S311
            if time.monotonic() + pause >= deadline or not self._retry_budget.take():
                raise error
            yield pause
            pause_s *= 2

    def _request(self, call: ApiCall[T]) -> HttpRequest:
        headers, body = {}, None
        if call.customer is not None:
            headers["Authorization"] = f"Bearer {self._token_for(call.customer)}"
        if call.body is not None:
            headers["Content-Type"] = "application/json"
            body = msgspec.json.encode(call.body)
        if call.etag is not None:
            headers["If-None-Match"] = call.etag
        return HttpRequest(call.customer, call.method, self._base_url + call.path, headers, body, 0.0)

    def _retryable_error(self, call: ApiCall[T], response: HttpResponse | None, lost: bool) -> APIError:
        """Return what to raise if no retry follows. Raises APIStatusError where a retry cannot help.

        `lost`: an earlier attempt got no answer.
        """
        if response is None:
            return APIConnectionError(f"{call.method} {call.path}: no response")
        error = status_error(response.status, response.body, response.request_id, _retry_after_s(response))
        if response.status not in RETRYABLE_STATUSES or error.problem == "stripe-refused":
            self._retry_budget.on_response()
            error.repeated = lost
            raise error
        # After a 429 it is certain that nothing was done; after the others it is not.
        if response.status == HTTPStatus.TOO_MANY_REQUESTS or isinstance(error, APIConnectionError):
            return error
        return APIConnectionError(f"{call.method} {call.path}: {error}")


def _retry_after_s(response: HttpResponse | None) -> float:
    if response is None or not (response.retry_after.isascii() and response.retry_after.isdecimal()):
        return 0.0
    return float(response.retry_after)


def _is_unchanged(call: ApiCall[T], response: HttpResponse) -> bool:
    return call.etag is not None and response.status == HTTPStatus.NOT_MODIFIED


def _decode(response: HttpResponse, response_type: type[T]) -> T:
    if response.status == HTTPStatus.NOT_MODIFIED:
        return cast(T, None)
    try:
        decoded = msgspec.json.decode(response.body, type=response_type)
        if isinstance(decoded, Entitlements):
            return msgspec.structs.replace(decoded, etag=response.etag)
        return decoded
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise APIError(f"Not a response of Paidup's API: {error}") from None
