"""Keeps the bodies of Stripe's answers from the SDK, which would format them for its log and parse them.

Nobody reads that log, and the SDK's objects are not used: both cost a third of a call. Everything else is
the SDK's: authentication, versions, retries, idempotency and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stripe import AIOHTTPClient


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


class RawAnswerClient(AIOHTTPClient):
    """The SDK's own HTTP client. Of a success, `raw_body` has the body; the SDK reads Stripe's errors itself.

    https://github.com/stripe/stripe-python#configuring-an-http-client
    """

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
