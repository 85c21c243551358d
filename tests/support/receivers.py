"""A SaaS's own backend: a receiver of outbound events over real HTTP, which may fail, hang or lie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook

from paidup.db.outbound_models import EventEndpoint

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cy1vZi1ldmVudHMhISE="
Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""An answer in place of 204, or None. It may raise, or never return."""


class Receiver:
    """Keeps each verified event that it has answered 2xx to, in order of arrival."""

    def __init__(self) -> None:
        self.url = ""
        self.requests = 0
        self.events: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.behaviours: list[Behaviour] = []
        self.behave: Behaviour | None = None
        self.on_event: Callable[[dict[str, Any]], None] = lambda event: None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        body = await request.read()
        event = Webhook(SECRET).verify(body, dict(request.headers))
        behave = self.behaviours.pop(0) if self.behaviours else self.behave
        if behave is not None:
            answer = await behave(request)
            if answer is not None:
                return answer
        self.ids.append(request.headers["webhook-id"])
        self.events.append(event)
        self.on_event(event)
        return web.Response(status=204)

    async def become_endpoint(self, *types: str, name: str = "backend") -> EventEndpoint:
        """The row of an endpoint here, in the open database."""
        return await EventEndpoint.create(name=name, url=self.url, types=list(types), secret=SECRET)

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def versions(self, account: str) -> list[int]:
        """Those of an account's events, as they have arrived."""
        return [event["data"]["version"] for event in self.events if event["data"]["account"] == account]

    def first_arrivals(self, account: str) -> list[str]:
        """The ids of an account's events, as a receiver that ignores repetitions has seen them."""
        arrived = zip(self.ids, self.events, strict=True)
        return list(dict.fromkeys(name for name, event in arrived if event["data"]["account"] == account))

    def balances(self) -> dict[str, int]:
        """The copy of every balance, by `version`, as docs/events.md tells a receiver to keep it."""
        newest: dict[str, tuple[int, int]] = {}
        for data in (event["data"] for event in self.events if event["data"]["account"]):
            if data["version"] >= newest.get(data["account"], (-1, 0))[0]:
                newest[data["account"]] = (data["version"], data["balance"])
        return {account: balance for account, (_, balance) in newest.items()}


@asynccontextmanager
async def receiving(receiver: Receiver | None = None) -> AsyncIterator[Receiver]:
    receiver = receiver or Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    receiver.url = f"http://127.0.0.1:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()
