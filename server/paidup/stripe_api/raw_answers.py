"""What is sent beside the SDK's own calls: answers that break off, and calls of which only the body is used.

For each call, the SDK formats four lines for its log, builds headers that are always the same, and parses
the body. Nobody reads that log, and its objects are not used: without them, a read costs half. Everything
else is the SDK's: authentication, versions, retries, idempotency and errors.
https://github.com/stripe/stripe-python#configuring-an-http-client

`_requestor` and its methods are private to the SDK.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import urlencode

import aiohttp
from stripe import AIOHTTPClient, APIConnectionError, StripeClient
from stripe._encode import _api_encode


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


class RawAnswer(NamedTuple):
    """A success. Headers may be read in lower case."""

    body: bytes
    code: int
    headers: Mapping[str, str]

    @property
    def request_id(self) -> str | None:
        return self.headers.get("request-id")


class RawCalls:
    """Makes calls as `client` does, of which only the body is used."""

    def __init__(self, client: StripeClient) -> None:
        self._requestor = client._requestor
        self._http = self._requestor._get_http_client()

    async def __call__(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any],
        key: str | None = None,
        network_retries: int | None = None,
    ) -> RawAnswer:
        """Raises the SDK's errors. `key`: the idempotency key; without one, the SDK makes one for a POST."""
        if network_retries is None:
            network_retries = self._requestor._options.max_network_retries
        url, headers, data = (
            self._read(path, params) if method == "get" else self._write(method, path, params, key)
        )
        body, code, received = await self._http.request_with_retries_async(
            method, url, headers, data, max_network_retries=network_retries, _usage=["raw_request", "async"]
        )
        if not 200 <= code < 300:
            self._requestor._interpret_response(body, code, received, "V1")  # raises
        return RawAnswer(body, code, received)

    def _read(self, path: str, params: Mapping[str, Any]) -> tuple[str, Mapping[str, str], None]:
        query = f"?{urlencode(list(_api_encode(params)))}" if params else ""
        return f"{self._requestor.base_addresses['api']}{path}{query}", self._read_headers, None

    @cached_property
    def _read_headers(self) -> Mapping[str, str]:
        """The same for each read: they depend on the client and on the process."""
        return self._write("get", "/v1", {}, None)[1]

    def _write(
        self, method: str, path: str, params: Mapping[str, Any], key: str | None
    ) -> tuple[str, Mapping[str, str], Any]:
        """Headers with a new idempotency key each time, unless there is one."""
        _, url, headers, data, *_ = self._requestor._args_for_request_with_retries(
            method, path, params, {"idempotency_key": key}, base_address="api", api_mode="V1"
        )
        return url, headers, data
