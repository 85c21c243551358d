"""The asynchronous client, on aiohttp."""

from __future__ import annotations

import asyncio

import aiohttp

from paidup.client.async_methods import AsyncMethods
from paidup.client.outages import AllowDuringOutage
from paidup.client.remembering import MAX_AGE_S
from paidup.client.retries import DEADLINE_S, HttpRequest, HttpResponse, web_address
from paidup.client.tokens import TokenFactory


class AsyncPaidup(AsyncMethods):
    """Asynchronous client. Close it, or use it as an asynchronous context manager.

    `base_url` is the server's address; `token_for` makes a backend token for a user id (`signed_with`).
    It may be made before an event loop runs; its connections belong to the loop that uses it.
    A call is retried for at most `deadline_s` seconds. It then raises APIConnectionError, after which it
    may have succeeded: retry it with the same key. Other errors are subclasses of APIStatusError.
    `outage`: what to do while Paidup does not answer; without it, spends are refused.
    """

    def __init__(
        self,
        base_url: str,
        token_for: TokenFactory,
        deadline_s: float = DEADLINE_S,
        entitlements_max_age_s: float = MAX_AGE_S,
        outage: AllowDuringOutage | None = None,
    ) -> None:
        super().__init__(web_address(base_url), token_for, deadline_s, entitlements_max_age_s, outage)
        self._http: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def close(self) -> None:
        """Close all connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _send(self, request: HttpRequest) -> HttpResponse | None:
        timeout = aiohttp.ClientTimeout(total=request.timeout_s)
        try:
            async with self._session().request(
                request.method,
                request.url,
                data=request.body,
                headers=request.headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                headers = response.headers
                return HttpResponse(
                    response.status,
                    headers.get("Retry-After", ""),
                    await response.read(),
                    headers.get("X-Request-Id", ""),
                    headers.get("ETag", ""),
                )
        except (aiohttp.ClientError, TimeoutError):
            return None

    def _session(self) -> aiohttp.ClientSession:
        """The session of the running loop, opened on first use."""
        loop = asyncio.get_running_loop()
        if self._http is None or self._http.closed or self._loop is not loop:
            self._http, self._loop = aiohttp.ClientSession(), loop
        return self._http
