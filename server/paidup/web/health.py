"""/healthz, /readyz, /metrics: for load balancers and Prometheus."""

from __future__ import annotations

from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from paidup import __version__
from paidup.db.connection import probe
from paidup.errors import StorageUnavailable
from paidup.runtime.connection_urls import without_password
from paidup.services import Services
from paidup.web.http import json_response


async def healthz(_: Request) -> Response:
    """Liveness: the event loop responds."""
    return json_response({"status": "ok", "version": __version__})


async def readyz(request: Request) -> Response:
    """Readiness: the database responds, Redis returns our probe messages, and no drain has begun.

    Alarms are shown but do not count: taking the process out of rotation would not help.
    """
    services: Services = request.app.state.services
    accepting = not request.app.state.sockets.draining
    checks = {"database": await probe(), "redis": services.hub.healthy, "accepting": accepting}
    alarms = await services.alarms.current() if checks["database"] else []
    ready = all(checks.values())
    body = {"ready": ready, **checks, "alarms": alarms, "problems": _problems(services, checks["redis"])}
    return json_response(body, 200 if ready else 503)


def _problems(services: Services, redis: bool) -> list[str]:
    """Which address does not answer, without its password."""
    if redis:
        return []
    place = without_password(services.settings.redis_url) or "the embedded Valkey"
    return [f"REDIS_URL: {place} does not answer: {services.hub.error or 'its messages do not come back'}"]


async def metrics(request: Request) -> Response:
    """This process's metrics, and those read from the database: alarms and the reconciler's backlog."""
    services: Services = request.app.state.services
    shown = services.metrics
    database = await probe()
    shown.up.labels("database").set(database)
    shown.up.labels("redis").set(services.hub.healthy)
    try:
        if database:
            (await services.alarms.snapshot()).export(shown)
    except StorageUnavailable:
        database = False
    if not database:
        # Unknown: remove the gauges rather than showing stale values.
        shown.alarm.clear()
        shown.due.clear()
    encode, media_type = choose_encoder(request.headers.get("accept", ""))  # OpenMetrics has exemplars
    return Response(encode(services.metrics.registry), media_type=media_type)


ROUTES = [
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
