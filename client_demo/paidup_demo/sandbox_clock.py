"""The demo's clock with the sandbox: the wall clock plus the sandbox's offset.

The offset is polled every second, and updated immediately when the page moves the clock. It only moves
forward.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import aiohttp
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup.errors import StripeUnavailable
from paidup.runtime.clock import now
from paidup.web.auth import Authenticate
from paidup.web.http import json_response, read_json
from paidup_demo.sandbox.clock import DAY_S, add_interval

POLL_INTERVAL_S = 1.0
ANSWER_WITHIN_S = 20.0  # it may include a year's renewals


class MoveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far to move the clock; months are calendar months."""

    days: Annotated[int, msgspec.Meta(ge=0, le=366)] = 0
    months: Annotated[int, msgspec.Meta(ge=0, le=12)] = 0


class SandboxClock:
    """A callable that returns the sandbox's time in UTC."""

    def __init__(self, sandbox: str) -> None:
        self._url = f"{sandbox}/sandbox/clock"
        self._offset = timedelta()
        self._one_at_a_time = asyncio.Lock()
        self._http: aiohttp.ClientSession | None = None

    def __call__(self) -> datetime:
        return now() + self._offset

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Poll the sandbox's clock within the block."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)) as http:
            self._http = http
            with suppress(StripeUnavailable):
                await self._refresh()  # before anything checks what is due
            follower = asyncio.create_task(self._follow(), name="sandbox clock")
            try:
                yield
            finally:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)
                self._http = None

    async def advance(self, days: int, months: int) -> None:
        """Move the sandbox's clock, and this one with it. Raises StripeUnavailable.

        Where it ends in the hour in which a renewal's invoice is a draft, it goes on to the end of that hour.
        """
        begin = int(self().timestamp())
        end = add_interval(begin, "month", months, self().day) + days * DAY_S
        await self._request("POST", {"advance_seconds": end - begin, "past_drafts": True})

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            with suppress(StripeUnavailable):  # it may be restarting
                await self._refresh()

    async def _refresh(self) -> None:
        await self._request("GET", None)

    async def _request(self, method: str, body: Any) -> None:
        assert self._http is not None, "the clock is used outside of `followed`"
        async with self._one_at_a_time:  # so that an older answer cannot overwrite a newer one
            try:
                async with self._http.request(method, self._url, json=body) as response:
                    response.raise_for_status()
                    seconds = int((await response.json())["offset_seconds"])
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise StripeUnavailable("The sandbox does not answer.") from error
            self._offset = timedelta(seconds=seconds)


def routes(clock: SandboxClock, authenticate: Authenticate) -> list[Route]:
    """GET /demo/clock returns the time; POST moves it."""

    async def read(request: Request) -> Response:
        await authenticate(request)
        return json_response({"now": clock().astimezone(UTC)})

    async def move(request: Request) -> Response:
        await authenticate(request)
        body = await read_json(request, MoveBody)
        await clock.advance(body.days, body.months)
        return json_response({"now": clock().astimezone(UTC)})

    return [
        Route("/demo/clock", read, methods=["GET"]),
        Route("/demo/clock", move, methods=["POST"]),
    ]
