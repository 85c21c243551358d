"""Reads server-sent events as a browser does, each frame held against docs/asyncapi.yaml."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.support.contracts import check_answer, check_frame
from tests.support.paidup import ORIGIN, Customer

EVENT_STREAM = "text/event-stream"


@dataclass
class Event:
    """One event, or one comment; `retry_ms` is the delay that it sets."""

    frame: Any = None
    id: str | None = None
    retry_ms: int | None = None
    comment: str | None = None


class EventStream:
    """One open stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.received: list[Event] = []

    async def events(self) -> AsyncIterator[Event]:
        """Each event as it comes, to the end of the stream. An empty line ends an event."""
        event = Event()
        async for line in self.response.content:
            text = line.decode().rstrip("\n")
            name, _, value = text.partition(":")
            value = value.removeprefix(" ")
            if text.startswith(":"):
                event.comment = value
            elif name == "data":
                check_frame(self.response.url.raw_path, value)
                event.frame = json.loads(value)
            elif name == "id":
                event.id = value
            elif name == "retry":
                event.retry_ms = int(value)
            elif not text and event != Event():
                self.received.append(event)
                yield event
                event = Event()

    async def until(self, within: float = 60.0, **wanted: Any) -> Any:
        """The first frame that shows `wanted`."""
        async with asyncio.timeout(within):
            async for event in self.events():
                frame = event.frame
                if frame is not None and all(frame.get(name) == value for name, value in wanted.items()):
                    return frame
        raise AssertionError(f"the stream ended before {wanted}: {self.received}")

    async def rest(self, within: float = 60.0) -> list[Any]:
        """The frames up to the end of the stream."""
        async with asyncio.timeout(within):
            return [event.frame async for event in self.events() if event.frame is not None]


@asynccontextmanager
async def streaming(
    customer: Customer, path: str, ticket: str, origin: str = ORIGIN, **headers: str
) -> AsyncIterator[EventStream]:
    """A stream at this path of the customer's server, below /api. A refusal is held against the document."""
    url = f"{customer.paidup.url}/api/{path}"
    sent = {"Origin": origin, **({"Paidup-Ticket": ticket} if ticket else {}), **headers}
    async with customer.http.get(url, headers=sent) as response:
        if response.content_type == EVENT_STREAM:
            check_answer("GET", response.url.raw_path, response.status, response.content_type, b"")
        else:
            await response.read()
        yield EventStream(response)
