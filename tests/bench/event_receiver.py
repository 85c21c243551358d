"""A backend that takes events for `tests.bench.outbound`, in a process of its own; PORT names its port.

For each it keeps the milliseconds from the event's own timestamp to its answer. GET /taken returns them.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class Event(msgspec.Struct):
    type: str
    timestamp: datetime


taken: list[tuple[str, str, float]] = []
decode = msgspec.json.Decoder(Event).decode


async def take(request: Request) -> Response:
    event = decode(await request.body())
    took_ms = (datetime.now(UTC) - event.timestamp).total_seconds() * 1000
    taken.append((request.headers["webhook-id"], event.type, took_ms))
    return Response(status_code=204)


async def read(_: Request) -> Response:
    body = msgspec.json.encode(taken)
    taken.clear()
    return Response(body, media_type="application/json")


async def ready(_: Request) -> Response:
    return Response()


routes = [
    Route("/hook", take, methods=["POST"]),
    Route("/taken", read),
    Route("/readyz", ready),
]


def main() -> None:
    port = int(os.environ["PORT"])
    uvicorn.run(Starlette(routes=routes), port=port, log_level="warning", access_log=False, loop="uvloop")


if __name__ == "__main__":
    main()
