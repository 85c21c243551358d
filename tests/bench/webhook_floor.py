"""The floor of `tests.bench.webhooks`: a bare route that checks Stripe's signature and commits one insert."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from stripe import WebhookSignature

from paidup.uvicorn_server import UVICORN


def floor() -> Starlette:
    """One bare route, from the environment. uvicorn calls this in each process."""
    url, pool, secret = (os.environ[name] for name in ("DATABASE_URL", "POOL", "SECRET"))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with asyncpg.create_pool(url, min_size=1, max_size=int(pool)) as opened:
            app.state.pool = opened
            yield

    async def webhook(request: Request) -> Response:
        body = await request.body()
        WebhookSignature.verify_header(body, request.headers["stripe-signature"], secret, 300)
        await request.app.state.pool.execute("INSERT INTO deliveries (body) VALUES ($1)", body.decode())
        return Response(b'{"received":true,"outcome":"settled"}', media_type="application/json")

    async def ready(_: Request) -> Response:
        return Response()

    routes = [Route("/webhooks/stripe", webhook, methods=["POST"]), Route("/readyz", ready)]
    return Starlette(routes=routes, lifespan=lifespan)


def serve() -> None:
    port, workers = int(os.environ["PORT"]), int(os.environ["WORKERS"])
    uvicorn.run("tests.bench.webhook_floor:floor", factory=True, port=port, workers=workers, **UVICORN)


if __name__ == "__main__":
    serve()
