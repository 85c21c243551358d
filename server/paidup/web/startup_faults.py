"""What is wrong when the application starts, as lines for the operator in place of a traceback.

ASGI servers log the text of `lifespan.startup.failed`, which Starlette fills with the traceback.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paidup.errors import ConfigurationError, PaidupError


class StartupFaults:
    """ASGI middleware of the lifespan. Requests and WebSockets pass unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failed: list[Message] = []

        async def held_back(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                failed.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, held_back)
        except BaseException as error:
            for message in failed:
                await send({**message, "message": _lines(error) or message["message"]})
            raise


STARTUP_FAULTS = Middleware(StartupFaults)
"""Belongs before all other middleware."""


def _lines(error: BaseException) -> str:
    if isinstance(error, ConfigurationError):
        return "\n".join(f"settings: {problem}" for problem in error.problems)
    return str(error) if isinstance(error, PaidupError) else ""
