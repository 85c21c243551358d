"""The SDK's HTTP client with two differences: answers that break off, and bodies that it need not parse.

The SDK would format each body for its log and parse it: nobody reads that log, and its objects are not used.
Both cost a third of a call. Everything else is the SDK's: authentication, versions, retries, idempotency and
errors. https://github.com/stripe/stripe-python#configuring-an-http-client
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import aiohttp
from stripe import AIOHTTPClient, APIConnectionError


class _AnswerHeaders(Mapping[str, str]):
    """The headers of an answer, with its body, which the SDK passes on as they are."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self._headers = headers
        self.body = body

    def __getitem__(self, name: str) -> str:
        return self._headers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._headers)

    def __len__(self) -> int:
        return len(self._headers)


class WholeAnswerClient(AIOHTTPClient):
    """An answer that breaks off is a failed connection, which the SDK retries with the same idempotency key.

    The SDK's own class raises aiohttp's errors there, and retries only what fails before the body. Before the
    request, and before its answer is made use of, messages have a turn: each of these steps takes a fraction
    of a millisecond.
    """

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        await asyncio.sleep(0)
        try:
            answer = await super().request_async(method, url, headers, post_data)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise APIConnectionError("The answer broke off.", should_retry=True) from error  # type: ignore[no-untyped-call]
        await asyncio.sleep(0)
        return answer


class RawAnswerClient(WholeAnswerClient):
    """Of a success, `raw_body` has the body; the SDK reads Stripe's errors itself."""

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        body, status, received = await super().request_async(method, url, headers, post_data)
        if not 200 <= status < 300:
            return body, status, received
        return b"{}", status, _AnswerHeaders(received, body)


def raw_body(answer: Any) -> bytes:
    """The body of an answer to `raw_request_async`, whichever HTTP client its `StripeClient` has."""
    headers = answer.headers
    return headers.body if isinstance(headers, _AnswerHeaders) else str(answer.body).encode()
