"""The demo's calendar where the sandbox imitates Stripe: the wall clock plus the sandbox's offset.

Owns what is known of that offset: learned anew each second, and at once when the page moves the
clock, so that after the answer both agree. Refuses to move anything back.
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

from paidup.clock import now
from paidup.errors import StripeUnavailable
from paidup.web.auth import Authenticate
from paidup.web.http import json_response, read_json
from paidup_demo.sandbox.clock import DAY_S, add_interval

LOOK_EVERY_S = 1.0
ANSWER_WITHIN_S = 20.0  # a year's renewals happen on the way


class MoveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the clock goes ahead; a month is one by the calendar."""

    days: Annotated[int, msgspec.Meta(ge=0, le=366)] = 0
    months: Annotated[int, msgspec.Meta(ge=0, le=12)] = 0


class SandboxClock:
    """Calling it says what time it is for the sandbox, UTC."""

    def __init__(self, sandbox: str) -> None:
        self._url = f"{sandbox}/sandbox/clock"
        self._offset = timedelta()
        self._one_at_a_time = asyncio.Lock()
        self._http: aiohttp.ClientSession | None = None

    def __call__(self) -> datetime:
        return now() + self._offset

    @asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """The sandbox's clock is looked at again and again for the length of the block."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)) as http:
            self._http = http
            with suppress(StripeUnavailable):
                await self._look()  # before anything asks what is due
            follower = asyncio.create_task(self._follow(), name="sandbox clock")
            try:
                yield
            finally:
                follower.cancel()
                await asyncio.gather(follower, return_exceptions=True)
                self._http = None

    async def advance(self, days: int, months: int) -> None:
        """Move the sandbox's clock, and this one with it. Raises StripeUnavailable."""
        begin = int(self().timestamp())
        end = add_interval(begin, "month", months, self().day) + days * DAY_S
        await self._ask("POST", {"advance_seconds": end - begin})

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            with suppress(StripeUnavailable):  # it may be starting again
                await self._look()

    async def _look(self) -> None:
        await self._ask("GET", None)

    async def _ask(self, method: str, body: Any) -> None:
        assert self._http is not None, "the clock is asked outside of `followed`"
        async with self._one_at_a_time:  # an older answer must not come after a newer one
            try:
                async with self._http.request(method, self._url, json=body) as response:
                    response.raise_for_status()
                    seconds = int((await response.json())["offset_seconds"])
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                raise StripeUnavailable("The sandbox does not answer.") from error
            self._offset = timedelta(seconds=seconds)


def routes(clock: SandboxClock, authenticate: Authenticate) -> list[Route]:
    """GET /demo/clock says what time it is; POST moves it."""

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
